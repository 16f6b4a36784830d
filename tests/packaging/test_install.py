"""Setting up an environment: what it says before it downloads, and that CUDA comes only where it was asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BINARIES = "Scripts" if os.name == "nt" else "bin"


@pytest.fixture(scope="module")
def install(script):
    return script("install")


def entry(name, url, **info):
    """A package of a report of pip."""
    return {"metadata": {"name": name, "version": "1"}, "download_info": {"url": url, **info}}


def wheel(directory, name, version, requires=(), program=None):
    """A wheel without modules, in a directory that is an index of pip; `program` is the text of its only script."""
    place = directory / name
    place.mkdir(parents=True, exist_ok=True)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(place / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {one}\n" for one in requires))
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
        if program:
            script = zipfile.ZipInfo(f"{name}-{version}.data/scripts/{name}")
            script.external_attr = 0o100755 << 16  # a file that may be executed
            file.writestr(script, program)
    links = []
    for path in sorted(place.glob("*.whl")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        links.append(f'<a href="{path.name.replace("+", "%2B")}#sha256={digest}">{path.name}</a>')
    (place / "index.html").write_text("<!DOCTYPE html>" + "".join(links))


def test_reads_what_pip_would_install(install):
    report = {
        "install": [
            entry("NVIDIA_cublas.cu13", "https://files.example/nvidia_cublas-1-py3-none-any.whl"),
            entry("llama_cpp_python", "https://files.example/llama_cpp_python-1.tar.gz"),
            entry("edge-llava", "file:///clone", dir_info={"editable": True}),
        ]
    }
    packages = install.read_report(report)
    assert [(one.name, one.is_compiled) for one in packages] == [
        ("nvidia-cublas-cu13", False),
        ("llama-cpp-python", True),
    ]


def test_knows_what_only_cuda_needs(install):
    sizes = {"torch": 5, "nvidia-nccl-cu13": 2, "triton": 3, "cuda-bindings": None, "numpy": 9, "tritonclient": 7}
    packages = [install.Package(name, f"https://files.example/{name}.whl", size) for name, size in sizes.items()]
    assert [one.name for one in install.find_cuda(packages)] == ["triton", "nvidia-nccl-cu13", "cuda-bindings"]


def test_says_sizes_and_what_is_compiled(install):
    url = "https://files.example/a-1.whl"
    sized = [install.Package("a", url, 526_574_961), install.Package("b", url, 423_138_758)]
    assert install.describe_size(sized) == "950 MB"
    assert install.describe_size([*sized, install.Package("c", url, 60_000_000)]) == "1.0 GB"
    assert install.describe_size([*sized, install.Package("c", url)]) == "950 MB and files of unknown size"
    assert "compiled" not in install.describe_plan(sized)
    source = install.Package("llama-cpp-python", "https://files.example/llama_cpp_python-1.tar.gz", 76_589_250)
    assert "2 packages, 503 MB" in install.describe_plan([sized[1], install.Package("l", url, 80_000_000)])
    assert "compiled" in install.describe_plan([source])


def test_measures_files_and_survives_servers_that_do_not_answer(install, tmp_path):
    file = tmp_path / "a b-1.whl"
    file.write_bytes(b"12345")
    assert install.measure(install.Package("a", file.as_uri())).size == 5
    nobody = install.Package("a", "http://127.0.0.1:9/a-1.whl")  # the discard port: nothing listens there
    assert install.measure(nobody) == nobody


def test_measures_nothing_where_a_server_answers_garbage(install):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        package = install.Package("a", f"http://127.0.0.1:{server.getsockname()[1]}/a.whl")
        assert install.measure(package) == package
        thread.join()


# what uv does with our arguments, but from the index of CPUS; nothing else of it is needed here
UV = """#!python
import os, subprocess, sys
assert sys.argv[1:3] == ["pip", "install"], sys.argv
python, backend = (sys.argv[sys.argv.index(option) + 1] for option in ("--python", "--torch-backend"))
assert backend == "cpu" and sys.argv[-1] == "torch", sys.argv
constraint = sys.argv[sys.argv.index("--constraint") + 1]
index = ["--no-deps", "--constraint", constraint, "--index-url", os.environ["CPUS"]]
sys.exit(subprocess.run([python, "-m", "pip", "install", *index, "torch"]).returncode)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment of its own, pip's usual index with a torch that needs CUDA, and one with a torch for CPUs."""
    pytest.importorskip("pip")
    directory = tmp_path_factory.mktemp("installing")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    (packages,) = (directory / "venv").rglob("site-packages")
    for folder in {file.parts[0] for file in distribution("pip").files or () if file.parts[0].startswith("pip")}:
        shutil.copytree(distribution("pip").locate_file(folder), packages / folder)  # much faster than ensurepip
    usual, cpus = directory / "usual", directory / "cpus"
    wheel(usual, "torch", "2.0", ["nvidia-cublas; platform_system != 'Plan9'", "filelock"])
    wheel(usual, "nvidia-cublas", "1.0")
    wheel(usual, "filelock", "1.0")
    wheel(usual, "wanted", "1.0", ["torch"])
    wheel(cpus, "torch", "2.0+cpu", ["filelock"])
    wheel(cpus, "filelock", "666")
    wheel(directory / "links", "uv", "0.8", program=UV)
    (directory / "constraints.txt").write_text("torch==2.0\n")
    return directory


