"""manifest.json: what is written can be read, and anything else is refused with every fault named."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_llava.bundle.manifest import FileEntry, Manifest, StageParity
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.errors import BundleError

SHA = "0123456789abcdef" * 4
Path_ = tuple[str, ...]


def sample() -> dict[str, Any]:
    return {
        "format_version": 2,
        "created_by": "edge-llava 0.1.0",
        "source": {"name": "Bücher/llava", "revision": None, "layout": "original", "license_files": ["LICENSE"]},
        "vision": {
            "image_size": 336,
            "patch_size": 14,
            "hidden_size": 1024,
            "n_blocks": 23,
            "has_class_row": True,
            "n_dropped_rows": 1,
            "image_mean": [0.5, 0.25, 0],
            "image_std": [0.5, 0.25, 1],
            "aspect": "anyres",
            "grid_pinpoints": [[336, 672], [672, 336]],
            "merge": "spatial_unpad",
            "merge_limit": None,
            "has_newline": True,
            "several_images": "as_one",
            "max_tiles": None,
            "precision": "int8",
            "ranking": "none",
        },
        "projector": {"kind": "mlp2x_gelu", "in_features": 1024, "out_features": 4096, "quant": "Q6_K"},
        "language": {
            "architecture": "llama",
            "n_embd": 4096,
            "n_layer": 32,
            "n_head": 32,
            "n_head_kv": 8,
            "n_vocab": 32000,
            "n_ctx_train": 4096,
            "quant": "Q4_K_M",
            "template": json.loads(
                json.dumps(dataclasses.asdict(describe_template(TEMPLATES["llava_v1"], {"</s>": 2})))
            ),
            "bos": 1,
            "eos": 2,
            "end_ids": [2, 7],
            "tokenizer": {
                "model": "llama",
                "pre": "default",
                "adds_bos": True,
                "adds_space": True,
                "normalizer": "none",
                "strips_after": [],
            },
        },
        "files": {
            role: {"path": f"{role}.bin", "bytes": 7, "sha256": SHA}
            for role in ("vision", "vision_data", "projector", "language", "parity")
        },
        "parity": {
            "vision": {
                "cosine_mean": 1,
                "cosine_min": 0.5,
                "max_abs": 2,
                "tokens_equal": None,
                "tokens_total": None,
            }
        },
    }


def leaves(data: dict[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    """Paths of every field, including sections."""
    for key, value in data.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


FIELDS = sorted(leaves(sample()))
# sections whose keys are names and not fields
OPTIONAL = {("files", "vision_data"), ("parity", "vision")}


def spoiled(path: Path_, value: Any) -> dict[str, Any]:
    data = sample()
    put(data, path, value)
    return data


def put(data: dict[str, Any], path: Path_, value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def read(data: Any) -> Manifest:
    return Manifest.from_json(json.dumps(data), "x/manifest.json")


def faults_of(data: Any) -> list[str]:
    with pytest.raises(BundleError) as caught:
        read(data)
    lines = str(caught.value).splitlines()
    assert lines[0] == "x/manifest.json is not a valid manifest:"
    assert lines[-1] == "Convert the checkpoint again."
    assert all(line.startswith("  - ") for line in lines[1:-1])
    return [line.removeprefix("  - ") for line in lines[1:-1]]


def test_reads_every_field() -> None:
    manifest = read(sample())
    assert manifest.source.name == "Bücher/llava"
    assert manifest.source.license_files == ("LICENSE",)
    assert manifest.vision.image_mean == (0.5, 0.25, 0.0)
    assert [type(x) for x in manifest.vision.image_std] == [float] * 3
    assert manifest.vision.grid_pinpoints == ((336, 672), (672, 336))
    assert (manifest.vision.grid_side, manifest.vision.n_features) == (24, 576)
    assert manifest.language.n_head_kv == 8
    assert manifest.files["projector"] == FileEntry("projector.bin", 7, SHA)
    assert manifest.parity["vision"] == StageParity(1.0, 0.5, 2.0, None, None)


def test_class_token_adds_a_row() -> None:
    data = spoiled(("vision", "n_dropped_rows"), 0)
    put(data, ("vision", "aspect"), "pad")
    put(data, ("vision", "grid_pinpoints"), [])
    put(data, ("vision", "merge"), "flat")
    put(data, ("vision", "has_newline"), False)
    assert read(data).vision.n_features == 577


def test_round_trip() -> None:
    manifest = read(sample())
    assert Manifest.from_json(manifest.to_json(), "again") == manifest


def test_text_is_canonical() -> None:
    text = read(sample()).to_json()
    data = json.loads(text)
    assert text == json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert "Bücher" in text, "UTF-8, not escapes"
    assert list(data) == sorted(data)
    shuffled = dict(reversed(sample().items()))
    assert read(shuffled).to_json() == text


def test_text_is_utf8_even_if_a_directory_name_is_not() -> None:
    """Linux allows file names that are not UTF-8; Python reads them as lone surrogates."""
    manifest = read(spoiled(("source", "name"), "caf\udce9"))
    text = manifest.to_json().encode("utf-8").decode("utf-8")
    assert Manifest.from_json(text, "again") == manifest


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_removed_field_is_named(path: Path_) -> None:
    data = sample()
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    if path in OPTIONAL:
        assert read(data) != read(sample())
        return
    faults = faults_of(data)
    assert any(fault.startswith(f"{'.'.join(path)} is missing") for fault in faults), faults
    assert all(".".join(path) in fault for fault in faults), "a missing section is not one fault per field of it"


WRONG = {
    int: [None, "1", 1.0, True, [1], {}, 2**60],
    str: [None, 1, "", True, ["x"], {}],
    bool: [None, 0, 1, "true", []],
    dict: [None, 1, "x", [], [1]],
    list: [None, 1, "x", {}, [None], [[]], [[1]]],
}


def wrong_values() -> Iterator[tuple[Path_, Any]]:
    for path in FIELDS:
        value: Any = sample()
        for key in path:
            value = value[key]
        if value is None or (path[0] == "parity" and len(path) == 3):
            wrong = [True, [], {}, -1.5 if "tokens" in path[-1] else float("nan"), "0.5"]
            yield from ((path, w) for w in wrong if path != ("source", "revision") or not isinstance(w, str | float))
        else:
            # a newer format has a message of its own
            # and a bundle made with version 1 does not say how many blocks its tower runs
            allowed = {("format_version",): 2**60, ("vision", "n_blocks"): None, ("language", "template", "system"): ""}
            yield from ((path, w) for w in WRONG[type(value)] if path not in allowed or w != allowed[path])


@pytest.mark.parametrize(
    ("path", "value"), list(wrong_values()), ids=lambda x: ".".join(x) if isinstance(x, tuple) else None
)
def test_wrong_type_is_named(path: Path_, value: Any) -> None:
    faults = faults_of(spoiled(path, value))
    assert all(".".join(path) in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("format_version",), 0, "format_version is 0, expected an integer from 1"),
        (("source", "layout"), "onnx", 'source.layout is "onnx", expected one of hf, original, xtuner'),
        (("vision", "aspect"), "stretch", 'vision.aspect is "stretch", expected one of pad, crop, squash, anyres'),
        (("vision", "precision"), "int4", 'vision.precision is "int4", expected one of fp32, fp16, int8'),
        (("vision", "image_size"), 4097, "vision.image_size is 4097, expected an integer from 1"),
        (("vision", "patch_size"), 0, "vision.patch_size is 0, expected an integer from 1"),
        (("vision", "image_std"), [1, 1, 0], "vision.image_std is [1, 1, 0], expected three numbers"),
        (("vision", "image_mean"), [1, 1], "vision.image_mean is [1, 1], expected three numbers"),
        (("vision", "image_mean"), [0, 0, 10**400], "vision.image_mean is [0, 0, 1000"),
        (("vision", "image_mean"), [0, 0, float("inf")], "vision.image_mean is [0, 0, Infinity], expected three"),
        (("vision", "grid_pinpoints"), [[336, 0]], "vision.grid_pinpoints is [[336, 0]], expected a list of [width"),
        (("vision", "merge"), "stacked", 'vision.merge is "stacked", expected one of flat, spatial, spatial_unpad'),
        (("vision", "grid_pinpoints"), [], "vision.aspect 'anyres' and 0 grid_pinpoints"),
        (("vision", "grid_pinpoints"), [[336, 700]], "vision.grid_pinpoints are not multiples of image_size 336"),
        (("vision", "merge"), "flat", "vision.has_newline is true, and vision.merge is 'flat'"),
        (("vision", "n_dropped_rows"), 0, "vision.merge 'spatial_unpad' needs tiles of patches only"),
        (("projector", "kind"), "resampler", 'projector.kind is "resampler", expected one of linear, mlp2x_gelu'),
        (("language", "quant"), "Q9", 'language.quant is "Q9", expected one of F32'),
        (("language", "bos"), -1, "language.bos is -1, expected an integer from 0"),
        (("files", "vision", "bytes"), -1, "files.vision.bytes is -1, expected an integer from 0"),
        (("parity", "vision", "tokens_equal"), -1, "parity.vision.tokens_equal is -1, expected a count or null"),
    ],
)
def test_impossible_value_is_named(path: Path_, value: Any, fault: str) -> None:
    (found,) = faults_of(spoiled(path, value))
    assert found.startswith(fault)


def test_a_notice_is_kept_and_may_be_missing() -> None:
    notice = "Knows drawn shapes only, in grün."
    assert read(spoiled(("notice",), notice)).notice == notice
    assert read(spoiled(("notice",), None)).notice is None
    assert read(sample()).notice is None


@pytest.mark.parametrize("notice", ["", "  ", "two\nlines", "\x1b[2J", "x" * 301, 7, ["a"]])
def test_a_notice_that_cannot_be_shown_is_refused(notice: Any) -> None:
    (fault,) = faults_of(spoiled(("notice",), notice))
    assert fault.startswith("notice is")


def quantized() -> dict[str, Any]:
    """A manifest with the record of an int8 tower, which older manifests do not have."""
    kinds = {"layers.0.self_attn.q_proj": "int8", "layers.0.mlp.fc2": "blockwise8", "layers.1.mlp.fc2": "float"}
    record = {"matmuls": kinds, "cosine_mean": 0.9995, "cosine_min": 0.992, "n_pictures": 16}
    return spoiled(("vision", "quantization"), {**record, "budget_mean": 0.999, "budget_min": 0.99})


def test_record_of_an_int8_tower() -> None:
    manifest = read(quantized())
    record = manifest.vision.quantization
    assert record is not None
    assert record.matmuls["layers.0.mlp.fc2"] == "blockwise8"
    assert (record.cosine_mean, record.cosine_min, record.budget_mean, record.budget_min) == (
        0.9995,
        0.992,
        0.999,
        0.99,
    )
    assert record.describe() == (
        "3 MatMuls: 1 int8, 1 8-bit blockwise, 1 float; cosine 0.999500, worst patch 0.992000 "
        "over 16 calibration images"
    )
    assert Manifest.from_json(manifest.to_json(), "again") == manifest


@pytest.mark.parametrize("data", [sample(), spoiled(("vision", "quantization"), None)])
def test_manifest_without_that_record(data: Any) -> None:
    assert read(data).vision.quantization is None


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ((), 7, "vision.quantization is 7, expected an object"),
        (("matmuls",), [], "vision.quantization.matmuls is [], expected an object"),
        (
            ("matmuls", "layers.1.mlp.fc2"),
            "int4",
            'matmuls.layers.1.mlp.fc2 is "int4", expected one of int8, blockwise8',
        ),
        (("cosine_mean",), 1.5, "vision.quantization.cosine_mean is 1.5, expected a number from -1 to 1"),
        (("cosine_min",), None, "vision.quantization.cosine_min is null, expected a number from -1 to 1"),
        (("cosine_min",), float("nan"), "vision.quantization.cosine_min is NaN, expected a number from -1 to 1"),
        (("budget_mean",), "1", 'vision.quantization.budget_mean is "1", expected a number'),
        (("budget_min",), True, "vision.quantization.budget_min is true, expected a number"),
        (("n_pictures",), 0, "vision.quantization.n_pictures is 0, expected an integer from 1"),
    ],
)
def test_fault_of_that_record_is_named(path: Path_, value: Any, fault: str) -> None:
    data = quantized()
    put(data, ("vision", "quantization", *path), value)
    (found,) = faults_of(data)
    assert fault in found


@pytest.mark.parametrize("field", ["matmuls", "cosine_mean", "cosine_min", "budget_mean", "budget_min", "n_pictures"])
def test_missing_field_of_that_record_is_named(field: str) -> None:
    data = quantized()
    del data["vision"]["quantization"][field]
    (found,) = faults_of(data)
    assert found.startswith(f"vision.quantization.{field} is missing")


def test_record_of_a_tower_that_is_not_int8() -> None:
    data = quantized()
    put(data, ("vision", "precision"), "fp16")
    assert faults_of(data) == ["vision.quantization describes an int8 tower, and vision.precision is 'fp16'"]


def test_tower_that_ranks_patches() -> None:
    data = sample()
    data["vision"]["ranking"] = "class_attention"
    assert read(data).vision.ranking == "class_attention"
    data["vision"]["ranking"] = 1
    (fault,) = faults_of(data)
    assert fault.startswith("vision.ranking is 1, expected one of none, class_attention")
    data["vision"] |= {"ranking": "class_attention", "n_dropped_rows": 0, "merge": "flat", "has_newline": False}
    assert faults_of(data) == ["vision.ranking is 'class_attention', and other rows than patches are kept"]


def version_1() -> dict[str, Any]:
    """A manifest as the first bundles have it."""
    data = sample() | {"format_version": 1}
    for key in ("n_blocks", "has_class_row", "n_dropped_rows", "merge_limit", "several_images", "max_tiles", "ranking"):
        del data["vision"][key]
    data["vision"] |= {"feature_layer": -2, "drop_cls": True}
    for key in ("architecture", "end_ids", "tokenizer"):
        del data["language"][key]
    data["language"] |= {"template": "llava_v1", "image_marks": False}
    return data


def test_version_1() -> None:
    manifest = read(version_1())
    assert (manifest.vision.n_blocks, manifest.vision.has_class_row, manifest.vision.n_dropped_rows) == (None, True, 1)
    assert (manifest.vision.ranking, manifest.vision.merge_limit, manifest.vision.several_images) == (
        "none", None, "as_one"
    )  # fmt: skip
    assert (manifest.language.architecture, manifest.language.end_ids) == ("llama", (2,))
    assert manifest.language.tokenizer.model == "llama"
    assert manifest.language.tokenizer.adds_bos
    assert (manifest.language.template.name, manifest.language.template.between_turns) == ("llava_v1", ("</s>USER: ",))
    assert read(json.loads(manifest.to_json())) == manifest
    data = version_1()
    data["language"]["image_marks"] = True
    assert read(data).language.template.image_before == ("<im_start>",)
    data["language"]["template"] = "mpt"
    (fault,) = faults_of(data)
    assert fault.startswith('language.template is "mpt", expected one of llava_v1')
    data = version_1()
    data["vision"] |= {"has_ranking": True}
    assert read(data).vision.ranking == "class_attention"
    data["vision"] |= {"has_ranking": 1, "drop_cls": 0}
    assert faults_of(data) == [
        "vision.drop_cls is 0, expected true or false",
        "vision.has_ranking is 1, expected true or false",
    ]


def test_all_faults_at_once() -> None:
    data = sample()
    put(data, ("created_by",), 7)
    put(data, ("vision", "aspect"), "stretch")
    put(data, ("language", "n_layer"), "many")
    del data["projector"]
    del data["files"]["language"]
    assert faults_of(data) == [
        "created_by is 7, expected a non-empty string",
        'vision.aspect is "stretch", expected one of pad, crop, squash, anyres',
        "projector is missing (an object)",
        'language.n_layer is "many", expected an integer from 1',
        "files.language is missing",
    ]


def test_long_value_is_cut() -> None:
    (fault,) = faults_of(spoiled(("language", "architecture"), "Q" * 5000))
    assert len(fault) < 200


def test_newer_format_asks_for_an_upgrade() -> None:
    data = {"format_version": 3, "everything": "else is different"}
    with pytest.raises(BundleError) as caught:
        read(data)
    assert str(caught.value) == "x/manifest.json has format_version 3; this edge-llava reads 2. Upgrade edge-llava."


@pytest.mark.parametrize(
    "path",
    [
        "../vision.onnx",
        "a/../../vision.onnx",
        "..",
        "/etc/passwd",
        "a\\b.onnx",
        "..\\vision.onnx",
        "C:/vision.onnx",
        "C:vision.onnx",
        "//host/share/vision.onnx",
        "vision\0.onnx",
        "vision\x1b[2J.onnx",
        "vision\udcff.onnx",
    ],
)
def test_path_that_leaves_the_bundle(path: str) -> None:
    (fault,) = faults_of(spoiled(("files", "vision", "path"), path))
    assert fault == f"files.vision.path {path!r} leaves the bundle directory"


@pytest.mark.parametrize("path", ["a/b/vision.onnx", "..vision", "vision..onnx", "Büro.onnx", "with space.onnx"])
def test_path_that_stays_inside(path: str) -> None:
    assert read(spoiled(("files", "vision", "path"), path)).files["vision"].path == path


@pytest.mark.parametrize("sha", [SHA[:-1], SHA + "0", SHA.upper(), "g" * 64, " " + SHA[1:], SHA + "\n"])
def test_bad_digest(sha: str) -> None:
    assert faults_of(spoiled(("files", "parity", "sha256"), sha)) == [
        "files.parity.sha256 is not 64 lower-case hex digits"
    ]


def test_unknown_role() -> None:
    (fault,) = faults_of(spoiled(("files", "plugin"), {"path": "run.py", "bytes": 1, "sha256": SHA}))
    assert fault == "files.plugin is not a known role (vision, vision_data, projector, language, mmproj, parity)"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("vision", "patch_size"), 337, "vision.image_size 336 is smaller than patch_size 337"),
        (("vision", "hidden_size"), 1152, "projector.in_features 1024 != vision.hidden_size 1152"),
        (("language", "n_embd"), 5120, "projector.out_features 4096 != language.n_embd 5120"),
        (("language", "bos"), 32000, "language.bos 32000 is outside the vocabulary of 32000"),
        (("language", "eos"), 32001, "language.eos 32001 is outside the vocabulary of 32000"),
    ],
)
def test_disagreement(path: Path_, value: Any, fault: str) -> None:
    assert faults_of(spoiled(path, value)) == [fault]


def test_all_disagreements_at_once() -> None:
    data = spoiled(("vision", "hidden_size"), 1)
    put(data, ("language", "n_embd"), 1)
    put(data, ("language", "n_vocab"), 1)
    assert len(faults_of(data)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x is not JSON (line 1): Expecting value. Convert the checkpoint again."),
        ('{\n"format_version": 1,\n', "x is not JSON (line 3): "),
        ("[1]", "x does not contain a JSON object. Convert the checkpoint again."),
        ("7", "x does not contain a JSON object. Convert the checkpoint again."),
        ("[" * 100_000, "x is not JSON that a manifest may hold: "),
        ('{"format_version": ' + "9" * 5000 + "}", "x is not JSON that a manifest may hold: "),
    ],
)
def test_text_that_is_not_a_manifest(text: str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(text, "x")
    assert str(caught.value).startswith(message)
    with pytest.raises(BundleError, match=r"Ask its owner\.$"):
        Manifest.from_json(text, "x", "Ask its owner.")


def test_value_nested_almost_too_deep() -> None:
    """Reading it is possible, but writing it into the message may not be."""
    for depth in range(850, 1000, 3):
        data = json.dumps(sample()).replace('"hf"', "1").replace('"original"', "[" * depth + "]" * depth)
        with pytest.raises(BundleError):
            Manifest.from_json(data, "x")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2**31, 2**63, 10**400, -(10**400)])
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=8)
    | st.sampled_from(["hf", "pad", "Q4_K_M", "F32", "../x", "\ud800", "linear", SHA])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["path", "bytes", "x"]), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=4))
def test_any_json_in_any_field(changes: dict[Path_, Any]) -> None:
    """Either every fault is listed in a BundleError, or the manifest is valid and survives a round trip."""
    data = copy.deepcopy(sample())
    for path in sorted(changes, key=len, reverse=True):  # fields before the sections that contain them
        put(data, path, changes[path])
    try:
        manifest = read(data)
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json(), "again") == manifest
    assert manifest.language.eos < manifest.language.n_vocab


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 4000), st.binary(max_size=6))
def test_any_bytes_anywhere(at: int, garbage: bytes) -> None:
    data = json.dumps(sample()).encode()
    text = (data[:at] + garbage + data[at + len(garbage) :]).decode("utf-8", errors="replace")
    try:
        manifest = Manifest.from_json(text, "x")
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json(), "again") == manifest
