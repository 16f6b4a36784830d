"""The command itself, in processes of its own, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_llava.doctor import children
from edge_llava.doctor.children import run_probes

TOPICS = ["versions", "home", "locale", "processor", "memory", "llama.cpp", "ONNX Runtime", "answer"]


def doctor(*arguments, site=None):
    environment = os.environ | ({"PYTHONPATH": str(site)} if site else {})
    command = [sys.executable, "-m", "edge_llava.cli", "doctor", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_json_has_a_finding_for_each_topic_and_no_name(seeded_q4):
    done = doctor("-m", seeded_q4, "--json")
    report = json.loads(done.stdout)
    topics = [finding["topic"] for finding in report["findings"]]
    assert set(topics) >= {*TOPICS, "bundle"}
    problems = [finding for finding in report["findings"] if finding["level"] == "problem"]
    assert (report["ok"], done.returncode) == (not problems, 1 if problems else 0)
    assert {finding["level"] for finding in report["findings"] if finding["topic"] == "answer"} == {"ok"}
    assert report["probes"]["answer"]["facts"] == {"is_right": True, "language_on": "cpu", "vision_on": "cpu"}
    assert str(Path.home()) not in done.stdout


def test_libraries_that_crash_or_are_empty_are_findings(tmp_path):
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    (tmp_path / "onnxruntime_gpu-1.31.1.dist-info").mkdir()
    done = doctor(site=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "problem  llama.cpp     ended by SIGILL" in lines
    assert any("onnxruntime-gpu are both installed, and overwrite each other" in line for line in lines)
    assert any(line.startswith("problem  answer        no answer about an image: ended by SIGILL") for line in lines)
    assert any("the module onnxruntime is empty" in line for line in lines)


def test_what_a_child_reported_before_it_ended(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(
        "import os, sys\n"
        "from edge_llava.doctor.probes import PROBES\n"
        "from edge_llava.cli.doctor_probe import main\n"
        "def crash():\n    yield {'a': 1}\n    print('a library speaks')\n    yield {'b': 2}\n    os.abort()\n"
        "def hang():\n    yield {'c': 3}\n    while True: pass\n"
        "def fail():\n    yield {}\n    raise RuntimeError('no luck')\n"
        "PROBES |= {'crash': crash, 'hang': hang, 'fail': fail}\n"
        "main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(children, "_COMMAND", (sys.executable, str(tmp_path / "faulty.py")))
    outcomes = run_probes({"hang": (), "crash": (), "fail": ()}, 3.0)
    assert outcomes["crash"].facts == {"a": 1, "b": 2}
    assert outcomes["crash"].failure == "ended by SIGABRT"
    assert (outcomes["hang"].facts, outcomes["hang"].failure) == ({"c": 3}, "took longer than 3 s")
    assert outcomes["fail"].failure == "failed: RuntimeError: no luck"


def test_programs_of_the_system():
    assert children.ask_program([sys.executable, "-c", "print('x')"], 10).strip() == "x"
    assert children.ask_program([sys.executable, "-c", "raise SystemExit(1)"], 10) == ""
    assert children.ask_program(["no-such-program"], 10) == ""


def test_examining_loads_no_engine_and_no_torch():
    code = (
        "import sys\nfrom edge_llava.doctor.examination import examine\n"
        "assert examine(None).findings\n"
        "loaded = {'torch', 'transformers', 'llama_cpp', 'onnxruntime', 'edge_llava.converters'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(os.name == "nt", reason="paths of another kind")
def test_no_such_bundle():
    done = doctor("-m", "none")
    assert done.returncode == 6
    assert "there is no bundle 'none'" in done.stderr