def run_install(environment, *arguments, links=""):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (environment / "usual").as_uri()}
    settings |= {"CPUS": (environment / "cpus").as_uri(), "PIP_FIND_LINKS": links}
    python = environment / "venv" / BINARIES / "python"
    command = [python, ROOT / "packaging" / "install.py", "--constraint", environment / "constraints.txt", *arguments]
    run = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    names = {path.stem for path in (environment / "venv").rglob("*.dist-info")}
    return run, {name for name in names if name.partition("-")[0] not in ("pip", "setuptools")}


def test_refuses_cuda_until_the_user_chooses(environment):
    run, installed = run_install(environment, "wanted")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "brings CUDA (nvidia-cublas 0 MB" in run.stderr
    assert "TORCH_INDEX=URL" in run.stderr
    assert "CUDA=1" in run.stderr
    assert installed == set()

    run, installed = run_install(environment, "--torch-index", (environment / "cpus").as_uri(), "wanted")
    assert run.returncode == 0, run.stdout + run.stderr
    assert installed == {"torch-2.0+cpu", "filelock-1.0", "wanted-1.0"}  # nothing but torch is from that index
    assert "2 packages, 0 MB at most" in run.stdout


@pytest.mark.skipif(os.name == "nt", reason="torch brings no CUDA there, and scripts are programs")
def test_takes_torch_by_uv_where_it_can(environment):
    python = environment / "venv" / BINARIES / "python"
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torch", "wanted"], check=True)
    run, installed = run_install(environment, "wanted", links=str(environment / "links" / "uv"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert {"torch-2.0+cpu", "wanted-1.0"} <= installed
    assert "uv-0.8" not in installed


def test_installs_cuda_where_it_is_asked_for(environment):
    run, installed = run_install(environment, "--cuda", "--ignore-installed", "wanted")
    assert run.returncode == 0, run.stdout + run.stderr
    assert {"torch-2.0", "nvidia_cublas-1.0"} <= installed


@pytest.mark.parametrize(
    ("flags", "chosen", "expected"),
    [
        ("fpu avx512f amx_int8 amx_tile", None, "-DCMAKE_CXX_FLAGS=-fno-dse"),
        ("fpu avx512f amx_int8 amx_tile", "-DGGML_CUDA=on", "-DGGML_CUDA=on"),
        ("fpu avx2", None, None),
    ],
)
def test_has_amx_compiled_rightly(install, tmp_path, monkeypatch, flags, chosen, expected):
    monkeypatch.setenv("CMAKE_ARGS", chosen or "")  # so that it is put back
    if not chosen:
        monkeypatch.delenv("CMAKE_ARGS")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    install.choose_compiler_flags(tmp_path / "cpuinfo")
    assert os.environ.get("CMAKE_ARGS") == expected
    install.choose_compiler_flags(tmp_path / "missing")
    assert os.environ.get("CMAKE_ARGS") == expected


def test_ends_with_pips_exit_code_and_without_a_traceback(environment):
    run, _ = run_install(environment, "no-such-package")
    assert run.returncode == 1
    assert "no-such-package" in run.stderr
    assert "Traceback" not in run.stderr
