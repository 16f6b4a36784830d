"""Weights in pickles, as torch has written them in its two formats."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from damage import NUMBERS, TEXTS, damage_bytes
from frame import Kind

from edge_llava.converters.tensor_store import TensorStore
from edge_llava.errors import CheckpointError

_Pieces = list[bytes]


def make(directory: Path) -> Sequence[bytes]:
    """State dicts, plain and as trainers nest them; the last of before torch 1.6."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = OrderedDict(a=whole, b=whole[1:].T, c=torch.ones(2, dtype=torch.bfloat16), d=torch.nn.Parameter(whole))
    datas: list[Any] = [tensors, {"state_dict": dict(tensors), "epoch": 3, "name": "x"}, dict(tensors)]
    seeds = []
    for data, is_zip in zip(datas, (True, True, False), strict=True):
        file = io.BytesIO()
        torch.save(data, file, _use_new_zipfile_serialization=is_zip)
        seeds.append(file.getvalue())
    return seeds


def damage(content: bytes, rng: Random) -> bytes:
    """Other opcodes of the pickle, another of the archive's files, or other bytes."""
    if rng.random() < 0.15:
        return damage_bytes(content, rng)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return _damage_stream(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    kind = rng.randrange(8)
    if kind > 1:
        files = [(name, _damage_pickle(data, rng) if name.endswith("/data.pkl") else data) for name, data in files]
    else:
        at = rng.randrange(len(files))
        name, data = files[at]
        changes = ([], [(name, damage_bytes(data, rng))], [(rng.choice(TEXTS) + name[-4:], data)], [files[at]] * 2)
        files[at : at + 1] = rng.choice(changes)
    return _archive(files, rng.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,)))


def _archive(files: Sequence[tuple[str, bytes]], compression: int) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two files of a name are one of the damages
        for name, data in files:
            with archive.open(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), "w") as file:
                file.write(data)
    return out.getvalue()


def _damage_stream(content: bytes, rng: Random) -> bytes:
    """The old format: five pickles, one behind the other, and then the numbers."""
    at, pickles = 0, []
    for _ in range(5):
        rest = io.BytesIO(content[at:])
        for _ in pickletools.genops(rest):
            pass
        pickles.append(content[at : at + rest.tell()])
        at += rest.tell()
    which = rng.choice((0, 1, 2, 3, 3, 3, 4))
    pickles[which] = _damage_pickle(pickles[which], rng)
    return b"".join(pickles) + content[at:]


def _damage_pickle(data: bytes, rng: Random) -> bytes:
    pieces = _split(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(len(pieces)), rng.randrange(6)
        if kind == 0:
            del pieces[at]
        elif kind == 1:
            pieces[at:at] = [pieces[at]] * rng.choice((1, 1, 2000))
        elif kind == 2:
            other = rng.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == 3:
            pieces[at] = rng.choice(_OTHERS)(rng)
        else:
            pieces[at] = _similar(pieces[at], rng)
        if not pieces:
            break
    return b"".join(pieces)


def _split(data: bytes) -> _Pieces:
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    return [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]


def _similar(piece: bytes, rng: Random) -> bytes:
    """The same kind of opcode with another argument: numbers and texts are what a tensor's form consists of."""
    if piece[:1] in b"KMJ":
        return rng.choice((_number, _number, _text))(rng)
    if piece[:1] in b"X\x8cU":
        return _text(rng)
    if piece[:1] == b"c":
        return rng.choice(_GLOBALS)
    return damage_bytes(piece, rng)


def _number(rng: Random) -> bytes:
    number = rng.choice((*NUMBERS, -3, 4, 12, 2**40))
    if 0 <= number < 256:
        return b"K" + bytes([number])
    if -(2**31) <= number < 2**31:
        return b"J" + number.to_bytes(4, "little", signed=True)
    return b"\x8a\x0e" + number.to_bytes(14, "little", signed=True)


def _text(rng: Random) -> bytes:
    text = rng.choice((*TEXTS, "0", "1", "cpu", "cuda:0", "meta", "storage")).encode("utf-8", "surrogatepass")
    return b"X" + len(text).to_bytes(4, "little") + text


_GLOBALS = tuple(
    f"c{name}\n".encode()
    for name in (
        "torch\nFloatStorage", "torch\nBFloat16Storage", "torch\nQInt8Storage", "torch\nComplexFloatStorage",
        "torch\nUntypedStorage", "torch\nfloat8_e4m3fn", "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter", "torch._utils\n_rebuild_qtensor", "torch._utils\n_rebuild_sparse_tensor",
        "torch._utils\n_rebuild_meta_tensor_no_storage", "torch._utils\n_rebuild_nested_tensor",
        "torch._utils\n_rebuild_wrapper_subclass", "torch\nTensor", "torch\nSize", "torch\ndevice",
        "collections\nOrderedDict", "collections\nCounter", "builtins\nset", "builtins\nbytearray", "os\nsystem",
    )
)  # fmt: skip
_OTHERS = (
    _number, _text, lambda rng: rng.choice(_GLOBALS),
    lambda rng: rng.choice((b"N", b"\x88", b")", b"]", b"}", b"(", b"0", b"2", b"R", b"Q", b"b", b"s", b"u", b".")),
    lambda rng: b"G" + rng.choice((b"\x7f\xf8\0\0\0\0\0\0", b"?\xf0\0\0\0\0\0\0")),
)  # fmt: skip


def read(directory: Path, content: bytes) -> None:
    """Lists the tensors and loads each."""
    path = directory / "pytorch_model.bin"
    path.write_bytes(content)
    store = TensorStore([path], lambda name: name)
    for name in store.infos:
        store.load(name).float().sum()


KIND = Kind(n_cases=500, make=make, damage=damage, read=read, errors=(CheckpointError,))
