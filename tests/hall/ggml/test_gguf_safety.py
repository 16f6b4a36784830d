"""Files that pass the checks do not end the process: damaged ones are loaded by the engines, in a separate process.

llama.cpp and ggml abort at some faults instead of reporting them. Those that are known are made here one by one, and
must be refused; the rest is searched by seeded damage to the header.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_file import check_language_file
from edge_llava.errors import BundleError
from edge_llava.runtime.vision.projector import _check_file as check_projector_file

pytest.importorskip("gguf")
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

pytestmark = pytest.mark.convert

Damage = Callable[[bytes, random.Random, Sequence[int]], bytes]
Metadata = dict[str, tuple[Any, GGUFValueType, GGUFValueType | None]]
Tensors = dict[str, tuple[Any, GGMLQuantizationType]]

LOADER = """
import json, sys
from pathlib import Path
import numpy as np
from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import EdgeLlavaError
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.options import DecoderOptions
from edge_llava.device.thread_count import ThreadCount
from edge_llava.runtime.vision.projector import Projector
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.options import SamplingOptions

bundle, role, path, headers = Bundle.open(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])

def use_language():
    spec = bundle.manifest.language
    decoder = Decoder(path, spec, DecoderOptions(n_ctx=64, n_threads=1))
    try:
        tokens = decoder.tokenize("USER: caf\\u00e9 \\U0001f600\\n</s> ASSISTANT:", add_bos=True)[:40]
        one = OneSequence(decoder)
        one.prefill_rows(np.ones((4, spec.n_embd), np.float32))
        one.prefill_tokens(tokens)
        for temperature in (0, 0.8):
            sampler = Sampler(SamplingOptions(temperature=temperature, seed=1), decoder)
            one.decode(sampler.sample(decoder.context))
            sampler.close()
        for token in range(spec.n_vocab):
            decoder.piece(token), decoder.is_end(token)
    finally:
        decoder.close()

def use_projector():
    spec = bundle.manifest.projector
    projector = Projector(path, spec, ThreadCount(1))
    projector(np.ones((64, spec.in_features), np.float32))
    projector.close()

for number, header in enumerate(json.loads(headers.read_text())):
    with path.open("r+b") as file:
        file.write(bytes.fromhex(header))
    print(number, end=" ", flush=True)
    try:
        {"language": use_language, "projector": use_projector}[role]()
        print("loaded", flush=True)
    except EdgeLlavaError as error:
        print(type(error).__name__, flush=True)
