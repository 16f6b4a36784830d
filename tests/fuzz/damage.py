"""Damage by seed that keeps the form of a file, so that it reaches beyond the first check of its reader."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 3, 7, 31, 255, 256, 512, 513, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63,
    2**64 - 1, 10**30,
)  # fmt: skip
REALS = (0.0, -0.0, 1e-45, 1e-7, -1.0, 1e28, 3.5e38, 1e308, math.inf, -math.inf, math.nan)
TEXTS = (
    "", "a", "\0", "../../etc/passwd", "/dev/zero", "C:\\x", "x" * 300, "é\u202e", "\x1b[2J", "a\nb", "%s%n", "\ud800",
    "💥" * 40, "*/_ORT_MEM_ADDR_/*",
)  # fmt: skip


def hostile(rng: Random) -> Any:
    """A value of JSON that a reader may not expect."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(REALS)
    if kind == 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice((None, True, False, [], {}))
    if kind == 6:
        return [rng.choice((*NUMBERS, *REALS, *TEXTS, None, [], {}))] * rng.choice((1, 2, 3, 4, 2000))
    return {rng.choice(TEXTS): hostile(rng)}


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """One to four changes: a flipped bit, another byte, a number, a piece cut out, doubled or taken from elsewhere."""
    damaged = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not damaged:
            break
        at, kind, length = rng.randrange(len(damaged)), rng.randrange(7), rng.choice((1, 2, 4, 8, 64, 1000))
        if kind == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[at] = rng.randrange(256)
        elif kind == 2:
            n = rng.choice((4, 8))
            damaged[at : at + n] = (rng.choice(NUMBERS) % 2 ** (8 * n)).to_bytes(n, "little")
        elif kind == 3:
            del damaged[at : at + length]
        elif kind == 4:
            damaged[at:at] = damaged[at : at + length]
        elif kind == 5:
            other = rng.randrange(len(damaged))
            damaged[at : at + length] = damaged[other : other + length]
        else:
            del damaged[at:]
    return bytes(damaged)


def damage_tree(data: Any, rng: Random) -> Any:
    """One to three values of JSON replaced, removed, renamed, doubled or wrapped."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            return hostile(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind < 3:
            holder[key] = hostile(rng)
        elif kind > 6:
            holder[key] = _similar(holder[key], rng)
        elif kind == 3:
            del holder[key]
        elif kind == 4:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        elif kind == 5 and isinstance(holder, dict):
            holder[rng.choice((*TEXTS, str(key).upper(), f" {key}"))] = holder.pop(key)
        else:
            other_holder, other_key = rng.choice(places)
            if other_key in other_holder if isinstance(other_holder, dict) else other_key < len(other_holder):
                holder[key] = json.loads(json.dumps(other_holder[other_key]))
    return data


def _similar(value: Any, rng: Random) -> Any:
    """A value of the same kind, which may well be allowed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-value, 1, -1, 2, value, -value // 2, 64, 336))
    if isinstance(value, float):
        return value * rng.choice((-1, 0, 1.01, 2, 1e6))
    if isinstance(value, str):
        return rng.choice((value + "a", value[:-1], value.upper(), "anyres", "pad", "spatial", "F16", "Q4_K_M", "int8"))
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, value[::-1], [[336, 336]], [[8, 16], [16, 8]]))
    return value


def damage_json(data: bytes, rng: Random) -> bytes:
    """A JSON text whose values, or bytes, are others."""
    if rng.random() < 0.15:
        return damage_bytes(data, rng)
    text = json.dumps(damage_tree(json.loads(data), rng))
    if rng.random() < 0.05:
        depth = rng.choice((10, 900, 100_000))
        text = text.replace(": ", ": " + "[" * depth, 1)
    return text.encode()


