"""Measures the same work with edge-llava and its peers, in turns, on the same weights, and adds the figures to a file.

    python benchmarks/compare.py BUNDLE IMAGE samples.jsonl --rounds 5 \\
        --variant "192 tokens=--visual-tokens 192" \\
        --llama-mtmd-cli "llama-mtmd-cli=build/bin/llama-mtmd-cli" \\
        --peer "OpenVINO GenAI=ov/bin/python -m peers.openvino_peer $PWD/llava-1.1b-ov" \\
        --llama-bench build/bin/llama-bench
    python benchmarks/report.py samples.jsonl --table table.md --chart chart.png

In every round each participant answers greedily about a new image, which no cache contains. New processes are compared
with llama-mtmd-cli: ours with a new image, and again with the same image. Loaded ones answer about a new image, then a
second question. llama-bench decodes at our depth and with our settings. Set EDGE_LLAVA_HOME to the directory in which
`edge-llava tune` saved its choice. Linux only.

With --new-peers, for peers that take minutes, no process stays loaded: each round starts each of them once, and what
a loaded one takes is then the time of its first answer.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_bench import run_llama_bench
from processes import ColdRun, PeerAnswer, PeerProcess, run_cold, run_new_peer
from samples import OURS, Sample, append

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.facts import this_device
from edge_llava.device.threads import default_threads
from edge_llava.home.image_files.opening import open_image
from edge_llava.measuring.benchmark import mark_image

_FIRST, _SECOND = "Describe the picture.", "What else is there?"
_CHAT = (sys.executable, "-m", "edge_llava.cli", "chat", "--temp", "0")
_STARTED = time.perf_counter()
# (who, what, value) of one turn
_Measurement = Callable[[], Iterator[tuple[str, str, float]]]


class Images:
    """Makes files of one image, no two alike."""

    def __init__(self, image: Path, directory: Path) -> None:
        self._source, self._directory, self._n_made = open_image(image), directory, 0

    def make(self) -> Path:
        """Writes the next one."""
        self._n_made += 1
        path = self._directory / f"{self._n_made}.jpg"
        mark_image(self._source, self._n_made).save(path, quality=95)
        return path


@dataclass(frozen=True)
class Work:
    """The work that every participant does.

    Attributes:
        bundle: The weights, for participants that read GGUF files.
        images: Source of new images.
        n_tokens: Tokens per answer.
        cache: Cache directory of our new processes.
    """

    bundle: Bundle
    images: Images
    n_tokens: int
    cache: Path

    def ours_cold(self, name: str, words: list[str]) -> Iterator[tuple[str, str, float]]:
        """A new process with a new image, and another process with the same image."""
        image, environment = str(self.images.make()), {"EDGE_LLAVA_CACHE": str(self.cache)}
        command = [*_CHAT, "-m", str(self.bundle.path), *words, image]
        yield from _process_figures(name, run_cold([*command, "-p", _FIRST, "-n", str(self.n_tokens)], environment))
        known = run_cold([*command, "-p", _SECOND, "-n", "1"], environment)
        yield name, "known_first_s", known.first_s

    def mtmd_cold(self, name: str, program: list[str]) -> Iterator[tuple[str, str, float]]:
        """A new llama-mtmd-cli process on the same files."""
        command = [
            *program, "-m", str(self.bundle.file("language")), "--mmproj", str(self.bundle.file("mmproj")),
            "--chat-template", "vicuna", "-c", str(self.bundle.manifest.language.n_ctx_train),
            "-t", str(default_threads()), "--temp", "0", "-n", str(self.n_tokens), "-p", _FIRST,
            "--image", str(self.images.make()),
        ]  # fmt: skip
        yield from _process_figures(name, run_cold(command, {}))

    def loaded(self, name: str, peer: PeerProcess) -> Iterator[tuple[str, str, float]]:
        """A loaded participant: a new image, then a second question."""
        image, before = self.images.make(), peer.cpu_s()
        answer = peer.ask(image, _FIRST, self.n_tokens)
        yield name, "loaded_cpu_s", peer.cpu_s() - before
        yield from _answer_figures(name, answer)
        yield name, "second_first_s", peer.ask(None, _SECOND, 1).first_s

    def new_peer(self, name: str, command: list[str], log: Path) -> Iterator[tuple[str, str, float]]:
        """A participant that is started for one answer; the time of our new process is that of the command line."""
        whole, answer = run_new_peer(command, log, self.images.make(), _FIRST, self.n_tokens)
        if not name.startswith(OURS):
            yield from _process_figures(name, whole)
        yield from _answer_figures(name, answer)
        yield name, "loaded_peak_bytes", whole.peak_bytes

    def llama_bench(self, name: str, program: Path, ours: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
        """The same decode in llama-bench; `ours` has the settings and the depth."""
        yield (
            name,
            "decode_tps",
            run_llama_bench(
                program, self.bundle.file("language"), ours, n_tokens=self.n_tokens - 1, depth=ours["prompt_tokens"]
            ),
        )


def compare(given: argparse.Namespace) -> None:
    """Loads all participants, runs them in turns, and writes every figure as it arrives."""
    bundle = Bundle.open(given.bundle.resolve())
    bundle.verify_digests(trust_earlier=True)
    variants = {OURS: given.ours} | {f"{OURS}, {name}": given.ours + words for name, words in given.variant}
    facts: dict[str, Any] = {"all": _setting(given)}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = Work(bundle, Images(given.image, directory), given.tokens, directory / "cache")
        turns: list[_Measurement] = []
        if given.llama_mtmd_cli or given.new_peers:
            turns += [partial(work.ours_cold, name, words) for name, words in variants.items()]
        for name, words in given.llama_mtmd_cli:
            facts[name] = {"version": _version(words[0]), "options": " ".join(words[1:])}
            turns.append(partial(work.mtmd_cold, name, words))
        loaded: dict[str, PeerProcess] = {}
        for name, command in _peer_commands(given, bundle, variants):
            _log(f"loading {name}")
            if given.new_peers:
                with PeerProcess(command, directory / "new.log") as peer:
                    facts[name] = peer.facts
                turns.append(partial(work.new_peer, name, command, directory / "new.log"))
                continue
            loaded[name] = stack.enter_context(PeerProcess(command, directory / f"{len(loaded)}.log"))
            facts[name] = loaded[name].facts
            warm = loaded[name].ask(work.images.make(), _FIRST, 2)
            facts[name]["prompt_tokens"] = int(warm.figures["prompt_tokens"])
            turns.append(partial(work.loaded, name, loaded[name]))
        if given.llama_bench:
            turns.append(partial(work.llama_bench, "llama-bench", given.llama_bench, facts[OURS]))
        append(given.samples, [facts])
        _run(given, turns, loaded)


def _run(given: argparse.Namespace, turns: list[_Measurement], loaded: dict[str, PeerProcess]) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%S")
    for number in range(given.rounds):
        # the order rotates, so that no participant always comes first
        shift = number % len(turns)
        for turn in [*turns[shift:], *turns[:shift]]:
            samples = [Sample(f"{started}/{number}", *figure) for figure in turn()]
            append(given.samples, samples)
            _log(f"round {number + 1} of {given.rounds}: {_brief(samples)}")
    last = f"{started}/{given.rounds - 1}"
    append(given.samples, [Sample(last, name, "loaded_peak_bytes", peer.peak_bytes()) for name, peer in loaded.items()])


def _peer_commands(
    given: argparse.Namespace, bundle: Bundle, variants: dict[str, list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Yields ours, if any comparison needs it loaded, and then the peers."""
    if given.peer or given.llama_bench:
        for name, words in variants.items():
            yield name, [sys.executable, "-m", "peers.edge_llava_peer", str(bundle.path), *words]
    yield from given.peer


