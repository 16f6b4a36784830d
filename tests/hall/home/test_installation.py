"""What a user types to install an extra, by how edge-llava itself was installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_llava.home.installation import install_command

PLAIN = "pip install 'edge-llava[serve]'"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """install(text): as if edge-llava were installed, with this direct_url.json; None: with none."""

    def run(text: str | None) -> None:
        information = tmp_path / "site" / "edge_llava-0.1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-llava\nVersion: 0.1.0\n")
        if text is not None:
            (information / "direct_url.json").write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "site")

    return run


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone, in a directory that a shell would split."""
    path = tmp_path / "my clone"
    path.mkdir()
    (path / "pyproject.toml").touch()
    return path


@pytest.mark.parametrize(("facts", "option"), [({"editable": True}, "-e "), ({}, ""), ({"editable": False}, "")])
def test_from_a_clone(install: Callable[[str], None], clone: Path, facts: dict[str, bool], option: str) -> None:
    install(json.dumps({"url": clone.as_uri(), "dir_info": facts}))
    assert "%20" in clone.as_uri()
    assert install_command("serve") == f"pip install {option}'{clone}[serve]'"
    assert install_command() == f"pip install {option}'{clone}'"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"url": 7, "dir_info": {}}',
        '{"url": "file:///no/such/clone", "dir_info": {"editable": true}}',
        '{"url": "file:///tmp/edge_llava-0.1.0-py3-none-any.whl", "archive_info": {}}',
        '{"url": "https://git.example/edge-llava.git", "vcs_info": {"vcs": "git", "commit_id": "0"}}',
    ],
)
def test_from_a_wheel_or_an_index_or_unknown(install: Callable[[str | None], None], text: str | None) -> None:
    install(text)
    assert install_command("serve") == PLAIN
    assert install_command() == "pip install edge-llava"


@pytest.mark.parametrize(
    ("left", "begins"),
    [("pipx_metadata.json", "pipx install --force "), ("uv-receipt.toml", "uv tool install "), ("x", "pip install ")],
)
def test_environments_of_pipx_and_uv(
    install: Callable[[None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, begins: str
) -> None:
    install(None)
    (tmp_path / left).touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert install_command("serve") == f"{begins}'edge-llava[serve]'"


def test_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert install_command("serve") == PLAIN
