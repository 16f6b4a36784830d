"""The workflow of releases and the forms of issues, as far as they can be checked without GitHub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def jobs():
    return read(GITHUB / "workflows" / "release.yml")["jobs"]


def test_actions_are_pinned_by_major_version(jobs):
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", one)] == []


def test_workflow_runs_what_is_here(jobs):
    commands = " ".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)
    scripts = re.findall(r"\S+\.py\b", commands)
    assert scripts == ["packaging/release.py"]
    assert all((ROOT / path).is_file() for path in [*scripts, *re.findall(r"--constraint (\S+)", commands)])
    assert all(job in jobs for one in jobs.values() for job in [one.get("needs")] if job)
    made = {step["with"]["name"] for step in jobs["llama-cpp"]["steps"] if "upload" in step.get("uses", "")}
    (taken,) = (step["with"]["pattern"] for step in jobs["release"]["steps"] if "download" in step.get("uses", ""))
    assert {name.partition("$")[0] + "*" for name in made} == {taken}


def test_only_the_last_job_may_write(jobs):
    assert read(GITHUB / "workflows" / "release.yml")["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs.items() if "permissions" in job] == ["release"]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_github_asks_for(form):
    """Source: GitHub's documentation, "Syntax for GitHub's form schema"."""
    content = read(form)
    assert content.keys() >= {"name", "description", "body"}
    for field in content["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert "value" in field["attributes"] if field["type"] == "markdown" else "label" in field["attributes"]
    ids = [field["id"] for field in content["body"] if "id" in field]
    assert len(ids) == len(set(ids)) > 0
