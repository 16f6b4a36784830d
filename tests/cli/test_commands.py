from __future__ import annotations

import dataclasses
import inspect
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from edge_llava import demo
from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import Manifest
from edge_llava.cli import cli
from edge_llava.cli.eval_data import DataCommand
from edge_llava.cli.options import EngineChoice, EngineCommand
from edge_llava.cli.remote import RemoteChoice, RemoteCommand
from edge_llava.device.memory import is_out_of_memory
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.source import ReadOptions
from edge_llava.home.installation import install_command

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]


def test_convert_demo_then_chat_needs_no_more_options(run, photo, home, seeded_q4):
    converted = run("convert", "demo", "--quant", "q4_k_m")
    assert converted.code == 0
    assert "demo-q4_k_m is now the default" in converted.err.splitlines()
    assert converted.out.strip() == str(home / "bundles" / "demo-q4_k_m")
    made, shipped = (Bundle.open(path).manifest for path in (home / "bundles" / "demo-q4_k_m", demo.BUNDLE))
    for role in ("language", "projector"):
        assert made.files[role] == shipped.files[role], "make demo-bundle"
    assert made.notice == shipped.notice == demo.NOTICE
    assert run("chat", photo, "-p", "What?", "-n", 2).code == 0
    again = run("convert", "demo")
    assert (again.code, again.out) == (5, "")
    assert "--force" in again.err
    assert run("models", "default", seeded_q4).code == 0
    replaced = run("convert", "demo", "--force")
    assert replaced.code == 0
    assert f"demo-q4_k_m is now the default, in place of {seeded_q4}" in replaced.err.splitlines()


