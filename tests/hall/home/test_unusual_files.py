"""Irregular files, files that are far too large, and claims for which llama.cpp would exit: one error each, at once."""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import Manifest
from edge_llava.device.profile import find_profile, profile_path
from edge_llava.errors import BundleError, CheckpointError, DataError, EdgeLlavaError, ImageError
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.ggml.limits import MAX_BLOCKS
from edge_llava.home.border import blaming_file
from edge_llava.home.directories import cache_directory, default_bundle, find_bundle, list_bundles
from edge_llava.home.json_files import read_json
from edge_llava.home.regular_file import open_regular, read_input, read_text, share_permissions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

MIB = 1 << 20
LONG = "x" * 300  # no file system accepts such a name
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")


def faults_of(data: dict[str, Any]) -> list[str]:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(data), "m")
    return str(caught.value).splitlines()[1:-1]


def test_more_blocks_than_llama_cpp_has_room_for(manifest_data: dict[str, Any]) -> None:
    manifest_data["language"]["n_layer"] = MAX_BLOCKS
    Manifest.from_json(json.dumps(manifest_data), "m")
    manifest_data["language"]["n_layer"] = MAX_BLOCKS + 1
    assert MAX_BLOCKS == 512
    assert faults_of(manifest_data) == ["  - language.n_layer is 513, expected an integer from 1"]


@pytest.mark.parametrize("field", ["n_embd", "n_head", "n_head_kv", "n_vocab", "n_ctx_train"])
def test_counts_that_are_not_int32(manifest_data: dict[str, Any], field: str) -> None:
    manifest_data["language"][field] = 2**31
    assert f"  - language.{field} is 2147483648, expected an integer from 1" in faults_of(manifest_data)


def test_heads_that_cannot_be_shared(manifest_data: dict[str, Any]) -> None:
    manifest_data["language"]["n_head_kv"] = 3
    assert faults_of(manifest_data) == ["  - language.n_head 32 is not a multiple of n_head_kv 3"]


def test_many_pinpoints_and_many_tiles(manifest_data: dict[str, Any]) -> None:
    manifest_data["vision"] |= {"aspect": "anyres", "grid_pinpoints": [[336, 336]] * 89_401}
    (fault,) = faults_of(manifest_data)
    assert fault.endswith("expected a list of [width, height], at most 1024")
    manifest_data["vision"]["grid_pinpoints"] = [[336 * 32, 336 * 33]]
    assert faults_of(manifest_data) == [
        "  - vision.grid_pinpoints hold a canvas of 1056 tiles, at most 1024 are supported"
    ]


@pytest.mark.parametrize("mean", [1e28, 2**31, -1e28])
def test_mean_that_is_not_a_colour(manifest_data: dict[str, Any], mean: float) -> None:
    manifest_data["vision"]["image_mean"][1] = mean
    (fault,) = faults_of(manifest_data)
    assert fault.startswith("  - vision.image_mean is [0.48145466, ")


def test_a_message_stays_readable(manifest_data: dict[str, Any]) -> None:
    manifest_data["files"] |= {f"role {number} {'x' * 5000}": {} for number in range(5000)}
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(manifest_data), "m")
    assert len(str(caught.value)) < 100_000
    assert "  - and 4,900 more" in str(caught.value).splitlines()


@needs_fifo
@pytest.mark.parametrize("name", ["manifest.json", "language.gguf", "parity.safetensors"])
def test_fifo_in_the_place_of_a_file(small_bundle: Path, name: str) -> None:
    (small_bundle / name).unlink()
    os.mkfifo(small_bundle / name)
    with pytest.raises(BundleError, match=r"manifest.json cannot be read: it is not a regular file|is missing"):
        Bundle.open(small_bundle)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_device_in_the_place_of_a_file(small_bundle: Path) -> None:
    (small_bundle / "manifest.json").unlink()
    (small_bundle / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="it is not a regular file"):
        Bundle.open(small_bundle)


def test_manifest_of_400_megabytes(small_bundle: Path) -> None:
    os.truncate(small_bundle / "manifest.json", 400 * MIB)  # takes no space
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="it has 419430400 bytes, at most 16777216 are read"):
            Bundle.open(small_bundle)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@needs_fifo
def test_no_file_of_the_home_is_waited_for(home: Path, small_bundle: Path) -> None:
    manifest, warnings = Bundle.open(small_bundle).manifest, list[str]()
    places = [home / "default", home / "checked.json", profile_path(manifest, _device())]
    for path in places:
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    assert default_bundle() is None
    Bundle.open(small_bundle).verify_digests(trust_earlier=True)
    assert find_profile(manifest, _device(), warn=warnings.append) is None
    assert ["it is not a regular file" in text for text in warnings] == [True]


def _device() -> Any:
    from edge_llava.device.facts import this_device

    return this_device()


def sparse_gguf(path: Path) -> Path:
    """A file of 4 GB that takes 4 kB of disk: strings of 16 MB, one after another."""
    key = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<IIQ", 9, 8, 1 << 10)
    with path.open("wb") as file:
        file.write(head)
        for number in range(200):
            file.seek(len(head) + number * ((1 << 24) + 8))
            file.write(struct.pack("<Q", 1 << 24))
        file.truncate(4 << 30)
    return path


def test_sparse_gguf_takes_little_memory(tmp_path: Path) -> None:
    path = sparse_gguf(tmp_path / "x.gguf")
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="its header is longer than 67,108,864 bytes"):
            read_gguf_header(path)
        assert tracemalloc.get_traced_memory()[1] < 150 * MIB
    finally:
        tracemalloc.stop()


