from __future__ import annotations

import pytest

from edge_llava.device.control_group import ControlGroup, read_control_group
from edge_llava.device.cores import this_cores
from edge_llava.device.facts import count_cpus
from edge_llava.device.threads import default_threads, thread_choices, usable_threads
from edge_llava.device.tree import Tree


def test_on_this_machine():
    assert 1 <= default_threads() <= this_cores().n_big
    assert thread_choices()[0] == default_threads() == usable_threads(None)
    assert max(thread_choices()) <= count_cpus()
    assert len(set(thread_choices())) == len(thread_choices())


@pytest.mark.parametrize(
    ("n_threads", "quota", "n"), [(8, None, 8), (8, 1.5, 2), (8, 1.0, 1), (8, 0.25, 1), (2, 3.5, 2)]
)
def test_no_more_threads_than_cpu_time(n_threads, quota, n):
    assert ControlGroup(n_cpus=quota).at_most(n_threads) == n


@pytest.fixture
def tree(tmp_path):
    """tree({place: text}) -> the root of a made-up system."""

    def make(files):
        for place, text in files.items():
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


GROUPS = "sys/fs/cgroup"
VERSION_1 = "4:memory:/a\n2:cpu,cpuacct:/docker/a\n1:name=systemd:/\n0::/"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "100000 0"}, None),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": ""}, None),
        ({"proc/self/cgroup": "0::/a/b", f"{GROUPS}/a/cpu.max": "50000 100000", f"{GROUPS}/a/b/cpu.max": "max 1"}, 0.5),
        ({"proc/self/cgroup": "0::/a/b", f"{GROUPS}/a/cpu.max": "9 2", f"{GROUPS}/a/b/cpu.max": "4 2"}, 2.0),
        ({"proc/self/cgroup": "0::/../host", "sys/fs/host/cpu.max": "1 1", f"{GROUPS}/cpu.max": "5 2"}, 2.5),
        ({"proc/self/cgroup": "0::/of/the/host", f"{GROUPS}/cpu.max": "200000 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": VERSION_1,
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1",
                f"{GROUPS}/cpu/docker/a/cpu.cfs_quota_us": "150000",
                f"{GROUPS}/cpu/docker/a/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": VERSION_1,
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_quota_us": "100000",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_period_us": "50000",
            },
            2.0,
        ),
        ({f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1", f"{GROUPS}/cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_nearest_limit_is_found(files, quota, tree):
    assert read_control_group(Tree(tree(files))).n_cpus == quota