def damage_safetensors(data: bytes, rng: Random) -> bytes:
    """A header with other values before the same numbers; or other numbers, or bytes."""
    n_header = struct.unpack("<Q", data[:8])[0]
    header, numbers = data[8 : 8 + n_header], data[8 + n_header :]
    kind = rng.randrange(8)
    if kind == 0:
        return damage_bytes(data, rng)
    if kind == 1:
        return data[: 8 + n_header] + damage_bytes(numbers, rng)[: len(numbers)].ljust(len(numbers), b"\xff")
    tree = json.loads(header)
    if kind == 2:
        tensor = rng.choice([value for key, value in tree.items() if key != "__metadata__"])
        types = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "F16", "F64", "I8", "U8", "BOOL", "I64", "F4", "C64", "x")
        tensor["dtype"] = rng.choice(types)
        if rng.random() < 0.5:  # of the size that the type needs
            tensor["shape"] = [(tensor["data_offsets"][1] - tensor["data_offsets"][0]) // rng.choice((1, 2, 4, 8))]
    else:
        tree = damage_tree(tree, rng)
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def _places(data: Any) -> Any:
    """Every (holder, key) of a JSON value; of long lists the first few."""
    if isinstance(data, dict):
        keys: list[Any] = list(data)
    elif isinstance(data, list):
        keys = list(range(min(len(data), 20)))
    else:
        return
    for key in keys:
        yield data, key
        yield from _places(data[key])


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# What llama.cpp reads beside the keys of a LLaMA, and acts upon.
_OTHER_KEYS = (
    "split.count", "split.no", "split.tensors.count", "general.alignment", "llama.expert_count",
    "llama.expert_used_count", "llama.expert_group_count", "llama.attention.causal", "llama.pooling_type",
    "llama.attention.sliding_window", "llama.attention.sliding_window_pattern", "llama.nextn_predict_layers",
    "llama.rope.scaling.original_context_length", "llama.rope.scaling.finetuned", "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.alpha", "llama.rope.scale_linear", "llama.rope.dimension_sections",
    "llama.embedding_length_out",
    "llama.attention.scale", "llama.attention.clamp_kqv", "llama.logit_scale", "llama.residual_scale",
    "llama.embedding_scale", "llama.use_parallel_residual", "llama.tensor_data_layout", "llama.decoder_start_token_id",
    "llama.attention.key_length", "llama.attention.value_length", "llama.attention.key_length_swa",
    "llama.rope.freq_base", "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.vocab_size",
    "tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.token_type_count", "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.mask_token_id", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.fim_pre_token_id", "tokenizer.chat_template", "tokenizer.rwkv.world", "adapter.type",
    "adapter.lora.alpha", "quantize.imatrix.file",
)  # fmt: skip


@dataclass
class Gguf:
    """The parts of a GGUF file: values as (key, type, bytes of the value), tensors as [name, shape, type, offset]."""

    values: list[tuple[bytes, int, bytes]]
    tensors: list[list[Any]]
    data: bytes

    @classmethod
    def parse(cls, file: bytes) -> Gguf:
        """Reads a good file."""
        n_tensors, n_values = struct.unpack_from("<QQ", file, 8)
        at, values, tensors = 24, [], []
        for _ in range(n_values):
            key, at = _text(file, at)
            (type_id,) = struct.unpack_from("<I", file, at)
            end = _value_end(file, at + 4, type_id)
            values.append((key, type_id, file[at + 4 : end]))
            at = end
        for _ in range(n_tensors):
            name, at = _text(file, at)
            (n_axes,) = struct.unpack_from("<I", file, at)
            shape = list(struct.unpack_from(f"<{n_axes}Q", file, at + 4))
            tensors.append([name, shape, *struct.unpack_from("<IQ", file, at + 4 + 8 * n_axes)])
            at += 16 + 8 * n_axes
        return cls(values, tensors, file[-(-at // 32) * 32 :])

    def write(self) -> bytes:
        """The file of these parts."""
        out = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.values))
        for key, type_id, value in self.values:
            out += struct.pack("<Q", len(key)) + key + struct.pack("<I", type_id) + value
        for name, shape, type_id, offset in self.tensors:
            out += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
            out += b"".join((side % 2**64).to_bytes(8, "little") for side in shape)
            out += struct.pack("<IQ", type_id, offset % 2**64)
        return out + bytes(-len(out) % 32) + self.data


def damage_gguf(data: bytes, rng: Random) -> bytes:
    """Other values, types, keys, items, tensors or weights in a file whose form holds; or other bytes."""
    if rng.random() < 0.1:
        return damage_bytes(data, rng)
    gguf = Gguf.parse(data)
    for _ in range(rng.choice((1, 1, 2))):
        if gguf.values and gguf.tensors:
            change = (_other_value, _other_value, _another_key, _other_items, _other_tensor, _other_weights)
            rng.choice(change)(gguf, rng)
    return gguf.write()


def _other_value(gguf: Gguf, rng: Random) -> None:
    at = rng.randrange(len(gguf.values))
    key, type_id, _ = gguf.values[at]
    if rng.random() < 0.2:
        del gguf.values[at]
    elif rng.random() < 0.3 or type_id not in _SCALARS:
        gguf.values[at] = (key, *_random_value(rng))
    else:
        gguf.values[at] = (key, type_id, _packed(type_id, rng))


def _another_key(gguf: Gguf, rng: Random) -> None:
    value = (rng.choice(_OTHER_KEYS).encode(), *_random_value(rng))
    gguf.values.insert(rng.randrange(len(gguf.values) + 1), value)


def _other_items(gguf: Gguf, rng: Random) -> None:
    """Some bytes inside of an array, which keeps its length."""
    arrays = [at for at, (_, type_id, value) in enumerate(gguf.values) if type_id == 9 and len(value) > 12]
    if arrays:
        at = rng.choice(arrays)
        key, type_id, value = gguf.values[at]
        items = bytearray(value)
        for _ in range(rng.choice((1, 5))):
            items[rng.randrange(12, len(items))] = rng.randrange(256)
        gguf.values[at] = (key, type_id, bytes(items))


def _other_tensor(gguf: Gguf, rng: Random) -> None:
    at, kind = rng.randrange(len(gguf.tensors)), rng.randrange(6)
    tensor = gguf.tensors[at]
    if kind == 0:
        del gguf.tensors[at]
    elif kind == 1:
        tensor[0] = rng.choice(
            (*TEXTS[:4], "blk.512.attn_q.weight", "rope_freqs.weight", "blk.0.attn_q.bias", "x" * 64)
        ).encode()
    elif kind == 2:
        tensor[1] = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 4, 5)))]
    elif kind == 3:
        tensor[1] = tensor[1][::-1]
    elif kind == 4:
        tensor[2] = rng.choice((0, 1, 2, 8, 12, 14, 16, 24, 30, 39, 99))
    else:
        tensor[3] = rng.choice((*NUMBERS, *range(0, len(gguf.data), 32)))


