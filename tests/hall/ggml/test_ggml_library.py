from __future__ import annotations

import os
import shutil
from pathlib import Path

import llama_cpp
import pytest

from edge_llava.ggml import library as ggml_library
from edge_llava.ggml.library import library_digest, may_see_gpus


@pytest.fixture
def digest(monkeypatch):
    """digest(directory) -> what `library_digest` says of a build in that directory."""

    def compute(directory):
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(directory))
        return library_digest.__wrapped__()

    return compute


def test_another_build_has_another_digest(digest, tmp_path):
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
    assert len(set(digests)) == 3


def test_large_libraries_are_distinguished_by_time(digest, tmp_path, monkeypatch):
    monkeypatch.setattr(ggml_library, "_HASHED_BYTES", 10)
    (tmp_path / "libggml-cuda.so").write_bytes(bytes(11))
    before = digest(tmp_path)
    assert digest(tmp_path) == before
    os.utime(tmp_path / "libggml-cuda.so", (1, 1))
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("names", "gpus"),
    [
        (["libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so", "libmtmd.so"], False),
        (["llama.dll", "ggml.dll", "ggml-base.dll", "ggml-cpu-haswell.dll", "ggml-cpu-icelake.dll"], False),
        (["libllama.dylib", "libggml-cpu.dylib", "libggml-blas.dylib", "libggml-metal.dylib"], True),
        (["libllama.so", "libggml-cpu.so", "libggml-cuda.so"], True),
        (["libllama.so"], True),  # everything may be in it
        ([], False),
    ],
)
def test_names_of_libraries_tell_of_gpus(names, gpus, tmp_path, monkeypatch):
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert may_see_gpus() == gpus
