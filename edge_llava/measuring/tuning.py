"""Tuning: finds the best settings for a bundle on this device, for a typical turn of image, question and answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.device.cpu_times import others_since, read_cpu_times
from edge_llava.device.profile import DeviceSettings, Goal, Profile
from edge_llava.device.threads import default_threads, thread_choices
from edge_llava.fitting.bundle_needs import used_devices
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.ggml.repacking import repacked_bytes
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.measuring.peak import measure_peak
from edge_llava.measuring.stages import N_ANSWER, LanguageFigures, LanguageStage, VisionFigures, VisionStage
from edge_llava.measuring.together import measure_steps, most_captions
from edge_llava.measuring.trials import Coordinate, Trial, Trials, descend
from edge_llava.runtime.language.llama_params import will_repack
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import DecoderOptions, EngineOptions, device_facts, engine_options

_VISION_SHARE, _TOGETHER_SHARE = 0.4, 0.25  # of the time for measuring
_OVERTIME = 1.1  # times it: steps of several answers take little more than their image, which is read within the time
_SLICES = 45  # prefill and decode of a run may each take 1/45 of the time
_MAY_BE_SLOWER = 1.25  # for the goal "memory": at most this many times the fastest turn
_BATCHES = (256, 128, 1024)
_Q8_0_BLOCK = 32  # values per block

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Tuning:
    """What was tried and what was chosen.

    Attributes:
        profile: The choice, to be saved.
        vision, language: Every trial, in the order of the first run.
        peaks: Peak memory in bytes of a process with the language model alone; empty unless the goal is "memory".
        steps: Seconds of a step of several answers at a time, by their number; without what there was no time for.
        n_positions: Positions of a typical turn before its answer.
        seconds: Duration of the tuning.
    """

    profile: Profile
    vision: tuple[Trial[VisionFigures], ...]
    language: tuple[Trial[LanguageFigures], ...]
    peaks: dict[DeviceSettings, int]
    steps: dict[int, float]
    n_positions: int
    seconds: float


def tune(
    bundle: Bundle,
    goal: Goal = "total",
    seconds: float = 45,
    base: EngineOptions | None = None,
    *,
    fitting: EngineOptions | None = None,
    progress: ProgressCallback = silent,
) -> Tuning:
    """Measures until time runs out, then chooses. Nothing is saved.

    Args:
        bundle: An opened bundle; its digests are checked on first use.
        goal: What to minimize: the "total" time of a turn; "ttft", the time to its first token; "throughput", the time
            per token; or "memory", among settings at most a quarter slower than the fastest.
        seconds: How long to measure. Loading a large model may take longer than that.
        base: Where the engines run and the length of the context; its other settings are measured, and so is the
            number of blocks on GPUs where it leaves that open.
        fitting: What fits in memory, where `base` does not: no more blocks on GPUs are tried, and weights are not
            rearranged where it does not.
        progress: Called with the seconds used.

    Raises:
        BundleError: If a file is not what the manifest says.
        BackendError: If an engine cannot start.
    """
    bundle.verify_digests(trust_earlier=True, progress=progress)
    base, started, times = base or EngineOptions(), time.perf_counter(), read_cpu_times()
    tensors = read_gguf_header(bundle.file("language")).tensors
    decoder, on_cpu = (fitting or base).decoder, not used_devices(base)
    start = _default_settings(decoder, repack=will_repack(decoder, tensors, on_cpu=on_cpu))
    can_repack = repacked_bytes(tensors) > 0 and will_repack(replace(decoder, repack=True), tensors, on_cpu=on_cpu)
    may_repack = can_repack and decoder.repack is None
    with closing(VisionStage(bundle, base)) as stage:
        timer = _TimeProgress("measuring, image", _VISION_SHARE * seconds, progress)
        vision = Trials(timer.after(stage), started + _VISION_SHARE * seconds)
        vision_trial = descend(vision, start, _vision_coordinates(), _encode_s)
        timer.end()
    encode_s = vision_trial.median(lambda run: run.encode_s)
    with closing(LanguageStage(bundle, base, seconds / _SLICES, start)) as language_stage:
        search = _LanguageSearch(bundle, base, goal, language_stage, encode_s, may_repack=may_repack)
        timer = _TimeProgress("measuring, language model", seconds - (time.perf_counter() - started), progress)
        share = 1.0 if goal == "memory" else 1 - _TOGETHER_SHARE
        language = Trials(timer.after(search.measure), started + share * seconds)
        chosen = search.choose(language, start)
        timer.end()
    settings = replace(
        chosen.settings,
        n_vision_threads=vision_trial.settings.n_vision_threads,
        vision_spinning=vision_trial.settings.vision_spinning,
    )
    measured = {
        "vision_s": vision_trial.median(lambda run: run.vision_s),
        "projector_s": vision_trial.median(lambda run: run.projector_s),
        "prefill_tps": chosen.median(lambda run: run.prefill_tps),
        "decode_tps": chosen.median(lambda run: run.decode_tps),
        "turn_s": search.turn_s(chosen),
        "peak_rss_bytes": search.peaks.get(chosen.settings),
        "other_cpus": others_since(times),
    }
    n_positions, peaks = language_stage.n_positions, search.peaks
    prefill_s = chosen.median(lambda run: n_positions / run.prefill_tps)
    token_s = chosen.median(lambda run: 1 / run.decode_tps)
    steps = {}
    if goal != "memory" and time.perf_counter() + prefill_s < started + seconds:
        together, deadline = engine_options(settings, base), started + _OVERTIME * seconds
        steps = run_aside(lambda: measure_steps(bundle, together, n_positions, deadline))
    parallel = most_captions(steps, token_s, encode_s + prefill_s)
    files = bundle.manifest.files
    language_sha256, vision_sha256 = files["language"].sha256, files["vision"].sha256
    profile = Profile(settings, goal, device_facts(base), language_sha256, vision_sha256, measured, parallel)
    elapsed = time.perf_counter() - started
    return Tuning(profile, tuple(vision.all()), tuple(language.all()), peaks, steps, n_positions, elapsed)


class _LanguageSearch:
    """The search for the language model's settings, for one goal."""

    def __init__(
        self,
        bundle: Bundle,
        base: EngineOptions,
        goal: Goal,
        stage: LanguageStage,
        encode_s: float,
        *,
        may_repack: bool,
    ) -> None:
        self.peaks: dict[DeviceSettings, int] = {}
        self._bundle, self._base, self._goal, self._stage, self._encode_s = bundle, base, goal, stage, encode_s
        self._may_repack = may_repack
        self._known_peaks: dict[DecoderOptions, int] = {}

    def measure(self, settings: DeviceSettings) -> LanguageFigures:
        """Measures one run; for the goal "memory", the first run with given settings also measures the memory."""
        if self._goal == "memory" and settings not in self.peaks:
            self.peaks[settings] = self._peak(settings)
        return self._stage(settings)

    def turn_s(self, trial: Trial[LanguageFigures]) -> float:
        """Seconds for a typical turn: image, prompt and answer."""
        return self._encode_s + trial.median(
            lambda run: self._stage.n_positions / run.prefill_tps + N_ANSWER / run.decode_tps
        )

    def choose(self, trials: Trials[LanguageFigures], start: DeviceSettings) -> Trial[LanguageFigures]:
        """Searches, and returns the best trial for the goal."""
        spec, n_rows = self._bundle.manifest.language, self._stage.n_rows
        if self._goal == "memory":
            start = self._shrink(trials, start)
        on_cpu = not used_devices(self._base)
        layouts = [Coordinate("repack", (True, False))] if self._may_repack and spec.quant != "F32" else []
        of_language = [*layouts, *_language_coordinates(spec, n_rows, start, on_cpu=on_cpu)]
        coordinates = [*_places(spec, self._base, start), *of_language]
        best = descend(trials, start, coordinates, self._cost)
        return self._smallest(trials, trials.all()) if self._goal == "memory" else best

    def _shrink(self, trials: Trials[LanguageFigures], start: DeviceSettings) -> DeviceSettings:
        """Applies changes that save memory, one by one, as long as they cost little time."""
        here = start
        trials.run(here)
        for change in _less_memory(self._bundle.manifest.language):
            candidate = replace(here, **change)
            if not trials.run(candidate):
                break
            pair = [trial for trial in map(trials.of, (here, candidate)) if trial is not None]
            here = self._smallest(trials, pair).settings
        return here

    def _smallest(self, trials: Trials[LanguageFigures], among: list[Trial[LanguageFigures]]) -> Trial[LanguageFigures]:
        limit = _MAY_BE_SLOWER * min(map(self.turn_s, trials.all()))
        quick = [trial for trial in among if self.turn_s(trial) <= limit]
        return min(quick or among, key=lambda trial: (self.peaks[trial.settings], self.turn_s(trial)))

    def _cost(self, trial: Trial[LanguageFigures]) -> float:
        if self._goal == "ttft":
            return trial.median(lambda run: 1 / run.prefill_tps)
        if self._goal == "throughput":
            return trial.median(lambda run: 1 / run.decode_tps)
        return self.turn_s(trial)

    def _peak(self, settings: DeviceSettings) -> int:
        """Measures once for all thread counts, because they do not noticeably affect memory."""
        options = engine_options(settings, self._base).decoder
        key = replace(options, n_threads=None)
        if key not in self._known_peaks:
            self._stage.close()  # the device may not hold two models at the same time
            self._known_peaks[key] = measure_peak(self._bundle.path, options)
        return self._known_peaks[key]