"""


def check(bundle: Bundle, role: str, path: Path) -> None:
    if role == "language":
        check_language_file(path, bundle.manifest.language)
    else:
        check_projector_file(path, bundle.manifest.projector, has_newline=False)


def describing_bytes(path: Path) -> list[int]:
    """Places of the header outside the long lists of the vocabulary."""
    reader = GGUFReader(path)
    lists = [field for key, field in reader.fields.items() if sum(part.nbytes for part in field.parts) > 1000]
    inside = {at for f in lists for at in range(f.offset + 40, f.offset + sum(part.nbytes for part in f.parts))}
    return [at for at in range(reader.data_offset) if at not in inside]


@pytest.fixture(scope="module")
def qwen2(make_checkpoint: Callable[..., Path], shape: Any, convert_to: Callable[..., Path]) -> Path:
    """A bundle with a Qwen2, whose head is its embedding. Read only."""
    text = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    made = shape(width=256, ff=256, kv_heads=2, tied=True, model_type="qwen2", text=text)
    return convert_to(make_checkpoint(made, 5), quant="Q4_K_M")


@pytest.fixture(scope="module")
def llama3(make_checkpoint: Callable[..., Path], shape: Any, convert_to: Callable[..., Path]) -> Path:
    """A bundle with a LLaMA whose frequencies are divided. Read only."""
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    made = shape(width=256, ff=256, kv_heads=2, text={"rope_scaling": scaling})
    return convert_to(make_checkpoint(made, 5), quant="Q4_K_M")


@pytest.mark.parametrize(
    ("source", "role", "n_cases"),
    [
        ("converted_q4", "language", 30),
        ("converted_q4", "projector", 150),
        ("qwen2", "language", 20),
        ("llama3", "language", 20),
    ],
)
def test_damaged_files_that_pass_the_checks_do_not_end_the_process(
    request: pytest.FixtureRequest, tmp_path: Path, damage: Damage, source: str, role: str, n_cases: int
) -> None:
    bundle, path = Bundle.open(request.getfixturevalue(source)), tmp_path / f"{role}.gguf"
    shutil.copy(bundle.file(role), path)
    n_header = GGUFReader(path).data_offset
    header, describing = path.read_bytes()[:n_header], describing_bytes(path)
    rng, passing = random.Random(f"{role} safety"), [header]
    while len(passing) <= n_cases:
        damaged = damage(header, rng, rng.choice((describing, range(n_header))))
        with path.open("r+b") as file:
            file.write(damaged)
        try:
            check(bundle, role, path)
        except BundleError:
            continue
        passing.append(damaged)
    (tmp_path / "headers.json").write_text(json.dumps([h.hex() for h in passing]))
    result = subprocess.run(
        [sys.executable, "-c", LOADER, str(bundle.path), role, str(path), str(tmp_path / "headers.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )
    outcomes = result.stdout.split()[1::2]
    assert result.returncode == 0, f"ended with {result.returncode} at damage {len(outcomes)}: {result.stderr[-2000:]}"
    assert len(outcomes) == n_cases + 1
    assert outcomes[0] == "loaded", "the undamaged file"
    assert set(outcomes) <= {"loaded", "BackendError", "BundleError"}
    assert outcomes.count("loaded") > n_cases // 2


def rewrite(source: Path, target: Path, edit: Callable[[Metadata, Tensors], None]) -> None:
    """Writes a GGUF file again with other metadata or tensors."""
    reader = GGUFReader(source)
    metadata: Metadata = {
        key: (field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key != "general.architecture"
    }
    tensors: Tensors = {tensor.name: (tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    edit(metadata, tensors)
    writer = GGUFWriter(None, str(reader.fields["general.architecture"].contents()))
    for key, (value, type_, item_type) in metadata.items():
        writer.add_key_value(key, value, type_, item_type)
    for name, (data, tensor_type) in tensors.items():
        writer.add_tensor(name, np.array(data), raw_dtype=tensor_type)
    writer.write_header_to_file(target)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def set_to(key: str, value: object, type_: GGUFValueType, item: GGUFValueType | None = None) -> Callable[..., None]:
    def edit(metadata: Metadata, _: Tensors) -> None:
        metadata[key] = (value, type_, item)

    return edit


def replace_token(old: str, new: str) -> Callable[..., None]:
    def edit(metadata: Metadata, _: Tensors) -> None:
        tokens, *types = metadata["tokenizer.ggml.tokens"]
        assert old in tokens
        metadata["tokenizer.ggml.tokens"] = ([new if token == old else token for token in tokens], *types)

    return edit


def halve(name: str) -> Callable[..., None]:
    def edit(_: Metadata, tensors: Tensors) -> None:
        tensors[name] = (np.asarray(tensors[name][0]).astype(np.float16), GGMLQuantizationType.F16)

    return edit


def add_tensor(name: str, n_items: int = 32) -> Callable[..., None]:
    def edit(_: Metadata, tensors: Tensors) -> None:
        tensors[name] = (np.ones(n_items, np.float32), GGMLQuantizationType.F32)

    return edit


def drop_tensor(name: str) -> Callable[..., None]:
    def edit(_: Metadata, tensors: Tensors) -> None:
        del tensors[name]

    return edit


V = GGUFValueType
EPSILON = "llama.attention.layer_norm_rms_epsilon"
FAULTS: list[tuple[Callable[..., None], str]] = [
    (replace_token("<0x0A>", "<0x0B>"), "tokenizer.ggml.tokens holds 1 tokens twice"),
    (replace_token("<0x0A>", "<0y0A>"), "tokenizer.ggml.tokens lacks 1 of the 256 byte tokens"),
    (replace_token("<0xFF>", "<0xFE>\0"), "tokenizer.ggml.tokens holds 1 tokens twice"),
    (set_to("tokenizer.ggml.tokens", ["a"] * 511, V.ARRAY, V.STRING), "tokenizer.ggml.tokens has 511 items, expect"),
    (set_to("tokenizer.ggml.tokens", [1] * 512, V.ARRAY, V.INT8), "tokenizer.ggml.tokens has items of type 1, exp"),
    (set_to("tokenizer.ggml.scores", ["a"] * 512, V.ARRAY, V.STRING), "tokenizer.ggml.scores has items of type 8"),
    (set_to("tokenizer.ggml.token_type", [1] * 512, V.ARRAY, V.INT8), "tokenizer.ggml.token_type has items of type"),
    (set_to("tokenizer.ggml.token_type", 1, V.INT32), "tokenizer.ggml.token_type has 0 items, expected 512"),
    (set_to(EPSILON, -1.0, V.FLOAT32), f"{EPSILON} is -1.0, expected a number from 0 to 1"),
    (set_to(EPSILON, float("nan"), V.FLOAT32), f"{EPSILON} is nan, expected a number from 0 to 1"),
    (set_to(EPSILON, 0, V.UINT32), f"{EPSILON} is 0, expected a number from 0 to 1"),
    (set_to("llama.rope.scaling.type", "lanear", V.STRING), "llama.rope.scaling.type is 'lanear', expected one of"),
    (set_to("llama.rope.scaling.type", 1, V.UINT32), "llama.rope.scaling.type is 1, expected one of none, linear"),
    (set_to("llama.expert_count", 1 << 30, V.UINT32), "'llama.expert_count' is not part of a LLaMA model's descript"),
    (set_to("llama.expert_used_count", 5, V.UINT32), "'llama.expert_used_count' is not part of a LLaMA model's"),
    (set_to("llama.attention.causal", False, V.BOOL), "'llama.attention.causal' is not part of a LLaMA model's"),
    (set_to("llama.context_length", 0, V.UINT32), "llama.context_length is 0, expected 1024"),
    (set_to("llama.block_count", 3, V.UINT32), "llama.block_count is 3, expected 4"),
    (set_to("general.license", "apache-2.0", V.STRING), "'general.license' is not part of a LLaMA model's descript"),
    (set_to("split.count", 2, V.UINT16), "'split.count' is not part of a LLaMA model's description"),
    (set_to("split.no", 0, V.UINT16), "'split.no' is not part of a LLaMA model's description"),
    (set_to("quantize.imatrix.file", "/etc/passwd", V.STRING), "'quantize.imatrix.file' is not part of a LLaMA"),
    (set_to("tokenizer.chat_template", "{{ 1 }}", V.STRING), "'tokenizer.chat_template' is not part of a LLaMA"),
    (set_to("tokenizer.ggml.merges", ["a b"], V.ARRAY, V.STRING), "'tokenizer.ggml.merges' is not part of a LLaMA"),
    (set_to("general.name", ["a"], V.ARRAY, V.STRING), "general.name is of the type list, expected str"),
    (set_to("general.file_type", "a", V.STRING), "general.file_type is of the type str, expected int"),
    (set_to("llama.vocab_size", 511, V.UINT32), "llama.vocab_size is 511, expected 512"),
    (set_to("llama.attention.value_length", 32, V.UINT32), "llama.attention.value_length is 32, expected the heads'"),
    (set_to("llama.rope.dimension_count", 32, V.UINT32), "llama.rope.dimension_count is 32, expected the heads' wid"),
    (set_to("llama.rope.freq_base", 0.0, V.FLOAT32), "llama.rope.freq_base is 0.0, expected a number above 0"),
    (set_to("llama.rope.freq_base", float("inf"), V.FLOAT32), "llama.rope.freq_base is inf, expected a number above"),
    (set_to("llama.rope.scaling.factor", -1.0, V.FLOAT32), "llama.rope.scaling.factor is -1.0, expected a number ab"),
    (set_to("llama.attention.key_length", 63, V.UINT32), "heads have the width 63, expected an even one"),
    (set_to("tokenizer.ggml.token_type", [6] * 512, V.ARRAY, V.INT32), "tokenizer.ggml.token_type calls 256 tokens"),
    (set_to("tokenizer.ggml.scores", [float("nan")] * 512, V.ARRAY, V.FLOAT32), "tokenizer.ggml.scores holds infin"),
    (set_to("llama.feed_forward_length", 512, V.UINT32), "tensor blk.3.ffn_down.weight has shape (768, 256), expec"),
    (set_to("llama.feed_forward_length", "x" * 999, V.STRING), "tensor blk.0.ffn_up.weight has shape (256, 768), ex"),
    (set_to("llama.attention.key_length", 32, V.UINT32), "tensor blk.0.attn_q.weight has shape (256, 256), expected"),
    (set_to("tokenizer.ggml.model", "x" * 999, V.STRING), "tokenizer.ggml.model is 'xxxxx"),
    (set_to("tokenizer.ggml.bos_token_id", 2, V.UINT32), "tokenizer.ggml.bos_token_id is 2, expected 1"),
    (halve("blk.1.attn_norm.weight"), "tensor blk.1.attn_norm.weight is not float32"),
    (halve("output_norm.weight"), "tensor output_norm.weight is not float32"),
    (add_tensor("rope_freqs.weight", 64), "tensor rope_freqs.weight has shape (64,), expected (32,)"),
    (add_tensor("blk.0.attn_q.bias", 256), "tensor 'blk.0.attn_q.bias' is not part of a LLaMA model"),
    (set_to("qwen2.block_count", 4, V.UINT32), "'qwen2.block_count' is not part of a LLaMA model's description"),
    (add_tensor("blk.4.attn_norm.weight"), "tensor 'blk.4.attn_norm.weight' is not part of a LLaMA model"),
    (drop_tensor("blk.2.ffn_gate.weight"), "tensor blk.2.ffn_gate.weight is missing"),
]


@pytest.mark.parametrize(("edit", "fault"), FAULTS, ids=[str(number) for number in range(len(FAULTS))])
def test_fault_of_the_language_file_is_named(
    converted_q4: Path, tmp_path: Path, edit: Callable[..., None], fault: str
) -> None:
    bundle, path = Bundle.open(converted_q4), tmp_path / "language.gguf"
    rewrite(bundle.file("language"), path, edit)
    with pytest.raises(BundleError) as caught:
        check_language_file(path, bundle.manifest.language)
    headline, *faults, advice = str(caught.value).splitlines()
    assert headline == f"{path} does not match its manifest:"
    assert advice == "Convert the checkpoint again."
    assert any(line.startswith(f"  - {fault}") for line in faults), faults
    assert max(map(len, faults)) < 200


@pytest.mark.parametrize(
    "edit",
    [
        set_to("general.name", "another", V.STRING),
        set_to("llama.rope.scaling.type", "linear", V.STRING),
        set_to(EPSILON, 1e-6, V.FLOAT32),
        drop_tensor("output.weight"),
        add_tensor("rope_freqs.weight"),
    ],
    ids=["name", "linear scaling", "epsilon", "tied head", "divided frequencies"],
)
def test_language_file_that_only_differs_is_accepted(
    converted_q4: Path, tmp_path: Path, edit: Callable[..., None]
) -> None:
    bundle, path = Bundle.open(converted_q4), tmp_path / "language.gguf"
    rewrite(bundle.file("language"), path, edit)
    check_language_file(path, bundle.manifest.language)


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (drop_tensor("blk.1.attn_v.bias"), "tensor blk.1.attn_v.bias is missing"),
        (add_tensor("blk.0.attn_k.bias"), "tensor blk.0.attn_k.bias has shape (32,), expected (128,)"),
        (halve("blk.0.attn_q.bias"), "tensor blk.0.attn_q.bias is not float32"),
        (add_tensor("blk.0.attn_output.bias", 256), "tensor 'blk.0.attn_output.bias' is not part of a Qwen2 model"),
        (add_tensor("output.bias", 512), "tensor 'output.bias' is not part of a Qwen2 model"),
        (add_tensor("rope_freqs.weight"), "tensor 'rope_freqs.weight' is not part of a Qwen2 model"),
        (set_to("llama.block_count", 2, V.UINT32), "'llama.block_count' is not part of a Qwen2 model's description"),
        (set_to("qwen2.expert_count", 2, V.UINT32), "'qwen2.expert_count' is not part of a Qwen2 model's description"),
        (set_to("qwen2.context_length", 0, V.UINT32), "qwen2.context_length is 0, expected 512"),
        (set_to("qwen2.rope.scaling.type", "yarn", V.STRING), "qwen2.rope.scaling.type is 'yarn', expected one of"),
        (set_to("qwen2.rope.dimension_count", 32, V.UINT32), "qwen2.rope.dimension_count is 32, expected the heads'"),
        (set_to("qwen2.attention.head_count_kv", 4, V.UINT32), "qwen2.attention.head_count_kv is 4, expected 2"),
        (set_to("qwen2.vocab_size", 5, V.UINT32), "qwen2.vocab_size is 5, expected 512"),
    ],
    ids=range(13),
)
def test_fault_of_a_qwen2_file_is_named(qwen2: Path, tmp_path: Path, edit: Callable[..., None], fault: str) -> None:
    bundle, path = Bundle.open(qwen2), tmp_path / "language.gguf"
    check_language_file(bundle.file("language"), bundle.manifest.language)
    rewrite(bundle.file("language"), path, edit)
    with pytest.raises(BundleError) as caught:
        check_language_file(path, bundle.manifest.language)
    assert any(line.startswith(f"  - {fault}") for line in str(caught.value).splitlines()), str(caught.value)


def test_a_file_of_another_architecture(qwen2: Path, converted_q4: Path) -> None:
    with pytest.raises(BundleError, match=r"general\.architecture is 'qwen2', expected 'llama'"):
        check_language_file(Bundle.open(qwen2).file("language"), Bundle.open(converted_q4).manifest.language)


def test_all_faults_at_once(converted_q4: Path, tmp_path: Path) -> None:
    def edit(metadata: Metadata, tensors: Tensors) -> None:
        for change in (replace_token("<0x0A>", "<0x0B>"), drop_tensor("output_norm.weight")):
            change(metadata, tensors)
        metadata["llama.attention.head_count"] = (8, V.UINT32, None)

    bundle, path = Bundle.open(converted_q4), tmp_path / "language.gguf"
    rewrite(bundle.file("language"), path, edit)
    with pytest.raises(BundleError) as caught:
        check_language_file(path, bundle.manifest.language)
    assert str(caught.value).splitlines()[1:-1] == [
        "  - llama.attention.head_count is 8, expected 4",
        "  - tokenizer.ggml.tokens holds 1 tokens twice",
        "  - tokenizer.ggml.tokens lacks 1 of the 256 byte tokens",
        "  - tensor output_norm.weight is missing",
    ]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (drop_tensor("mm.2.bias"), "mm.2.bias is missing"),
        (halve("mm.0.bias"), "mm.0.bias is not float32"),
        (set_to("split.count", 2, GGUFValueType.UINT16), "'split.count' is not part of a projector's description"),
        (
            lambda _, tensors: tensors.update({"mm.0.bias": (np.ones(128, np.float32), GGMLQuantizationType.F32)}),
            "mm.0.bias has shape (128,), expected (256,)",
        ),
        (
            lambda _, tensors: tensors.update({"mm.2.weight": (np.ones((9, 256), np.float32), None)}),
            "mm.2.weight has shape (256, 9), expected (256, 256)",
        ),
    ],
    ids=["missing", "half", "key", "short bias", "shape"],
)
def test_fault_of_the_projector_file_is_named(
    converted_q4: Path, tmp_path: Path, edit: Callable[..., None], fault: str
) -> None:
    bundle, path = Bundle.open(converted_q4), tmp_path / "projector.gguf"
    rewrite(bundle.file("projector"), path, edit)
    with pytest.raises(BundleError) as caught:
        check_projector_file(path, bundle.manifest.projector, has_newline=False)
    assert str(caught.value).splitlines() == [
        f"{path} does not match its manifest:",
        f"  - {fault}",
        "Convert the checkpoint again.",
    ]