def test_convert_json(run, seeded_checkpoint, tmp_path, home):
    options = ("--quant", "Q8_0", "--vision", "fp32", "--json")
    result = run("convert", seeded_checkpoint, "-o", tmp_path / "bundle", *options)
    report = json.loads(result.out)
    assert set(report) == {"bundle", "bytes", "seconds", "peak_rss_bytes", "stages", "parity"}
    files = (path for path in (tmp_path / "bundle").iterdir() if path.name != "manifest.json")
    assert report["bytes"] == sum(path.stat().st_size for path in files)
    assert sum(stage["seconds"] for stage in report["stages"]) == pytest.approx(report["seconds"], abs=5)
    assert report["peak_rss_bytes"] >= max(stage["peak_rss_bytes"] for stage in report["stages"])
    assert report["parity"]["preprocess"]["max_abs"] == 0.0
    assert report["parity"]["vision"]["max_abs"] < 1e-4
    assert not (home / "default").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("no/such/directory",), 4, "no/such/directory"),
        (("EMPTY",), 4, "config.json"),
        (("demo", "--quant", "Q9_X"), 2, "Q9_X"),
        (("demo", "--vision", "fp16", "--calibrate", "EMPTY"), 2, "--calibrate"),
        (("demo", "--calibrate", "EMPTY"), 7, "to measure with"),
        (("demo", "-o", "EMPTY_WITH_FILE"), 5, "is not a bundle"),
        (("demo", "--vision-tower", "EMPTY"), 4, "--vision-tower"),
        ((), 2, "--yes"),
        (("llava-hf/llava-1.5-7b-hf",), 4, "cannot be reached"),
    ],
)
def test_convert_bad_input(run, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    places = {"EMPTY": tmp_path / "empty", "EMPTY_WITH_FILE": tmp_path / "other"}
    result = run("convert", *(places.get(argument, argument) for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert (tmp_path / "other" / "precious.txt").read_text() == "mine"


def test_convert_alone_explains_size_time_and_disk(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    text = run("convert").err
    for word in ("download", "bundle", "disk", "time", "chat demo:1"):
        assert word in text


def test_missing_extra_prints_the_pip_line(run, monkeypatch, seeded_checkpoint, tmp_path):
    monkeypatch.setitem(sys.modules, "optimum", None)
    result = run("convert", seeded_checkpoint, "-o", tmp_path / "bundle")
    assert result.code == 3
    assert install_command("convert") in result.err


@pytest.mark.parametrize("stage", [b"vision tower", b"language model"])
def test_ctrl_c_in_a_conversion_leaves_nothing(tmp_path, stage):
    out = tmp_path / "bundle"
    process = subprocess.Popen([*COMMAND, "convert", "demo", "-o", out], stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while stage not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    process.stderr.close()
    assert rest.endswith(b"interrupted\n")
    assert b"Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_verify_says_ok_and_json_lists_the_checks(run, seeded_q4):
    result = run("verify", seeded_q4, "--json")
    report = json.loads(result.out)
    assert (result.code, report["ok"]) == (0, True)
    assert [check["name"] for check in report["checks"]] == ["files", "preprocess", "vision", "projector", "language"]
    assert all(set(check) >= {"name", "ok", "detail"} for check in report["checks"])
    assert report["checks"][-1]["tokens_equal"] == report["checks"][-1]["tokens_total"] == 16


def test_verify_against_the_checkpoint_says_what_costs_most(run, converted_q4, seeded_checkpoint):
    result = run("verify", converted_q4, "--checkpoint", seeded_checkpoint)
    assert result.code == 0
    assert "language costs most" in result.out


@pytest.mark.parametrize(
    "name", ["vision.onnx", "vision.onnx.data", "projector.gguf", "language.gguf", "parity.safetensors"]
)
def test_verify_finds_a_flipped_byte_in_any_file(run, seeded_q4, tmp_path, name):
    bundle = tmp_path / "bundle"
    shutil.copytree(seeded_q4, bundle)
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    result = run("verify", bundle)
    assert result.code == 6
    assert "FAIL" in result.out
    assert name in result.out


def test_inspect(run, seeded_q4):
    text = run("inspect", seeded_q4).out
    for fact in ("Q4_K_M", "Q6_K", "mlp2x_gelu", "llava_v1", "56 px (pad)", "64 image tokens", "language.gguf"):
        assert fact in text
    facts = json.loads(run("inspect", seeded_q4, "--json").out)
    stored = json.loads((seeded_q4 / "manifest.json").read_text())
    stored["language"] |= {"importance": None, "mix": {}}  # which it was made before
    stored["notice"] = None
    assert facts["manifest"] == stored


def test_models_list_default_and_rm(run, seeded_q4, home):
    assert json.loads(run("models", "list", "--json").out)["bundles"] == []
    assert run("models", "default").code == 6
    for name in ("one", "two"):
        shutil.copytree(seeded_q4, home / "bundles" / name)
    assert run("models", "default", "two").out.strip() == "two"
    assert [line.split()[:2] for line in run("models", "list").out.splitlines()] == [["one", "313.7"], ["*", "two"]]
    (home / "bundles" / "one" / "language.gguf").unlink()
    assert "damaged" in run("models", "list").out
    assert run("models", "rm", "no-such", "--yes").code == 6
    removed = run("models", "rm", "two", "--yes")
    assert removed.code == 0
    assert not (home / "bundles" / "two").exists()
    assert removed.err.splitlines()[1:] == ["one is now the default"]
    assert run("models", "default").out == "one\n"
    assert run("models", "list").out.startswith("* one")
    assert run("models", "rm", "one", "--yes").err.splitlines()[1:] == ["There is no default bundle now."]
    assert run("models", "default").code == 6


def test_help_of_every_command_works_with_h_and_fits_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("convert", "chat", "caption", "embed", "verify", "inspect", "models", "cache", "eval", "tune", "bench")
    for command in ((), *((name,) for name in names)):
        short, long = run(*command, "-h"), run(*command, "--help")
        assert short.code == 0
        assert short.out == long.out
        assert max(map(len, short.out.splitlines())) <= 80


def test_help_imports_no_engine():
    script = (
        "import sys\nfrom edge_llava.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'llama_cpp', 'onnxruntime', 'torch', 'rich', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def commands(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def test_the_signature_of_a_command_shows_everything_it_takes():
    """No option reaches the code of a command on another way."""
    n_with_engines = n_with_data = n_remote = 0
    for command in commands(cli):
        assert all(parameter.expose_value for parameter in command.params), command.name
        taken = {parameter.name for parameter in command.params}
        if isinstance(command, EngineCommand):
            n_with_engines += 1
            of_engines = {field.name for field in dataclasses.fields(EngineChoice)}
            assert taken & of_engines, command.name
            taken = taken - of_engines | {"engines"}
        if isinstance(command, DataCommand):
            n_with_data += 1
            taken = taken - {field.name for field in dataclasses.fields(ReadOptions)} | {"reading"}
        if isinstance(command, RemoteCommand):
            n_remote += 1
            taken = taken - {field.name for field in dataclasses.fields(RemoteChoice)} | {"remote"}
        assert taken == set(inspect.signature(command.callback).parameters), command.name
    assert n_with_engines == 9 + len(KINDS)  # which ask benchmarks
    assert n_with_data == 3 + len(KINDS)
    assert n_remote == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "PHOTO", "-p", "What?", "-n", 1),
        ("embed", "PHOTO", "-o", "OUT"),
        ("caption", "FOLDER", "-n", 1),
        ("eval", "scenes", "-n", 1),
        ("verify",),
        ("inspect",),
    ],
)
def test_a_bundle_is_opened_once(run, photo, seeded_q4, tmp_path, monkeypatch, arguments):
    opened, read = [], Manifest.from_json
    monkeypatch.setattr(Manifest, "from_json", lambda *of: (opened.append(of), read(*of))[1])
    monkeypatch.setenv("EDGE_LLAVA_MODEL", str(seeded_q4))
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_DESCRIPTION_TOKENS", 1)
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos")
    places = {"PHOTO": photo, "OUT": tmp_path / "x.safetensors", "FOLDER": tmp_path / "photos"}
    assert run(*(places.get(argument, argument) for argument in arguments)).code == 0
    assert len(opened) == 1


def test_debug_shows_the_traceback(seeded_q4):
    command = [
        sys.executable,
        "-c",
        "from edge_llava.cli import main; main()",
        "--debug",
        "chat",
        "none.jpg",
        "-p",
        "x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 7
    assert "Traceback" in done.stderr


def test_rm_deletes_what_it_asked_about(run, seeded_q4, home, tmp_path, monkeypatch):
    for place in (tmp_path, home / "bundles"):
        shutil.copytree(seeded_q4, place / "same")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    result = run("models", "rm", "same")
    assert str(home / "bundles" / "same") in result.err
    assert str(tmp_path / "same") not in result.err
    assert (tmp_path / "same" / "manifest.json").is_file()
    assert not (home / "bundles" / "same").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("convert", "~nobody-here/x"), 4),
        (("convert", "a/b--c"), 4),
        (("chat", "PHOTO", "-p", "x", "--stop", ""), 2),
        (("chat", "PHOTO", "-p", "x", "--temp", "nan"), 2),
        (("chat", "PHOTO", "-p", "\udcff"), 2),
        (("models", "default", "."), 6),
    ],
)
def test_odd_input_is_no_bug(run, photo, seeded_q4, monkeypatch, arguments, code):
    monkeypatch.setenv("EDGE_LLAVA_MODEL", str(seeded_q4))
    result = run(*(photo if argument == "PHOTO" else argument for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert "This is a bug" not in result.err


def test_the_model_variable_serves_every_command(run, seeded_q4, monkeypatch):
    monkeypatch.setenv("EDGE_LLAVA_MODEL", str(seeded_q4))
    assert run("inspect").code == 0
    assert run("verify").code == 0


def test_too_little_memory_is_not_called_a_bug() -> None:
    code = """
import click
from edge_llava.cli import run_command
run_command(click.Command("x", callback=lambda: bytearray(1 << 60)), [], "edge-llava")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("edge-llava: out of memory. Close other programs")
    assert "bug" not in run.stderr


@pytest.mark.parametrize(
    "cause",
    [
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_how_too_little_memory_is_worded(cause: Exception) -> None:
    error = LookupError("x")
    assert not is_out_of_memory(error)
    error.__cause__ = cause
    assert is_out_of_memory(error)