class _TimeProgress:
    """Reports the time used to the progress callback after every run."""

    def __init__(self, stage: str, seconds: float, progress: ProgressCallback) -> None:
        self._stage, self._total, self._progress = stage, max(1, round(seconds)), progress
        self._started = time.perf_counter()

    def after(self, measure: Callable[[DeviceSettings], Figures]) -> Callable[[DeviceSettings], Figures]:
        """Wraps `measure` so that every run is reported."""

        def run(settings: DeviceSettings) -> Figures:
            figures = measure(settings)
            done = min(int(time.perf_counter() - self._started), self._total - 1)
            self._progress(ProgressEvent(self._stage, done, self._total, "items"))
            return figures

        return run

    def end(self) -> None:
        self._progress(ProgressEvent(self._stage, self._total, self._total, "items"))


def _default_settings(decoder: DecoderOptions, *, repack: bool) -> DeviceSettings:
    options, n_threads = DecoderOptions(), default_threads()
    return DeviceSettings(
        n_vision_threads=n_threads,
        vision_spinning=False,
        n_threads=n_threads,
        repack=repack,
        n_batch=options.n_batch,
        flash_attention=None,
        kv_type="auto",
        n_gpu_layers=decoder.n_gpu_layers if decoder.n_gpu_layers >= 0 else None,
    )