def _other_weights(gguf: Gguf, rng: Random) -> None:
    data, at = bytearray(gguf.data), rng.randrange(0, len(gguf.data), 4)
    n = rng.choice((1, 100, 10_000))
    data[at : at + 4 * n] = struct.pack("<f", rng.choice(REALS[:6] + REALS[8:])) * n
    gguf.data = bytes(data[: len(gguf.data)])


def _random_value(rng: Random) -> tuple[int, bytes]:
    type_id = rng.choice((*_SCALARS, 8, 8, 9, 9, 13))
    if type_id == 8:
        text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        return 8, struct.pack("<Q", len(text)) + text
    if type_id == 9:
        inner, n = rng.choice(tuple(_SCALARS)), rng.choice((0, 1, 3, 300))
        return 9, struct.pack("<IQ", inner, n) + _packed(inner, rng) * n
    return type_id, _packed(type_id, rng)


def _packed(type_id: int, rng: Random) -> bytes:
    code = _SCALARS.get(type_id, "I")
    if code in "fd":
        value = rng.choice(REALS)
        return struct.pack("<" + code, value if code == "d" or not 3.4e38 < abs(value) < math.inf else 1.0)
    n = struct.calcsize("<" + code)
    return (rng.choice(NUMBERS) % 2 ** (8 * n)).to_bytes(n, "little")


