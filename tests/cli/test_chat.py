from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]


def test_json_is_one_object_and_nothing_else_is_on_stdout(run, seeded_q4, photo):
    result = run("chat", photo, "-m", seeded_q4, "-p", "What is on the table?", "-n", 8, "--temp", 0, "--json")
    assert result.code == 0
    answer = json.loads(result.out)
    assert answer["model"] == seeded_q4.name
    assert set(answer) == {"model", "text", "tokens", "finish_reason", "prompt", "images", "timings"}
    assert answer["prompt"] == "What is on the table?"
    assert 1 <= len(answer["tokens"]) <= 8
    assert answer["finish_reason"] in ("stop", "length")
    assert [(image["path"], image["n_tokens"]) for image in answer["images"]] == [(str(photo), 64)]
    assert re.fullmatch("[0-9a-f]{64}", answer["images"][0]["key"])
    assert answer["timings"]["prefill_tokens"] > 64
    assert answer["timings"]["vision_s"] > 0


def test_streams_the_same_text_that_json_holds(run, seeded_q4, photo):
    options = ("-m", seeded_q4, "-p", "What?", "-n", 8, "--temp", 0)
    streamed = run("chat", photo, *options)
    assert streamed.code == 0
    assert streamed.out.strip() == json.loads(run("chat", photo, *options, "--json").out)["text"]


def test_same_seed_same_answer(run, seeded_q4, photo):
    options = ("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 12, "--temp", 1.5, "--json", "--seed")
    first, second, other = (json.loads(run(*options, seed).out)["tokens"] for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_shows_what_the_model_reads(run, seeded_q4, photo, monkeypatch):
    result = run("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 1, "--show-prompt")
    assert result.code == 0
    assert (
        "<s> A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <image: 64 positions> \nWhat? ASSISTANT:"
    ) in result.err
    assert "USER:" not in result.out
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    result = run("chat", photo, "-m", seeded_q4, "--show-prompt")
    assert (result.code, result.out) == (2, "")
    assert "--show-prompt shows one question: give it with -p" in result.err


def test_shows_what_the_tower_sees(run, seeded_q4, photo, tmp_path):
    from PIL import Image

    seen = tmp_path / "seen.png"
    result = run("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 1, "--show-input", seen)
    assert result.code == 0
    with Image.open(seen) as image, Image.open(photo) as original:
        assert image.size == (56, 56)
        assert original.width > original.height
        assert image.getpixel((28, 1)) == (122, 116, 104)  # padded above
    again = run("chat", seen, "-m", seeded_q4, "-p", "What?", "-n", 8, "--temp", 0, "--json")
    first = run("chat", photo, "-m", seeded_q4, "-p", "What?", "-n", 8, "--temp", 0, "--json")
    assert json.loads(again.out)["tokens"] == json.loads(first.out)["tokens"]
    assert run("chat", photo, photo, "-m", seeded_q4, "-p", "What?", "--show-input", seen).code == 2
    result = run("chat", photo, "-m", seeded_q4, "-p", "What?", "--show-input", tmp_path / "seen.jpg")
    assert (result.code, (tmp_path / "seen.jpg").exists()) == (2, False)
    assert "an image cannot be written as .jpg, only as .png" in result.err
    assert run("chat", photo, "-m", seeded_q4, "-p", "What?", "--show-input", tmp_path / "no" / "x.png").code == 2


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])  # a byte order mark, as PowerShell puts it before a pipe
def test_question_from_a_pipe(run, seeded_q4, photo, monkeypatch, mark):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(mark + b"What is this?\n")))
    result = run("chat", photo, "-m", seeded_q4, "-n", 4, "--json")
    assert json.loads(result.out)["prompt"] == "What is this?"