def _encode_s(trial: Trial[VisionFigures]) -> float:
    return trial.median(lambda run: run.encode_s)


def _kinds_of_threads(name: str) -> Coordinate:
    return Coordinate(name, tuple(thread_choices()))


def _fewer_threads(name: str) -> Coordinate:
    """Small models are fastest with few threads. This comes last because large models only lose time here."""
    n_most = default_threads()
    return Coordinate(name, tuple(n_most >> shift for shift in range(n_most.bit_length())), is_chain=True)


def _vision_coordinates() -> list[Coordinate]:
    threads = "n_vision_threads"
    return [_kinds_of_threads(threads), Coordinate("vision_spinning", (False, True)), _fewer_threads(threads)]


def _places(spec: LanguageSpec, base: EngineOptions, start: DeviceSettings) -> list[Coordinate]:
    """Blocks on GPUs, where their number is left open: as many as fit, none, half of them."""
    if base.decoder.n_gpu_layers >= 0 or not used_devices(base):
        return []
    n_most = spec.n_layer if start.n_gpu_layers is None else start.n_gpu_layers
    none_there = () if base.decoder.devices else (0,)  # a device that is named gets some
    return [Coordinate("n_gpu_layers", (start.n_gpu_layers, *none_there, max(1, n_most // 2)))]


def _language_coordinates(spec: LanguageSpec, n_rows: int, start: DeviceSettings, *, on_cpu: bool) -> list[Coordinate]:
    """The settings to try: F32 keeps plain attention; q8_0 needs flash attention."""
    is_exact = spec.quant == "F32"
    coordinates = [_kinds_of_threads("n_threads")]
    # all batches that hold every row are equivalent
    coordinates.append(Coordinate("n_batch", tuple(n for n in _BATCHES if n < max(n_rows, DecoderOptions().n_batch))))
    if not is_exact and start.kv_type != "q8_0":
        coordinates.append(Coordinate("flash_attention", (None, on_cpu)))  # which is what None is not
    return [*coordinates, _fewer_threads("n_threads")]


def _less_memory(spec: LanguageSpec) -> list[dict[str, Any]]:
    """Changes that save memory, largest saving first."""
    smaller_batches: list[dict[str, Any]] = [{"n_batch": 256}, {"n_batch": 128}]
    if spec.quant == "F32":
        return smaller_batches
    has_whole_blocks = spec.n_embd // spec.n_head % _Q8_0_BLOCK == 0
    q8_0: list[dict[str, Any]] = [{"kv_type": "q8_0", "flash_attention": None}] * has_whole_blocks
    return [{"repack": False}, *q8_0, *smaller_batches]