def _text(file: bytes, at: int) -> tuple[bytes, int]:
    (n,) = struct.unpack_from("<Q", file, at)
    return file[at + 8 : at + 8 + n], at + 8 + n


def _value_end(file: bytes, at: int, type_id: int) -> int:
    if type_id == 8:
        return _text(file, at)[1]
    if type_id != 9:
        return at + struct.calcsize("<" + _SCALARS[type_id])
    inner, n = struct.unpack_from("<IQ", file, at)
    at += 12
    if inner != 8:
        return at + n * struct.calcsize("<" + _SCALARS[inner])
    for _ in range(n):
        at = _text(file, at)[1]
    return at


def damage_protobuf(data: bytes, rng: Random) -> bytes:
    """One to three fields, at any depth, replaced, removed, doubled or moved; lengths are right again afterwards."""
    if rng.random() < 0.15:
        return damage_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _damage_message(data, rng)
    return data


def _damage_message(data: bytes, rng: Random) -> bytes:
    fields = _fields(data)
    if not fields:
        return damage_bytes(data, rng)
    at = rng.randrange(len(fields))
    number, kind, value = fields[at]
    if kind == 2 and value and _fields(value) and rng.random() < 0.75:
        fields[at] = (number, kind, _damage_message(value, rng))
    else:
        _field_damages[rng.randrange(len(_field_damages))](fields, at, rng)
    return b"".join(_field(*field) for field in fields)


def _replace_field(fields: list[tuple[int, int, Any]], at: int, rng: Random) -> None:
    number, kind, value = fields[at]
    if kind == 0:
        value = rng.choice(NUMBERS) % 2**64
    elif kind == 2 and rng.random() < 0.5:
        value = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    else:
        value = damage_bytes(value, rng)[: None if kind == 2 else len(value)].ljust(len(value), b"\xff")
    fields[at] = (number, kind, value)


def _remove_field(fields: list[tuple[int, int, Any]], at: int, rng: Random) -> None:
    del fields[at]


def _double_field(fields: list[tuple[int, int, Any]], at: int, rng: Random) -> None:
    fields[at:at] = [fields[at]] * rng.choice((1, 1, 50))


def _renumber_field(fields: list[tuple[int, int, Any]], at: int, rng: Random) -> None:
    fields[at] = (rng.choice((1, 2, 5, 7, 8, 13, 14, 15, 20, 25, 2**28)), *fields[at][1:])


def _swap_fields(fields: list[tuple[int, int, Any]], at: int, rng: Random) -> None:
    other = rng.randrange(len(fields))
    fields[at], fields[other] = fields[other], fields[at]


_field_damages: Sequence[Callable[..., None]] = (
    _replace_field, _replace_field, _replace_field, _remove_field, _double_field, _renumber_field, _swap_fields,
)  # fmt: skip


def _fields(data: bytes) -> list[tuple[int, int, Any]]:
    """The fields of a message; none where the bytes are not one."""
    fields: list[tuple[int, int, Any]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if not number or kind not in (0, 1, 2, 5):
                return []
            if kind == 0:
                value, at = _varint(data, at)
                fields.append((number, kind, value))
                continue
            n, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            if at + n > len(data):
                return []
            fields.append((number, kind, data[at : at + n]))
            at += n
    except IndexError:
        return []
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


def _field(number: int, kind: int, value: Any) -> bytes:
    tag = _write_varint(number << 3 | kind)
    if kind == 0:
        return tag + _write_varint(value)
    return tag + (_write_varint(len(value)) if kind == 2 else b"") + value


def _write_varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
