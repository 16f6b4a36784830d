from __future__ import annotations

import os
import shutil
from pathlib import Path

import llama_cpp
import pytest

from edge_llava.ggml import library as ggml_library
from edge_llava.ggml.library import library_digest


@pytest.fixture
def digest(monkeypatch):
    """digest(directory) -> what `library_digest` says of a build in that directory."""

    def compute(directory):
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(directory))
        return library_digest.__wrapped__()

    return compute


def test_another_build_has_another_digest(digest, tmp_path, monkeypatch):
    original = Path(llama_cpp.__file__).parent / "lib"
    copy = tmp_path / "lib"
    shutil.copytree(original, copy)
    digests = [digest(original), digest(copy)]
    assert digests[0] == digests[1]
    assert len(bytes.fromhex(digests[0])) == 32
    library = next(path for path in sorted(copy.iterdir()) if path.suffix in (".so", ".dylib", ".dll"))
    data = bytearray(library.read_bytes())
    data[-1] ^= 1
    library.write_bytes(data)
    digests.append(digest(copy))
    (copy / "libggml-extra.so").write_bytes(b"")
    digests.append(digest(copy))
    monkeypatch.setattr(llama_cpp, "__version__", "0.0.0")
    digests.append(digest(copy))
    assert len(set(digests)) == 4


def test_large_libraries_are_distinguished_by_time(digest, tmp_path, monkeypatch):
    monkeypatch.setattr(ggml_library, "_HASHED_BYTES", 10)
    (tmp_path / "libggml-cuda.so").write_bytes(bytes(11))
    before = digest(tmp_path)
    assert digest(tmp_path) == before
    os.utime(tmp_path / "libggml-cuda.so", (1, 1))
    assert digest(tmp_path) != before
