"""The header of a GGUF file: valid ones are read, all others are refused with an error and nothing worse."""

from __future__ import annotations

import random
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_llava.errors import BundleError
from edge_llava.ggml.gguf_header import GgufTensor, read_gguf_header
from edge_llava.ggml.types import BLOCK_SIZES

pytest.importorskip("gguf")
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

Damage = Callable[[bytes, random.Random, Sequence[int]], bytes]
U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
MIB = 1 << 20


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(key: str | bytes, type_id: int, data: bytes) -> bytes:
    return string(key) + struct.pack("<I", type_id) + data


def array(key: str, type_id: int, length: int, data: bytes = b"") -> bytes:
    return value(key, ARRAY, struct.pack("<IQ", type_id, length) + data)


def tensor(name: str | bytes, shape: tuple[int, ...], type_id: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


def file(
    metadata: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    n_data: int = 0,
    *,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_metadata = counts or (len(tensors), len(metadata))
    header = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_metadata) + b"".join(metadata) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + bytes(n_data)


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[bytes], str]:
    """refuse(data) -> the error message about a file with these bytes."""

    def read(data: bytes) -> str:
        path = tmp_path / "x.gguf"
        path.write_bytes(data)
        with pytest.raises(BundleError) as caught:
            read_gguf_header(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is not a usable GGUF file: ")
        assert message.endswith(". Convert the checkpoint again.")
        return message.removeprefix(f"{path} is not a usable GGUF file: ").removesuffix(
            ". Convert the checkpoint again."
        )

    return read


def test_block_sizes_are_ggmls() -> None:
    assert {GGMLQuantizationType(t).name: size for t, size in BLOCK_SIZES.items()} == {
        name: GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        for name in (
            *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
            *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
            *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"),
        )
    }


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(
        file(
            (
                value("a", STRING, string("ü")),
                value("b", U32, struct.pack("<I", 7)),
                value("c", F32, struct.pack("<f", 0.5)),
                value("d", BOOL, b"\1"),
                value("e", U64, struct.pack("<Q", 2**63)),
                array("f", STRING, 2, string("x") + string(b"\xff\0")),
                array("g", U32, 3, bytes(12)),
                value("general.alignment", U32, struct.pack("<I", 64)),
            ),
            (tensor("t", (256, 2), 14), tensor("u", (5,), 0, 448)),
            448 + 20,
            alignment=64,
        )
    )
    header = read_gguf_header(path)
    assert header.metadata == {"a": "ü", "b": 7, "c": 0.5, "d": True, "e": 2**63, "general.alignment": 64}
    assert {key: (a.type_id, a.length, a.strings) for key, a in header.arrays.items()} == {
        "f": (STRING, 2, (b"x", b"\xff\0")),
        "g": (U32, 3, ()),
    }
    assert header.tensors == {"t": GgufTensor((256, 2), 14, 0), "u": GgufTensor((5,), 0, 448)}
    assert [t.n_bytes for t in header.tensors.values()] == [420, 20]


def test_a_file_without_tensors_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(file())
    assert read_gguf_header(tmp_path / "x").tensors == {}


HUGE = struct.pack("<Q", 2**62)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it ends inside its header"),
        (b"GGUF", "it ends inside its header"),
        (b"GGML" + bytes(60), "it does not begin with 'GGUF'"),
        (file(version=2), "container version 2, expected 3"),
        (file(version=3 << 24), "container version 50331648, expected 3"),
        (file(counts=(2**63, 0)), "it claims 9223372036854775808 tensors"),
        (file(counts=(0, 2**63)), "it claims 9223372036854775808 metadata entries"),
        (file(counts=(0, 1)), "its header holds the name ''"),
        (file((HUGE,)), "it claims a string of 4611686018427387904 bytes"),
        (file((struct.pack("<Q", 1 << 24),)), "it ends inside its header"),
        (file((value("a", STRING, HUGE),)), "it claims a string of 4611686018427387904 bytes"),
        (file((value("", U32, bytes(4)),)), "its header holds the name ''"),
        (file((value("a\0b", U32, bytes(4)),)), "its header holds the name 'a\\x00b'"),
        (file((value(b"\xff", U32, bytes(4)),)), "a text in its header is not UTF-8"),
        (file((value("a", STRING, string(b"\xff")),)), "a text in its header is not UTF-8"),
        (file((value("a", 13, bytes(8)),)), "metadata key 'a' has the unknown type 13"),
        (file((value("a", U8, b"\1"), value("a", U8, b"\1"))), "metadata key 'a' occurs twice"),
        (file((value("a", U8, b"\1"), array("a", U8, 0))), "metadata key 'a' occurs twice"),
        (file((array("a", U8, 0), array("a", U8, 0))), "metadata key 'a' occurs twice"),
        (file((array("a", STRING, 2**40),)), "it claims 1099511627776 items in 'a'"),
        (file((array("a", U64, 1 << 20),)), "it ends inside its header"),
        (file((array("a", STRING, 1, HUGE),)), "it claims a string of 4611686018427387904 bytes"),
        (file((array("a", ARRAY, 1, bytes(64)),)), "metadata key 'a' is an array of the unknown type 9"),
        (file((), (tensor("", (1,)),), 4), "its header holds the name ''"),
        (file((), (tensor("t\0", (1,)),), 4), "its header holds the name 't\\x00'"),
        (file((), (tensor("t", (8,)), tensor("t", (8,), 0, 32)), 64), "tensor 't' occurs twice"),
        (file((), (tensor("t", ()),), 4), "tensor 't' claims 0 dimensions"),
        (file((), (tensor("t", (1,) * 5),), 4), "tensor 't' claims 5 dimensions"),
        (file((), (tensor("t", (8, 0)),), 4), "tensor 't' has the impossible shape (8, 0)"),
        (file((), (tensor("t", (2**63, 2)),), 4), "tensor 't' has the impossible shape (9223372036854775808, 2)"),
        (file((), (tensor("t", (1,), 4),), 64), "tensor 't' has the unsupported ggml type 4"),
        (file((), (tensor("t", (1,), 39),), 64), "tensor 't' has the unsupported ggml type 39"),
        (file((), (tensor("t", (255,), 14),), 999), "tensor 't': a row of 255 does not divide into blocks of its type"),
        (file((), (tensor("t", (8,), 0, 8),), 64), "tensor 't' lies at the offset 8, expected 0"),
        (file((), (tensor("t", (8,), 0, 32),), 64), "tensor 't' lies at the offset 32, expected 0"),
        (
            file((), (tensor("t", (8,)), tensor("u", (8,), 0, 0)), 64),
            "tensor 'u' lies at the offset 0, expected 32",
        ),
        (
            file((), (tensor("t", (9,)), tensor("u", (8,), 0, 36)), 96),
            "tensor 'u' lies at the offset 36, expected 64",
        ),
        (file((), (tensor("t", (8,)),), 31), "tensor 't' ends at byte 96 and the file has 95: it is truncated"),
        (
            file((), (tensor("t", (2**40,) * 4),), 4),
            f"tensor 't' ends at byte {96 + 2**162} and the file has 100: it is truncated",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "file",
)
def test_impossible_file(refuse: Callable[[bytes], str], data: bytes, message: str) -> None:
    assert refuse(data) == message


@pytest.mark.parametrize("alignment", [0, 1, 4, 24, 33, 1 << 17, 2**32 - 1])
def test_impossible_alignment(refuse: Callable[[bytes], str], alignment: int) -> None:
    entry = value("general.alignment", U32, struct.pack("<I", alignment))
    assert refuse(file((entry,))) == f"its alignment is {alignment}"


def test_alignment_that_is_not_a_number(refuse: Callable[[bytes], str]) -> None:
    assert refuse(file((value("general.alignment", STRING, string("32")),))) == "its alignment is 32"
    assert refuse(file((value("general.alignment", F32, struct.pack("<f", 32)),))) == "its alignment is 32.0"


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match="cannot be read: "):
            read_gguf_header(path)