def test_name_that_no_file_system_accepts(
    small_bundle: Path, manifest_data: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest_data["files"]["language"]["path"] = LONG
    (small_bundle / "manifest.json").write_text(json.dumps(manifest_data))
    with pytest.raises(BundleError, match=f"{'x' * 200} is missing"):
        Bundle.open(small_bundle)
    with pytest.raises(BundleError, match="there is no bundle"):
        find_bundle(LONG)
    with pytest.raises(BundleError, match="File name too long"):
        Bundle.open(small_bundle / LONG)
    with pytest.raises(ImageError, match="there is no file"):
        ImageEmbedding.load(LONG)
    with pytest.raises(ImageError, match=r"does not exist|cannot be written"):
        _embedding().save(small_bundle / LONG / "x.safetensors")
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(home / LONG))
    assert list_bundles() == []
    assert default_bundle() is None


def test_cache_of_a_user_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LLAVA_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(EdgeLlavaError, match="there is no such home directory"):
        cache_directory()


def _embedding() -> ImageEmbedding:
    return ImageEmbedding(np.ones((2, 3), np.float32), "0" * 64, (1, 2), (5, 6), "1" * 64, "2" * 64)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_embedding_of_numbers_that_numpy_lacks(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "e.safetensors"
    _embedding().save(path, "float16")
    data = path.read_bytes()
    n_header = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n_header])
    header["embedding"] |= {"dtype": dtype, "data_offsets": [0, 6]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(6))
    with pytest.raises(ImageError, match=r"e\.safetensors is damaged: "):
        ImageEmbedding.load(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.int32, np.bool_])
def test_embedding_of_other_numbers(tmp_path: Path, dtype: type) -> None:
    """Complex numbers would silently lose their imaginary part."""
    path = tmp_path / "e.safetensors"
    _embedding().save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({"embedding": np.ones((2, 3), dtype)}, path, metadata)
    with pytest.raises(ImageError, match=f"its numbers are {np.dtype(dtype)}, expected float32 or float16"):
        ImageEmbedding.load(path)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_embedding_obeys_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        _embedding().save(tmp_path / "e.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "e.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(sys.platform == "win32", reason="there is no umask")
def test_files_of_a_directory_share_permissions(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name, mode in (("a", 0o640), ("b/c/d", 0o600), ("b/e", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    share_permissions(tmp_path / "b", like=tmp_path / "a")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b/c/d", "b/e")] == [0o640] * 3


@pytest.mark.parametrize(
    "error", [AttributeError("x"), RecursionError("x"), OverflowError("x"), KeyError("x"), UnicodeError("x")]
)
def test_whatever_is_raised_while_a_file_is_read_is_its_fault(error: Exception) -> None:
    with pytest.raises(BundleError, match=r"^a file is damaged: '?x'?. Convert again.$") as caught:
        fail(error)
    assert caught.value.__cause__ is error


def fail(error: BaseException) -> None:
    with blaming_file(BundleError, "a file", "Convert again."):
        raise error


def test_what_is_not_the_files_fault() -> None:
    for ours in (CheckpointError("ours"), KeyboardInterrupt()):
        with pytest.raises(type(ours)):
            fail(ours)
    with pytest.raises(BundleError, match=r"a file cannot be read: no disk. Convert again."):
        fail(OSError(5, "no disk"))
    for error in (MemoryError(), OSError(12, "no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(BundleError, match=r"a file needs more memory than there is: .* large. Convert again.$"):
            fail(error)


def test_only_small_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é", encoding="utf-8")
    (tmp_path / "b").symlink_to("a")
    assert read_text(tmp_path / "b") == "é"
    for path, reason in ((tmp_path, "directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(OSError, match=reason):
            open_regular(path)
    with pytest.raises(OSError, match="it has 2 bytes, at most 1 are read"):
        read_text(tmp_path / "a", 1)


def test_commands_give_the_codes_of_their_errors(run: Callable[..., Any], small_bundle: Path) -> None:
    assert run("inspect", LONG).code == 6
    assert run("models", "default", LONG).code == 6
    assert run("chat", "-m", small_bundle / LONG, "-p", "x").code == 6
    assert run("chat", "-m", small_bundle, "--embedding", LONG, "-p", "x").code == 7
    assert run("chat", "-m", small_bundle, LONG, "-p", "x").code == 7


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_device_that_a_user_names(tmp_path: Path, run: Callable[..., Any]) -> None:
    """It would be read until memory is full."""
    endless = tmp_path / "input.json"
    endless.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a device"):
        read_input(endless)
    with pytest.raises(DataError, match=r"input\.json cannot be read: it is a device"):
        read_json(endless)
    (tmp_path / "a.jpg").touch()
    result = run("caption", tmp_path, "--json-schema", endless)
    assert result.code == 2
    assert "--json-schema: " in result.err
    assert "cannot be read: it is a device" in result.err


@needs_fifo
def test_a_pipe_that_a_user_names(tmp_path: Path) -> None:
    """As a shell's <(command) provides it."""
    os.mkfifo(tmp_path / "pipe")
    for text, limit in ((b"[1]", None), (b"[1]", 3), (b"[1] ", 3)):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(text,))
        writer.start()
        if text == b"[1]":
            assert read_input(tmp_path / "pipe", limit) == text
        else:
            with pytest.raises(OSError, match="it has more than 3 bytes"):
                read_input(tmp_path / "pipe", limit)
        writer.join()
