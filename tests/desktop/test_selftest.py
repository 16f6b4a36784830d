from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from edge_llava.bundle.bundle import Bundle, describe_file
from edge_llava.bundle.parity_record import ParityRecord
from edge_llava.cli.selftest import main
from edge_llava.errors import BundleError

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


def test_without_a_bundle(selftest):
    code, out, err = selftest()
    assert (code, err) == (0, "")
    assert [line[:4] for line in out.splitlines()] == ["ok  "] * 4
    assert "llama-cpp-python" in out
    assert "CPUExecutionProvider" in out
    assert "8 tokens about an image are the expected ones" in out


def test_json(selftest):
    code, out, _ = selftest("--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert [(check["name"], check["ok"]) for check in report["checks"]] == [(name, True) for name in NAMES]


def test_with_a_bundle(selftest, seeded_q4):
    code, out, _ = selftest(seeded_q4)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[4:]] == [["ok", "bundle"], ["ok", "answer"]]
    assert "32 tokens in " in out


def test_a_bundle_that_does_not_compute_what_it_should(selftest, seeded_f32, tmp_path):
    """Its features are those of another tower; the digests are right."""
    bundle = Bundle.open(shutil.copytree(seeded_f32, tmp_path / "b"))
    record = ParityRecord.load(bundle.file("parity"))
    record.features[...] = -record.features
    record.save(bundle.file("parity"))
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    entry = describe_file(bundle.file("parity"), bundle.path)
    manifest["files"]["parity"] = {"path": entry.path, "bytes": entry.bytes, "sha256": entry.sha256}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = selftest(bundle.path)
    assert code == 9
    assert "the self-test failed" in err
    assert "FAIL  bundle " in out
    assert "does not compute here what it should: vision: cosine -1" in out


def test_another_answer_than_the_expected_one(selftest, monkeypatch):
    monkeypatch.setattr("edge_llava.selftest.checks._TINY_ANSWER", (27, 506, 107))
    code, out, _ = selftest()
    assert code == 9
    says = "the answer is (27, 506, 106), expected (27, 506, 107): an engine computes incorrectly."
    assert f"FAIL  tiny bundle   {says}" in out


@pytest.mark.parametrize(
    ("module", "failed"),
    [("onnxruntime", ["ONNX Runtime", "tiny bundle"]), ("llama_cpp", ["llama.cpp", "tiny bundle"])],
)
def test_a_library_that_is_not_there(module, failed):
    """As in a frozen app whose libraries were not collected: a fresh process that cannot import one."""
    hide = f"import sys; sys.frozen = True; sys.modules[{module!r}] = None"
    code = f"{hide}\nfrom edge_llava.cli.selftest import main\nmain(['--json'])"
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