@pytest.mark.parametrize(
    "data",
    [
        file(counts=(1 << 20, 1 << 20)),
        file((array("a", STRING, 1 << 20),)),
        file((array("a", U64, 1 << 20),)),
        file((value("a", STRING, struct.pack("<Q", 1 << 24)),)),
        file((array("a", STRING, 1, struct.pack("<Q", 1 << 24)),)),
    ],
    ids=["counts", "strings", "numbers", "string", "string in an array"],
)
def test_claims_take_no_memory(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            read_gguf_header(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.convert
@pytest.mark.parametrize("name", ["language", "projector"])
def test_reads_real_files_as_their_own_reader_does(converted_q4: Path, name: str) -> None:
    header, reader = read_gguf_header(converted_q4 / f"{name}.gguf"), GGUFReader(converted_q4 / f"{name}.gguf")
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert {*header.metadata, *header.arrays} == set(fields)
    assert header.metadata == {key: fields[key].contents() for key in header.metadata}
    assert {key: a.length for key, a in header.arrays.items()} == {
        key: len(fields[key].contents()) for key in header.arrays
    }
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for theirs in reader.tensors:
        ours = header.tensors[theirs.name]
        assert ours.shape == tuple(int(side) for side in theirs.shape)
        assert (ours.type_id, ours.n_bytes) == (int(theirs.tensor_type), int(theirs.n_bytes))
        assert ours.offset + reader.data_offset == int(theirs.data_offset)


@pytest.mark.convert
@pytest.mark.parametrize("name", ["language", "projector"])
def test_every_truncation_is_refused(converted_q4: Path, tmp_path: Path, name: str) -> None:
    data = (converted_q4 / f"{name}.gguf").read_bytes()
    n_header = GGUFReader(converted_q4 / f"{name}.gguf").data_offset
    step = max(1, n_header // 500)
    sizes = {*range(0, n_header, step), *range(n_header, len(data), len(data) // 100), len(data) - 1}
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    for size in sorted(sizes, reverse=True):
        with path.open("r+b") as opened:
            opened.truncate(size)
        with pytest.raises(BundleError):
            read_gguf_header(path)


@pytest.mark.convert
@pytest.mark.parametrize(("name", "n_cases"), [("language", 2000), ("projector", 2000)])
def test_damaged_header_is_refused_or_read_and_nothing_else(
    converted_q4: Path, tmp_path: Path, damage: Damage, name: str, n_cases: int
) -> None:
    source, path = converted_q4 / f"{name}.gguf", tmp_path / "x.gguf"
    n_header = GGUFReader(source).data_offset
    header = source.read_bytes()[:n_header]
    shutil.copy(source, path)
    rng, messages, slowest_s = random.Random(f"{name} damage"), [], 0.0
    with path.open("r+b") as opened:
        for _ in range(n_cases):
            damaged = damage(header, rng, range(n_header))
            opened.seek(0)
            opened.write(damaged)
            opened.flush()
            started = time.perf_counter()
            try:
                read_gguf_header(path)
            except BundleError as error:
                messages.append(str(error))
            slowest_s = max(slowest_s, time.perf_counter() - started)
    assert slowest_s < 1
    assert n_cases * 0.2 < len(messages) < n_cases, "damaged names and numbers can be read, damaged lengths cannot"
    assert max(map(len, messages)) < 1000
