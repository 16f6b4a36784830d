from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from edge_llava.cli.selftest import main
from edge_llava.errors import BundleError
from edge_llava.selftest import tiny_bundle
from edge_llava.selftest.gguf_writer import write_gguf
from edge_llava.selftest.tiny_bundle import write_tiny_bundle

NAMES = ["process", "llama.cpp", "ONNX Runtime", "tiny bundle"]


@pytest.fixture
def selftest(capfd):
    """selftest(*arguments) -> (exit code, stdout, stderr) of `edge-llava-selftest`."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        return int(exit_.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_bundle(tmp_path)


def test_without_a_bundle(selftest):
    code, out, err = selftest()
    assert (code, err) == (0, "")
    assert [line[:4] for line in out.splitlines()] == ["ok  "] * 4
    assert "llama-cpp-python" in out
    assert "CPUExecutionProvider" in out
    assert "picture and question give 'ok'" in out


def test_json(selftest):
    code, out, _ = selftest("--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert [(check["name"], check["ok"]) for check in report["checks"]] == [(name, True) for name in NAMES]


@pytest.mark.convert
def test_with_a_bundle(selftest, seeded_q4):
    code, out, _ = selftest(seeded_q4)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[4:]] == [["ok", "bundle"], ["ok", "answer"]]
    assert "32 tokens in " in out


def test_a_bundle_that_does_not_compute_what_it_should(selftest, tiny):
    """Its features are those of another tower; the digests are right."""
    record = tiny_bundle.ParityRecord.load(tiny.file("parity"))
    record.features[...] = -record.features
    record.save(tiny.file("parity"))
    manifest = json.loads((tiny.path / "manifest.json").read_text())
    entry = tiny_bundle.describe_file(tiny.file("parity"), tiny.path)
    manifest["files"]["parity"] = {"path": entry.path, "bytes": entry.bytes, "sha256": entry.sha256}
    (tiny.path / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = selftest(tiny.path)
    assert code == 9
    assert "the self-test failed" in err
    assert "FAIL  bundle " in out
    assert "does not compute here what it should: vision: cosine -1" in out


def test_an_engine_that_computes_wrongly(selftest, monkeypatch):
    monkeypatch.setattr(tiny_bundle, "ANSWER", "no")
    successors = tiny_bundle._successors()
    assert successors[successors[3 + ord(":")]] == 3 + ord("o")  # the table follows the answer
    monkeypatch.setattr("edge_llava.runtime.language.single_decoder.Decoder.piece", lambda *_, **__: b"?")
    code, out, _ = selftest()
    assert code == 9
    assert "FAIL  tiny bundle   the answer is '??', expected 'no': an engine computes wrongly." in out


@pytest.mark.parametrize(
    ("module", "failed"),
    [("onnxruntime", ["ONNX Runtime", "tiny bundle"]), ("llama_cpp", ["llama.cpp", "tiny bundle"])],
)
def test_a_library_that_is_not_there(module, failed):
    """As in a frozen app whose libraries were not collected: a fresh process that cannot import one."""
    code = f"import sys; sys.modules[{module!r}] = None\nfrom edge_llava.cli.selftest import main\nmain(['--json'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    report = json.loads(done.stdout)
    assert [check["name"] for check in report["checks"] if not check["ok"]] == failed
    assert all("docs/desktop.md" in check["detail"] for check in report["checks"] if not check["ok"])
    assert "Traceback" not in done.stderr


def test_no_such_bundle(selftest):
    code, out, err = selftest("no-such-bundle")
    assert (code, out) == (BundleError.exit_code, "")
    assert "edge-llava-selftest: there is no bundle 'no-such-bundle'" in err


def test_it_is_a_module_too_and_loads_no_converter():
    script = (
        "import runpy, sys\nsys.argv = ['x']\n"
        "try: runpy.run_module('edge_llava.selftest', run_name='__main__')\n"
        "except SystemExit as exit_: assert not exit_.code\n"
        "assert not {'torch', 'transformers', 'onnx', 'gguf', 'edge_llava.converters'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("ok  ") == 4
    assert done.stderr == ""


def test_the_tiny_bundle_is_the_same_every_time(tiny, tmp_path):
    (tmp_path / "again").mkdir()
    assert write_tiny_bundle(tmp_path / "again").manifest == tiny.manifest


@pytest.mark.convert
def test_the_tower_is_what_the_package_onnx_writes():
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Reshape", ["pixel_values", "shape"], ["rows"]),
        helper.make_node("Add", ["rows", "rows"], ["patch_features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("patch_features", TensorProto.FLOAT, ["batch", 4, 48])],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [0, 4, 48])],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset, producer_name="edge-llava")
    assert model.SerializeToString() == tiny_bundle._TOWER


@pytest.mark.convert
def test_a_file_reads_as_it_was_written(tmp_path):
    from gguf import GGUFReader

    metadata = {"a.int": 7, "a.float": 0.5, "a.flag": True, "a.text": "zwölf", "a.texts": ["x", ""], "a.ints": [1, -2]}
    tensors = {"one": np.arange(3, dtype=np.float32), "two": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_gguf(tmp_path / "a.gguf", {**metadata, "a.floats": [0.25]}, tensors)
    reader = GGUFReader(tmp_path / "a.gguf")
    read = {key: field.contents() for key, field in reader.fields.items() if key.startswith("a.")}
    assert read == {**metadata, "a.floats": [0.25]}
    assert {tensor.name: tensor.data.tolist() for tensor in reader.tensors} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_the_projector_of_the_reference_has_the_exact_gelu():
    weights = {
        "mm.0.weight": np.eye(1, dtype=np.float32),
        "mm.0.bias": np.zeros(1, np.float32),
        "mm.2.weight": np.eye(1, dtype=np.float32),
        "mm.2.bias": np.zeros(1, np.float32),
    }
    ((value,),) = tiny_bundle._project(np.array([[0.5]], np.float32), weights).tolist()
    assert value == pytest.approx(0.5 * 0.5 * (1 + math.erf(0.5 / math.sqrt(2))), abs=1e-7)