def test_image_from_a_pipe_equals_the_file(run, seeded_q4, photo, monkeypatch):
    options = ("-m", seeded_q4, "-p", "What?", "-n", 2, "--temp", 0, "--json")
    from_file = json.loads(run("chat", photo, *options).out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    from_pipe = json.loads(run("chat", "-", *options).out)
    assert from_pipe["images"][0]["key"] == from_file["images"][0]["key"]
    assert from_pipe["tokens"] == from_file["tokens"]


def test_answers_follow_a_schema(run, seeded_q4, photo, tmp_path):
    (tmp_path / "schema.json").write_text('{"properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}', "utf-8-sig")
    options = ("-m", seeded_q4, "-p", "How many?", "--json-schema", tmp_path / "schema.json")
    assert json.loads(run("chat", photo, *options).out)["n"] in (1, 2)
    (tmp_path / "schema.json").write_text('{"items": {"format": "idn-email"}}')
    result = run("chat", photo, "-m", "no-such-bundle", *options[2:])
    assert (result.code, result.out) == (2, "")
    assert "json_schema: items.format must be one of date" in result.err


def test_two_images(run, seeded_q4, photo):
    answer = json.loads(run("chat", photo, photo, "-m", seeded_q4, "-p", "What changed?", "-n", 2, "--json").out)
    assert len(answer["images"]) == 2
    assert answer["timings"]["prefill_tokens"] > 128


def test_embedding_file_gives_the_answer_of_its_image(run, seeded_q4, photo, tmp_path):
    file = tmp_path / "table.safetensors"
    made = run("embed", photo, "-o", file, "-m", seeded_q4)
    assert (made.code, made.out.strip()) == (0, str(file))
    options = ("-m", seeded_q4, "-p", "What?", "-n", 8, "--temp", 0, "--json")
    direct = json.loads(run("chat", photo, *options).out)
    loaded = json.loads(run("chat", "--embedding", file, *options).out)
    assert loaded["tokens"] == direct["tokens"]
    assert loaded["images"][0]["key"] == direct["images"][0]["key"]
    assert loaded["timings"]["vision_s"] == 0


def test_half_precision_embedding_is_half_the_size(run, seeded_q4, photo, tmp_path):
    for dtype in ("float32", "float16"):
        run("embed", photo, "-o", tmp_path / dtype, "-m", seeded_q4, "--dtype", dtype)
    sizes = [(tmp_path / dtype).stat().st_size for dtype in ("float32", "float16")]
    assert sizes[0] - sizes[1] == 64 * 64 * 2


def test_embedding_of_another_projector_is_refused_by_name(run, seeded_q4, seeded_f32, photo, tmp_path):
    file = tmp_path / "table.safetensors"
    run("embed", photo, "-o", file, "-m", seeded_f32)
    result = run("chat", "--embedding", file, "-m", seeded_q4, "-p", "What?")
    assert (result.code, result.out) == (7, "")
    assert "another projector" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("no-such.jpg", "-p", "x"), 7, "there is no file no-such.jpg"),
        (("PHOTO", "-p", "x", "-m", "no-such-bundle"), 6, "no-such-bundle"),
        (("PHOTO", "-p", "word " * 2000), 8, "1024"),
        (("PHOTO", "-p", "x", "--provider", "cuda"), 9, "CUDA"),
        (("PHOTO", "-p", "x", "--temp", "-1"), 2, "--temp"),
        (("PHOTO", "-p", "x", "--embedding", "no-such.safetensors"), 7, "no-such.safetensors"),
        (("-p",), 2, "-p"),
    ],
)
def test_bad_input_is_one_clear_error(run, seeded_q4, photo, monkeypatch, arguments, code, says):
    monkeypatch.setenv("EDGE_LLAVA_MODEL", str(seeded_q4))
    result = run("chat", *(photo if argument == "PHOTO" else argument for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert says in result.err


def test_a_missing_image_is_found_before_the_engines_are_opened(run, tmp_path):
    (tmp_path / "bundle").mkdir()
    assert "no file nowhere.png" in run("chat", "nowhere.png", "-p", "x", "-m", tmp_path / "bundle").err


def test_empty_pipe_is_a_usage_error(run, seeded_q4, photo, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
    result = run("chat", photo, "-m", seeded_q4)
    assert (result.code, result.out) == (2, "")


def test_no_torch_in_a_whole_chat(seeded_q4, photo):
    script = (
        "import sys\nfrom edge_llava.cli import main\n"
        f"try: main(['chat', {str(photo)!r}, '-m', {str(seeded_q4)!r}, '-p', 'x', '-n', '2'])\n"
        "except SystemExit as error: assert not error.code\n"
        "bad = {'torch', 'transformers', 'optimum', 'onnx'} & set(sys.modules)\nassert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdin=subprocess.DEVNULL)


def test_conversation_on_a_terminal(open_terminal, seeded_q4, photo, tmp_path):
    terminal = open_terminal("chat", photo, "-m", seeded_q4, "-n", 6, "--temp", 0)
    saved = tmp_path / "talk.md"
    terminal.read_until(r"\[1 image\] > ")
    terminal.type("What is this?\n")
    assert "first word" in terminal.read_until(r"\n> ")
    terminal.type("And now?\n")
    assert "reused" in terminal.read_until(r"\n> ")
    terminal.type("/help\n")
    assert "/image PATH" in terminal.read_until(r"\n> ")
    terminal.type("/image /no/such.png\n")
    assert "there is no file" in terminal.read_until(r"\n> ")
    terminal.type(f"/image {photo}\n")
    terminal.read_until(r"\[1 image\] > ")
    terminal.type("/nonsense\n")
    assert "no command /nonsense" in terminal.read_until(r"\[1 image\] > ")
    terminal.type(f"/save {saved}\n")
    terminal.read_until(r"saved to .*\s+\[1 image\] > ")
    terminal.type("/clear\n")
    terminal.read_until(r"a new conversation about the same 2 images.*\s+\[2 images\] > ")
    terminal.type("/clear all\n")
    terminal.read_until(r"a new conversation; .*\s+> ")
    terminal.type("\x04")
    assert terminal.close() == 0
    text = saved.read_text()
    assert text.index("**User:** What is this?") < text.index("**User:** And now?")
    (target,) = re.findall(r"!\[\]\((.*)\)", text)
    assert (tmp_path / target).samefile(photo)


@pytest.mark.parametrize("on_full", ["error", "drop-oldest"])
def test_a_conversation_that_fills_the_context(open_terminal, seeded_q4, photo, on_full):
    terminal = open_terminal("chat", photo, "-m", seeded_q4, "-n", 4, "--temp", 0, "-c", 160, "--on-full", on_full)
    terminal.read_until(r"\[1 image\] > ")
    terminal.type("What is this?\n")
    terminal.read_until(r"\n> ")
    for _ in range(6):
        terminal.type("And what else is to be seen?\n")
        terminal.read_until(r"\n> ")
    dropped = "The context was full: the oldest question and its answer were dropped."
    refused = "/set on-full drop-oldest drops the oldest questions"
    assert (dropped in terminal.text, refused in terminal.text) == (on_full != "error", on_full == "error")
    terminal.type("What is this? " * 40 + "\n")
    assert "/clear starts a new conversation here" in terminal.read_until(r"starts a new.*\n> ")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_tuning_is_suggested_once_and_only_in_a_conversation(open_terminal, run, seeded_q4, photo, home):
    assert "tune" not in run("chat", photo, "-m", seeded_q4, "-p", "x", "-n", 1).err
    said = []
    for options in (("--no-profile",), (), ()):
        terminal = open_terminal("chat", photo, "-m", seeded_q4, *options)
        said.append("edge-llava tune -m " in terminal.read_until(r"\[1 image\] > "))
        terminal.type("\x04")
        assert terminal.close() == 0
    assert said == [False, True, False]
    assert len(list((home / "profiles").iterdir())) == 1


def test_ctrl_c_stops_the_answer_and_not_the_conversation(open_terminal, seeded_f32, photo):
    terminal = open_terminal("chat", photo, "-m", seeded_f32, "-n", 900, "--temp", 0)
    terminal.read_until(r"> ")
    terminal.type("Tell me everything.\n")
    terminal.read_until(r"Tell me everything\.\r\n.+", 30)
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert "stopped" in terminal.read_until(r"\n> ", 30)
    terminal.type("\x04")
    assert terminal.close() == 0


def test_ctrl_c_of_a_single_answer_exits_with_130(seeded_f32, photo):
    command = [*COMMAND, "chat", str(photo), "-m", str(seeded_f32), "-p", "word " * 40, "-n", "900", "--temp", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert out.endswith(b"\n")


def test_a_reader_that_leaves_is_no_error(seeded_q4, photo):
    shell = f"{' '.join(COMMAND[:2])} '{COMMAND[2]}' chat {photo} -m {seeded_q4} -p x -n 200 --temp 0 | head -c 1"
    done = subprocess.run(shell, shell=True, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_sample_image_is_a_real_jpeg(photo):
    data = Path(photo).read_bytes()
    assert (data[:3], data[-2:]) == (b"\xff\xd8\xff", b"\xff\xd9")
