"""Releases: tag, version and changelog agree, and checksums are what other programs compute."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tomllib")
ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

- nothing of this

## [0.2.0] - 2026-12-31

### Added

- a thing

## [0.2.0rc1] - 2026-12-30

- another thing

## [0.1.0]

- without a date
"""


@pytest.fixture(scope="module")
def release(script):
    return script("release")


def test_notes_are_the_versions_section_alone(release):
    assert release.read_notes(CHANGELOG, "0.2.0") == "### Added\n\n- a thing\n"
    assert release.read_notes(CHANGELOG, "0.2.0rc1") == "- another thing\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (CHANGELOG, "0.3.0"),
        (CHANGELOG, "0.1.0"),  # no date
        (CHANGELOG, "0x2.0"),
        (CHANGELOG + "## [0.2.0] - 2027-01-01\n\n- twice\n", "0.2.0"),
        ("## [0.2.0] - 2026-12-31\n\n## [0.1.0] - 2026-12-30\n\n- a thing\n", "0.2.0"),
    ],
)
def test_refuses_a_changelog_that_does_not_say_what_changed(release, text, version):
    with pytest.raises(SystemExit, match=r"CHANGELOG\.md"):
        release.read_notes(text, version)


def test_the_changelog_here_can_be_read_once_it_is_dated(release):
    version = release.read_version((ROOT / "pyproject.toml").read_text("utf-8"))
    text = (
        (ROOT / "docs" / "CHANGELOG.md")
        .read_text("utf-8")
        .replace(f"[{version}] - unreleased", f"[{version}] - 2026-12-31")
    )
    assert "### Added" in release.read_notes(text, version)


def test_a_tag_is_the_versions(release):
    release.check_tag("v0.2.0", "0.2.0")
    for tag in ("0.2.0", "v0.2", "v0.2.0rc1", "v0.2.0-1"):
        with pytest.raises(SystemExit, match=r"tag v0\.2\.0"):
            release.check_tag(tag, "0.2.0")


def test_checksums_are_those_of_sha256sum(release, tmp_path):
    (tmp_path / "b-1.whl").write_bytes(b"")
    (tmp_path / "a-1.tar.gz").write_bytes(b"abc")
    release.write_sums(tmp_path)
    text = release.write_sums(tmp_path).read_text()  # a second time, beside the first ones
    # Source of the digests: FIPS 180-2, appendix B.1, and the empty message
    assert text == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a-1.tar.gz\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b-1.whl\n"
    )
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
