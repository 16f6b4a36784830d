"""An app is really frozen, and run without Python: no environment variables, another directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest

import edge_llava

pytestmark = pytest.mark.slow  # PyInstaller takes a minute

APP = """
import sys

import edge_llava

if sys.argv[1] == "--selftest":
    from edge_llava.cli.selftest import main

    main(sys.argv[2:])
with edge_llava.load(sys.argv[1]) as model:
    how = edge_llava.SamplingOptions(temperature=0, max_new_tokens=12, json_schema={"type": "string"})
    chat = model.session(how)
    sys.stdout.write("".join(token.text for token in chat.ask(sys.argv[2], image=sys.argv[3])))
"""
NO_LIBPYTHON = "Python library"  # what PyInstaller says of a Python that has no shared library


@pytest.fixture(scope="module")
def frozen(wheel_path, tmp_path_factory):
    """The directory of the frozen app, made against the wheel as users install it."""
    pytest.importorskip("PyInstaller")
    place = tmp_path_factory.mktemp("freezing")
    with zipfile.ZipFile(wheel_path) as wheel:
        wheel.extractall(place / "site")
    (place / "app.py").write_text(APP)
    environment = os.environ | {"PYTHONPATH": str(place / "site"), "PYINSTALLER_CONFIG_DIR": str(place / "cache")}
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "app.py"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and NO_LIBPYTHON in done.stderr:
        pytest.skip("this Python has no shared library, which PyInstaller needs")
    assert done.returncode == 0, done.stderr
    return place / "dist" / "app"


@pytest.fixture
def run_frozen(frozen, tmp_path):
    """run_frozen(*arguments) -> CompletedProcess of the app, in an environment as bare as the system allows."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP") if name in os.environ}  # of Windows

    def run(*arguments):
        environment = kept | {"EDGE_LLAVA_HOME": str(tmp_path / "home")}
        command = [str(frozen / "app"), *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_the_frozen_app_finds_its_libraries_and_computes(run_frozen, seeded_q4):
    done = run_frozen("--selftest", seeded_q4, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == ["process", "llama.cpp", "ONNX Runtime", "tiny bundle", "bundle", "answer"]
    assert report["ok"]
    assert ", frozen;" in checks["process"]["detail"]
    assert f"edge-llava {version('edge-llava')}," in checks["process"]["detail"]
    assert checks["answer"]["detail"].startswith("32 tokens in ")


@pytest.mark.convert
def test_the_frozen_app_says_what_python_says(run_frozen, seeded_q4, shapes):
    done = run_frozen(seeded_q4, "What is this?", shapes)
    assert (done.returncode, done.stderr) == (0, "")
    with edge_llava.load(seeded_q4) as model:
        how = edge_llava.SamplingOptions(temperature=0, max_new_tokens=12, json_schema={"type": "string"})
        chat = model.session(how)
        text = "".join(token.text for token in chat.ask("What is this?", image=shapes))
    assert done.stdout == text != ""


def test_what_makes_bundles_stays_outside(frozen):
    inside = {path.name for path in (frozen / "_internal").iterdir()}
    assert {"llama_cpp", "llguidance", "onnxruntime", "numpy", "PIL"} <= inside
    described = {name.split("-")[0] for name in inside if name.endswith(".dist-info")}
    assert {"edge_llava", "llama_cpp_python", "llguidance", "onnxruntime"} <= described
    assert not inside & {
        "torch",
        "transformers",
        "onnx",
        "gguf",
        "optimum",
        "peft",
        "accelerate",
        "matplotlib",
        "PySide6",
    }
    assert sum(path.stat().st_size for path in frozen.rglob("*") if path.is_file()) < 400e6


def test_the_exit_code_reports_a_failure(run_frozen, tmp_path):
    done = run_frozen("--selftest", tmp_path)
    assert (done.returncode, done.stdout) == (6, "")
    assert "is not a bundle" in done.stderr