def _process_figures(name: str, run: ColdRun) -> Iterator[tuple[str, str, float]]:
    yield name, "cold_first_s", run.first_s
    yield name, "cold_total_s", run.total_s
    yield name, "cold_cpu_s", run.cpu_s
    yield name, "cold_peak_bytes", run.peak_bytes


def _answer_figures(name: str, answer: PeerAnswer) -> Iterator[tuple[str, str, float]]:
    yield name, "loaded_first_s", answer.first_s
    yield name, "loaded_total_s", answer.total_s
    yield name, "decode_tps", (answer.n_tokens - 1) / (answer.total_s - answer.first_s)
    for what, value in answer.figures.items():
        if what != "n_tokens":
            yield name, what, value


def _setting(given: argparse.Namespace) -> dict[str, Any]:
    device = this_device()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": device.cpu,
        "n_cpus": device.n_cpus,
        "system": platform.system(),
        "bundle": given.bundle.name,
        "picture": given.image.name,
        "answer_tokens": given.tokens,
    }


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()[0].removeprefix("version: ")


def _log(text: str) -> None:
    print(f"{time.perf_counter() - _STARTED:.0f} s: {text}", file=sys.stderr)


def _brief(samples: list[Sample]) -> str:
    return f"{samples[0].who}: " + ", ".join(f"{sample.what} {sample.value:.4g}" for sample in samples)


def _named_words(text: str) -> tuple[str, list[str]]:
    name, separator, words = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=WORDS")
    return name, shlex.split(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("samples", type=Path, help="JSON lines; figures are appended")
    for option, value, words in (
        ("--variant", "NAME=OPTIONS", "ours with options of `edge-llava chat`"),
        ("--llama-mtmd-cli", "NAME=PROGRAM [OPTIONS]", "new processes are compared with it"),
        ("--peer", "NAME=PYTHON -m peers.MODULE ...", "loaded; with absolute paths"),
    ):
        parser.add_argument(
            option, metavar=value, help=f"{words}; repeatable", type=_named_words, action="append", default=[]
        )
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM")
    parser.add_argument("--new-peers", action="store_true", help="start each peer anew for each answer")
    parser.add_argument("--ours", type=shlex.split, metavar="OPTIONS", default=[], help="for ours and all variants")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="per answer")
    arguments = parser.parse_args()
    if arguments.llama_bench and arguments.new_peers:
        parser.error("llama-bench is compared with a loaded process: leave out --new-peers")
    compare(arguments)
