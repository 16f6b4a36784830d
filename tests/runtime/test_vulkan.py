"""The language model on a GPU through llama.cpp's Vulkan backend; Mesa's lavapipe, which computes on the CPU, will do.

    make test-vulkan

Skipped where llama.cpp sees no Vulkan device. Each test is a process of its own, because a driver may end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_llava.ggml.plugins import plugin_libraries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any("ggml-vulkan" in path.name for path in plugin_libraries()), reason="no libggml-vulkan is installed"
    ),
]
PLACES = (["--gpu-layers", "0"], [], ["--gpu-layers", "1"], ["--gpu-layers", "2"], ["--gpu-layers", "3"])


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)).save(path)
    return path


def environment() -> dict[str, str]:
    """With the test's own home. lavapipe is a CPU to Vulkan, and such devices are used only if they are named."""
    return {"GGML_VK_VISIBLE_DEVICES": "0"} | os.environ


def run(*words: object, code: int = 0, limit_s: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_llava.cli", *map(str, words)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=limit_s,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == code, ended.stderr
    return ended


def chat(bundle: Path, image: Path, *words: object, question: str = "What?", n: int = 24) -> dict[str, object]:
    ended = run("chat", image, "-m", bundle, "-p", question, "-n", n, "--temp", 0, "--json", "--no-profile", *words)
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


def python(script: str, *words: object, limit_s: float = 300) -> str:
    """What a script prints, in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=limit_s)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_device_is_seen():
    assert "Vulkan0" in run("doctor", "--json", code=0).stdout


def test_tokens_are_those_of_the_cpu(seeded_f32, image):
    answers = [chat(seeded_f32, image, "--no-cache", *place) for place in PLACES]
    assert len({answer["text"] for answer in answers}) == 1
    places = [answer["timings"]["language_on"] for answer in answers]
    assert places == ["cpu", "Vulkan0 3/3", "Vulkan0 1/3", "Vulkan0 2/3", "Vulkan0 3/3"]


def test_what_is_kept_is_of_one_place(seeded_f32, image):
    """A prefix on disk is found again where it was computed, and nowhere else."""
    for place in ([], ["--gpu-layers", "1"], ["--gpu-layers", "0"]):
        first, second = (chat(seeded_f32, image, *place, question=question) for question in ("What?", "Where?"))
        assert first["timings"]["cached_tokens"] == 0
        assert second["timings"]["cached_tokens"] > 50


ENGINE = """
import sys, threading
import numpy as np
from edge_llava import DecoderOptions, EngineOptions, SamplingOptions, load
options = EngineOptions(DecoderOptions(flash_attention=False), parallel=3)
images = [np.random.default_rng(seed).integers(0, 256, (64, 48, 3), np.uint8) for seed in range(4)]
greedy = SamplingOptions(temperature=0, max_new_tokens=16)
def answers(model):
    texts = [""] * 4
    def ask(i):
        texts[i] = "".join(model.session(greedy).ask(f"What is {i}?", image=images[i]))
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return texts
import dataclasses
with load(sys.argv[1], options) as model:
    assert model.language_on == "Vulkan0 3/3", model.language_on
    there = answers(model)
    again = answers(model)
cpu = dataclasses.replace(options, decoder=dataclasses.replace(options.decoder, devices=(), n_gpu_layers=-1))
with load(sys.argv[1], cpu) as model:
    assert model.language_on == "cpu"
    here = answers(model)
assert there == again == here, (there, again, here)
print("equal")
"""


def test_several_answers_at_a_time(seeded_f32):
    assert python(ENGINE, seeded_f32) == "equal\n"


CANCEL = """
import sys, time
import numpy as np
from edge_llava import EngineOptions, SamplingOptions, load
for _ in range(3):
    with load(sys.argv[1], EngineOptions()) as model:
        session = model.session(SamplingOptions(temperature=0, max_new_tokens=800))
        tokens = session.ask("What?")
        next(tokens)
        started = time.perf_counter()
        session.cancel()
        assert list(tokens)[-1].finish_reason == "cancelled"
        cancelled = time.perf_counter() - started
        started = time.perf_counter()
    assert cancelled < 2, cancelled
    assert time.perf_counter() - started < 5
print("closed")
"""


def test_cancel_and_close(seeded_f32):
    assert python(CANCEL, seeded_f32) == "closed\n"


def test_too_little_memory_is_an_error(seeded_f32, image):
    """Of an address space that has room for the programs, and none for a context of a million positions."""
    words = ("chat", image, "-m", seeded_f32, "-p", "What?", "-n", 2, "-c", 1_000_000, "--no-cache", "--no-profile")
    limited = f"ulimit -v 3000000; exec {sys.executable} -m edge_llava.cli " + " ".join(map(str, words))
    for option, codes in (("", {9}), (" --force", {0, 9})):  # the cache begins small: forced, a short answer fits
        ended = subprocess.run(
            ["bash", "-c", limited + option],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=300,
        )
        assert ended.returncode in codes, ended.stderr
        assert "are free. What fits: -c 4096 (" in ended.stderr
        assert "Traceback" not in ended.stderr


PROJECTOR = """
import sys
import numpy as np
from pathlib import Path
from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.options import DecoderOptions
from edge_llava.runtime.vision.device_graph import projector_device
from edge_llava.device.thread_count import ThreadCount
from edge_llava.runtime.vision.projector import Projector
device = projector_device(DecoderOptions())
assert device == "Vulkan0", device
for name in sys.argv[1:]:
    spec = Bundle.open(Path(name)).manifest.projector
    features = np.random.default_rng(0).standard_normal((64, spec.in_features)).astype(np.float32)
    here = Projector(Path(name) / "projector.gguf", spec, ThreadCount(1))
    there = Projector(Path(name) / "projector.gguf", spec, ThreadCount(1), device=device)
    ours, theirs = there(features), here(features)
    assert there._on_device is not None
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    print(cosines.min() > 0.9999)
    here.close()
    there.close()
"""


def test_the_projector_is_computed_there(seeded_f32, seeded_q4):
    assert python(PROJECTOR, seeded_f32, seeded_q4) == "True\nTrue\n"


def test_fit_counts_what_is_on_the_device(seeded_f32):
    facts = json.loads(run("fit", seeded_f32, "--json").stdout)
    on_device = [part for part in facts["parts"] if part["device"] == "Vulkan0"]
    assert {part["name"] for part in on_device} == {"weights", "KV cache", "compute buffers"}
    assert all(part["bytes"] > 0 for part in on_device)


def test_bench_says_where(seeded_f32, image):
    figures = json.loads(run("bench", "-m", seeded_f32, "--image", image, "--runs", 1, "--json", "--no-profile").stdout)
    assert figures["language_on"] == "Vulkan0 3/3"


def test_verify_judges_what_chat_runs(seeded_f32):
    assert json.loads(run("verify", seeded_f32, "--json").stdout)["language_on"] == "Vulkan0 3/3"


def test_tune_tries_places(seeded_f32, image):
    tuned = json.loads(run("tune", "-m", seeded_f32, "--seconds", 20, "--json", limit_s=900).stdout)
    tried = {trial["settings"]["n_gpu_layers"] for trial in tuned["trials"]["language"]}
    assert tried == {None, 0, 1}
    chosen = tuned["settings"]["n_gpu_layers"]
    words = ("chat", image, "-m", seeded_f32, "-p", "What?", "-n", 2, "--json", "--no-cache")
    place = json.loads(run(*words).stdout)["timings"]["language_on"]
    assert place == {None: "Vulkan0 3/3", 0: "cpu", 1: "Vulkan0 1/3"}[chosen]
    # who names the device, or says how many blocks, is not given another place
    named = json.loads(run(*words, "--device", "Vulkan0").stdout)["timings"]["language_on"]
    assert named.startswith("Vulkan0")
    assert json.loads(run(*words, "--gpu-layers", 2).stdout)["timings"]["language_on"] == "Vulkan0 2/3"
