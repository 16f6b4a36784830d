"""Tuning: which settings are best for a bundle on this device, for a typical turn of picture, question, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import LanguageSpec
from edge_llava.device.facts import this_device
from edge_llava.device.profile import DeviceSettings, Goal, Profile
from edge_llava.device.threads import count_cores, thread_choices
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.measuring.peak import measure_peak
from edge_llava.measuring.stages import N_ANSWER, LanguageFigures, LanguageStage, VisionFigures, VisionStage
from edge_llava.measuring.trials import Coordinate, Trial, Trials, descend
from edge_llava.runtime.language.llama_params import can_repack
from edge_llava.runtime.options import DecoderOptions, EngineOptions, engine_options

_VISION_SHARE = 0.4  # of the time
_SLICES = 45  # a run may take this part of the time, prefill and decode each
_MAY_BE_SLOWER = 1.25  # the price of the smallest memory, in times of the quickest turn
_BATCHES = (256, 128, 1024)
_Q8_0_BLOCK = 32  # numbers of a head that are stored together

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Tuning:
    """What was tried and what was chosen.

    Attributes:
        profile: The choice, to be saved.
        vision, language: Every trial, in the order of the first run.
        peaks: Peak memory in bytes of a process with the language model alone; empty unless the goal is "memory".
        n_positions: Of a typical turn before its answer.
        seconds: How long it took.
    """

    profile: Profile
    vision: tuple[Trial[VisionFigures], ...]
    language: tuple[Trial[LanguageFigures], ...]
    peaks: dict[DeviceSettings, int]
    n_positions: int
    seconds: float


def tune(
    bundle: Bundle,
    goal: Goal = "total",
    seconds: float = 45,
    base: EngineOptions | None = None,
    *,
    progress: ProgressCallback = silent,
) -> Tuning:
    """Measures until the time is used up, then chooses. Nothing is saved.

    Args:
        bundle: An opened bundle; its digests are compared at first use.
        goal: What is to be small: the "total" time of a turn; "ttft", the time to its first token; the time per token
            ("throughput"); or the "memory", of what takes at most a quarter longer than the quickest turn.
        seconds: How long to measure. Loading a large model once may alone take longer.
        base: Where the engines run and the length of the context; its other settings are measured.
        progress: Told the seconds used.

    Raises:
        BundleError: If a file is not what the manifest says.
        BackendError: If an engine cannot start.
    """
    bundle.verify_digests(trust_earlier=True, progress=progress)
    base, started = base or EngineOptions(), time.perf_counter()
    start = _default_settings()
    with closing(VisionStage(bundle, base)) as stage:
        tell = _Teller("measuring, picture", _VISION_SHARE * seconds, progress)
        vision = Trials(tell.after(stage), started + _VISION_SHARE * seconds)
        picture = descend(vision, start, _vision_coordinates(), _encode_s)
        tell.end()
    with closing(LanguageStage(bundle, base, seconds / _SLICES)) as language_stage:
        search = _LanguageSearch(bundle, base, goal, language_stage, picture.median(lambda run: run.encode_s))
        tell = _Teller("measuring, language model", seconds - (time.perf_counter() - started), progress)
        language = Trials(tell.after(search.measure), started + seconds)
        chosen = search.choose(language, start)
        tell.end()
    settings = replace(
        chosen.settings,
        n_vision_threads=picture.settings.n_vision_threads,
        vision_spinning=picture.settings.vision_spinning,
    )
    measured = {
        "vision_s": picture.median(lambda run: run.vision_s),
        "projector_s": picture.median(lambda run: run.projector_s),
        "prefill_tps": chosen.median(lambda run: run.prefill_tps),
        "decode_tps": chosen.median(lambda run: run.decode_tps),
        "turn_s": search.turn_s(chosen),
        "peak_rss_bytes": search.peaks.get(chosen.settings),
    }
    files = bundle.manifest.files
    profile = Profile(settings, goal, this_device(), files["language"].sha256, files["vision"].sha256, measured)
    peaks, n_positions = search.peaks, language_stage.n_positions
    elapsed = time.perf_counter() - started
    return Tuning(profile, tuple(vision.all()), tuple(language.all()), peaks, n_positions, elapsed)


class _LanguageSearch:
    """What a trial of the language model costs, for one goal, and the way to the least."""

    def __init__(self, bundle: Bundle, base: EngineOptions, goal: Goal, stage: LanguageStage, encode_s: float) -> None:
        self.peaks: dict[DeviceSettings, int] = {}
        self._bundle, self._base, self._goal, self._stage, self._encode_s = bundle, base, goal, stage, encode_s
        self._known_peaks: dict[DecoderOptions, int] = {}

    def measure(self, settings: DeviceSettings) -> LanguageFigures:
        """One run; the first with these settings also takes the memory, where that is the goal."""
        if self._goal == "memory" and settings not in self.peaks:
            self.peaks[settings] = self._peak(settings)
        return self._stage(settings)

    def turn_s(self, trial: Trial[LanguageFigures]) -> float:
        """Seconds of a typical turn: picture, positions, answer."""
        return self._encode_s + trial.median(
            lambda run: self._stage.n_positions / run.prefill_tps + N_ANSWER / run.decode_tps
        )

    def choose(self, trials: Trials[LanguageFigures], start: DeviceSettings) -> Trial[LanguageFigures]:
        """Searches, and takes the least of what was measured."""
        spec, n_rows = self._bundle.manifest.language, self._stage.n_rows
        if self._goal == "memory":
            start = self._shrink(trials, start)
        best = descend(trials, start, _language_coordinates(spec, n_rows, start), self._cost)
        return self._smallest(trials, trials.all()) if self._goal == "memory" else best

    def _shrink(self, trials: Trials[LanguageFigures], start: DeviceSettings) -> DeviceSettings:
        """Takes one change after another that saves memory and costs little time."""
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
        """Measured once for all numbers of threads: they take no memory worth a process of their own."""
        decoder = self._base.decoder
        options = replace(engine_options(settings).decoder, n_ctx=decoder.n_ctx, n_gpu_layers=decoder.n_gpu_layers)
        key = replace(options, n_threads=None)
        if key not in self._known_peaks:
            self._stage.close()  # two models at once may be too much for the device
            self._known_peaks[key] = measure_peak(self._bundle.path, options)
        return self._known_peaks[key]


class _Teller:
    """Tells the progress callback the time used, run by run."""

    def __init__(self, stage: str, seconds: float, progress: ProgressCallback) -> None:
        self._stage, self._total, self._progress = stage, max(1, round(seconds)), progress
        self._started = time.perf_counter()

    def after(self, measure: Callable[[DeviceSettings], Figures]) -> Callable[[DeviceSettings], Figures]:
        """`measure`, which tells after every run."""

        def run(settings: DeviceSettings) -> Figures:
            figures = measure(settings)
            done = min(int(time.perf_counter() - self._started), self._total - 1)
            self._progress(ProgressEvent(self._stage, done, self._total, "items"))
            return figures

        return run

    def end(self) -> None:
        self._progress(ProgressEvent(self._stage, self._total, self._total, "items"))


def _default_settings() -> DeviceSettings:
    options, n_cores = DecoderOptions(), count_cores()
    return DeviceSettings(
        n_vision_threads=n_cores,
        vision_spinning=True,
        n_threads=n_cores,
        repack=can_repack(),
        n_batch=options.n_batch,
        flash_attention=None,
        kv_type="auto",
    )


def _encode_s(trial: Trial[VisionFigures]) -> float:
    return trial.median(lambda run: run.encode_s)


def _kinds_of_threads(name: str) -> Coordinate:
    return Coordinate(name, tuple(thread_choices()))


def _fewer_threads(name: str) -> Coordinate:
    """Small models are quickest with few threads; it comes last, because large ones only lose time here."""
    n_cores = count_cores()
    return Coordinate(name, tuple(n_cores >> shift for shift in range(n_cores.bit_length())), is_chain=True)


def _vision_coordinates() -> list[Coordinate]:
    threads = "n_vision_threads"
    return [_kinds_of_threads(threads), Coordinate("vision_spinning", (True, False)), _fewer_threads(threads)]


def _language_coordinates(spec: LanguageSpec, n_rows: int, start: DeviceSettings) -> list[Coordinate]:
    """What the bundle leaves to choose: F32 keeps its plain attention and has nothing to repack, q8_0 needs flash."""
    is_exact = spec.quant == "F32"
    coordinates = [] if is_exact or not can_repack() else [Coordinate("repack", (True, False))]
    coordinates.append(_kinds_of_threads("n_threads"))
    # a batch that holds all rows is no other setting than one that holds more
    coordinates.append(Coordinate("n_batch", tuple(n for n in _BATCHES if n < max(n_rows, DecoderOptions().n_batch))))
    if not is_exact and start.kv_type != "q8_0":
        coordinates.append(Coordinate("flash_attention", (None, False)))
    return [*coordinates, _fewer_threads("n_threads")]


def _less_memory(spec: LanguageSpec) -> list[dict[str, Any]]:
    """Changes that take less memory, the greatest first."""
    smaller_batches: list[dict[str, Any]] = [{"n_batch": 256}, {"n_batch": 128}]
    if spec.quant == "F32":
        return smaller_batches
    has_whole_blocks = spec.n_embd // spec.n_head % _Q8_0_BLOCK == 0
    q8_0: list[dict[str, Any]] = [{"kv_type": "q8_0", "flash_attention": None}] * has_whole_blocks
    return [{"repack": False}, *q8_0, *smaller_batches]
