"""Opening a bundle, and the digests that are compared once and then remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_llava.bundle.bundle import Bundle, describe_file, open_bundle
from edge_llava.errors import BundleError
from edge_llava.home.directories import bundles_directory, set_default_bundle
from edge_llava.home.progress import ProgressEvent

N_FILES = 5


def refuse(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    return str(caught.value)


class Reads:
    """A progress callback that counts the bytes that were compared."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []

    def __call__(self, event: ProgressEvent) -> None:
        self.events.append(event)

    @property
    def n_bytes(self) -> int:
        return self.events[-1].done if self.events else 0


def verify(directory: Path, trust_earlier: bool = True) -> int:
    """Compares the digests and returns how many bytes were read for it."""
    reads = Reads()
    Bundle.open(directory).verify_digests(trust_earlier=trust_earlier, progress=reads)
    return reads.n_bytes


def keep_times(path: Path, change: Callable[[Path], object]) -> None:
    """Changes a file and restores its old times."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_opens(small_bundle: Path) -> None:
    bundle = Bundle.open(str(small_bundle))
    assert bundle.path == small_bundle
    assert bundle.name == "small"
    assert bundle.file("language") == small_bundle / "language.gguf"
    assert bundle.n_bytes == sum(path.stat().st_size for path in small_bundle.iterdir() if path.suffix != ".json")


def test_relative_path_becomes_absolute(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_bundle.parent)
    assert Bundle.open("small").path == small_bundle


def test_missing_directory(tmp_path: Path) -> None:
    assert refuse(tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'} is not a bundle: it has no manifest.json. "
        "Make one: edge-llava convert CHECKPOINT -o DIR"
    )


def test_file_in_place_of_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert refuse(path).startswith(f"{path} is not a bundle: it has no manifest.json.")


def test_checkpoint_directory_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert refuse(tmp_path).endswith(f"It looks like a checkpoint: edge-llava convert {tmp_path}")


def test_missing_and_truncated_and_extended_files_are_all_named(small_bundle: Path) -> None:
    (small_bundle / "vision.onnx.data").unlink()
    os.truncate(small_bundle / "language.gguf", 1000)
    with (small_bundle / "parity.safetensors").open("ab") as file:
        file.write(b"x")
    assert refuse(small_bundle).splitlines() == [
        f"{small_bundle} is damaged:",
        "  - language.gguf has 1000 bytes, expected 32768",
        "  - parity.safetensors has 7 bytes, expected 6",
        "  - vision.onnx.data is missing",
        "Convert the checkpoint again, or fetch the bundle again: edge-llava pull OWNER/NAME --force",
    ]


def test_directory_in_place_of_a_file(small_bundle: Path) -> None:
    (small_bundle / "projector.gguf").unlink()
    (small_bundle / "projector.gguf").mkdir()
    assert "projector.gguf is missing" in refuse(small_bundle)


def test_manifest_that_is_not_utf8(small_bundle: Path) -> None:
    manifest = small_bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"llava-hf", b"llav\xe9-hf"))
    assert refuse(small_bundle) == f"{manifest} is not UTF-8 text. " + (
        "Convert the checkpoint again, or fetch the bundle again: edge-llava pull OWNER/NAME --force"
    )


def test_manifest_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    assert refuse(tmp_path).startswith(f"{tmp_path / 'manifest.json'} cannot be read: ")


def test_edited_manifest(small_bundle: Path) -> None:
    manifest = small_bundle / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    data["language"]["n_embd"] = 5120
    manifest.write_text(json.dumps(data), encoding="utf-8")
    assert refuse(small_bundle).splitlines()[:2] == [
        f"{manifest} is not a valid manifest:",
        "  - projector.out_features 4096 != language.n_embd 5120",
    ]


def test_manifest_cut_short(small_bundle: Path) -> None:
    manifest = small_bundle / "manifest.json"
    os.truncate(manifest, manifest.stat().st_size - 10)
    assert "is not JSON" in refuse(small_bundle)


def test_digests_hold(small_bundle: Path) -> None:
    reads, bundle = Reads(), Bundle.open(small_bundle)
    bundle.verify_digests(trust_earlier=False, progress=reads)
    assert [event.stage for event in reads.events] == ["checking small"] * N_FILES
    assert {event.total for event in reads.events} == {bundle.n_bytes}
    done = [event.done for event in reads.events]
    assert done == sorted(set(done))
    assert done[-1] == bundle.n_bytes


@pytest.mark.parametrize("trust_earlier", [True, False])
def test_every_changed_file_is_named(small_bundle: Path, trust_earlier: bool) -> None:
    flip(small_bundle / "language.gguf")
    flip(small_bundle / "parity.safetensors", at=5)
    bundle = Bundle.open(small_bundle)
    with pytest.raises(BundleError) as caught:
        bundle.verify_digests(trust_earlier=trust_earlier)
    headline, language, parity, advice = str(caught.value).splitlines()
    assert headline == f"{small_bundle} was changed or damaged:"
    wanted = bundle.manifest.files["language"].sha256[:12]
    found = describe_file(small_bundle / "language.gguf", small_bundle).sha256[:12]
    assert language == f"  - language.gguf: its sha256 is {found}..., expected {wanted}..."
    assert parity.startswith("  - parity.safetensors: its sha256 is ")
    assert advice.endswith("or fetch the bundle again: edge-llava pull OWNER/NAME --force")


def test_nothing_is_remembered_of_a_changed_bundle(small_bundle: Path, home: Path) -> None:
    flip(small_bundle / "language.gguf")
    with pytest.raises(BundleError):
        verify(small_bundle)
    assert not (home / "checked.json").exists()


def test_remembers_what_was_verified(small_bundle: Path) -> None:
    everything = Bundle.open(small_bundle).n_bytes
    assert verify(small_bundle) == everything
    assert verify(small_bundle) == 0
    assert verify(small_bundle, trust_earlier=False) == everything


def test_changed_mtime_is_read_again(small_bundle: Path) -> None:
    verify(small_bundle)
    path = small_bundle / "language.gguf"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert verify(small_bundle) == path.stat().st_size


def test_changed_content_is_found_by_its_mtime(small_bundle: Path) -> None:
    verify(small_bundle)
    path = small_bundle / "language.gguf"
    modified_ns = path.stat().st_mtime_ns
    flip(path)
    os.utime(path, ns=(0, modified_ns + 1))
    with pytest.raises(BundleError, match=r"language\.gguf"):
        verify(small_bundle)


def test_memory_ends_with_the_digest(small_bundle: Path) -> None:
    """The same file is not trusted under a manifest with another digest."""
    verify(small_bundle)
    manifest = small_bundle / "manifest.json"
    digest = Bundle.open(small_bundle).manifest.files["parity"].sha256
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(digest, "0" * 64), encoding="utf-8")
    with pytest.raises(BundleError, match=r"parity\.safetensors"):
        verify(small_bundle)


def test_only_a_full_check_sees_a_change_that_hides_its_time(small_bundle: Path) -> None:
    verify(small_bundle)
    keep_times(small_bundle / "language.gguf", flip)
    assert verify(small_bundle) == 0
    with pytest.raises(BundleError, match=r"language\.gguf"):
        verify(small_bundle, trust_earlier=False)


def test_memory_is_per_directory(small_bundle: Path, add_bundle: Callable[[Path], Path], tmp_path: Path) -> None:
    other = add_bundle(tmp_path / "other")
    verify(small_bundle)
    assert verify(other) == Bundle.open(other).n_bytes
    assert (verify(small_bundle), verify(other)) == (0, 0)


def test_memory_drops_bundles_that_are_gone(
    small_bundle: Path, add_bundle: Callable[[Path], Path], tmp_path: Path, home: Path
) -> None:
    verify(small_bundle)
    small_bundle.rename(tmp_path / "moved")
    verify(add_bundle(tmp_path / "other"))
    known = json.loads((home / "checked.json").read_text(encoding="utf-8"))
    assert {Path(path).parent for path in known} == {tmp_path / "other"}
    assert len(known) == N_FILES


def test_the_converter_need_not_read_again(small_bundle: Path) -> None:
    Bundle.open(small_bundle).remember_digests()
    assert verify(small_bundle) == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b"[" * 100_000,
        b'{"x": ' + b"9" * 5000 + b"}",
        json.dumps({"a" * 5000: [1, 2, "3"], "\0": None, "": {}}).encode(),
    ],
    ids=["empty", "text", "binary", "list", "null", "deep", "huge number", "impossible paths"],
)
def test_damaged_memory_is_ignored(small_bundle: Path, home: Path, damage: bytes) -> None:
    (home / "checked.json").write_bytes(damage)
    assert verify(small_bundle) == Bundle.open(small_bundle).n_bytes


def test_memory_with_wrong_values_is_ignored(small_bundle: Path, home: Path) -> None:
    verify(small_bundle)
    path = home / "checked.json"
    known = dict.fromkeys(json.loads(path.read_text(encoding="utf-8")), "yes")
    path.write_text(json.dumps(known), encoding="utf-8")
    assert verify(small_bundle) == Bundle.open(small_bundle).n_bytes
    assert verify(small_bundle) == 0


def test_home_that_cannot_be_written(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "file"))
    everything = Bundle.open(small_bundle).n_bytes
    assert [verify(small_bundle), verify(small_bundle)] == [everything, everything]
    assert (tmp_path / "file").read_text() == "in the way"


def test_file_that_vanishes_after_opening(small_bundle: Path) -> None:
    verify(small_bundle)
    bundle = Bundle.open(small_bundle)
    bundle.file("vision").unlink()
    flip(bundle.file("language"))
    with pytest.raises(BundleError) as caught:
        bundle.verify_digests(trust_earlier=True)
    assert "vision.onnx cannot be read: No such file" in str(caught.value)
    assert "language.gguf: its sha256 is " in str(caught.value)


def test_describe_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "abc").write_bytes(b"abc")
    entry = describe_file(tmp_path / "sub" / "abc", tmp_path)
    assert (entry.path, entry.bytes) == ("sub/abc", 3)
    assert entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_a_bundle_is_found_by_name_by_directory_by_default_or_is_open_already(small_bundle: Path) -> None:
    home = bundles_directory()
    home.mkdir(parents=True)
    (home / "mine").symlink_to(small_bundle, target_is_directory=True)
    set_default_bundle("mine")
    opened = open_bundle(small_bundle)
    assert opened == Bundle.open(small_bundle)
    assert open_bundle(opened) is opened
    assert [open_bundle(name).path for name in ("mine", None, home / "mine")] == [home / "mine"] * 3
