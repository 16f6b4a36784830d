"""Settings with which a bundle fits that does not fit as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edge_llava.bundle.bundle import Bundle
from edge_llava.fitting.needs import MemoryNeeds
from edge_llava.fitting.room import Room, Verdict
from edge_llava.runtime.options import EngineOptions, n_ctx
from edge_llava.runtime.vision.anyres import count_range
from edge_llava.runtime.vision.forms import image_forms

_CONTEXTS = (4096, 3072, 2048, 1536, 1024, 512)
_WORDS = 448  # positions of a context beside an image: the template, and some turns
Predict = Callable[[Bundle, EngineOptions], MemoryNeeds]


@dataclass(frozen=True)
class Setting:
    """Options that fit.

    Attributes:
        words: What is changed, as on a command line: "-c 2048 --low-memory".
        options: All of them.
        needs: What is taken with them.
    """

    words: str
    options: EngineOptions
    needs: MemoryNeeds


def find_settings(
    bundle: Bundle, options: EngineOptions, room: Room, predict: Predict, verdict: Verdict = "fits"
) -> list[Setting]:
    """What fits, the least change first.

    Args:
        bundle: Not loaded.
        options: As it was asked for, which does not fit.
        room: What is free.
        predict: Says what options take.
        verdict: "slow": what would run, with its weights read from the disk again and again.
    """
    found, seen = list[Setting](), [predict(bundle, options)]
    for words, changed in _changes(bundle, options, room, predict):
        needs = predict(bundle, changed)
        if needs not in seen and room.judge(needs) == verdict:
            found.append(Setting(words, changed, needs))
        seen.append(needs)
    return found


def adapt(
    bundle: Bundle,
    options: EngineOptions,
    room: Room,
    predict: Predict,
    *,
    may_shorten: bool,
    may_move: bool | None = None,
    verdict: Verdict = "fits",
) -> Setting | None:
    """The first setting that fits and changes only what was left open; None: there is none.

    Left open are blocks on GPUs where all were wanted, rearranged weights, memory that the tower keeps, and perhaps the
    context, as long as an image and some turns about it have room.

    Args:
        bundle, options, room, predict, verdict: As of `find_settings`.
        may_shorten: Whether the context was left open.
        may_move: Whether the number of blocks on GPUs was left open; None: if the options do not say it.
    """
    shortest = shortest_context(bundle, options)
    may_move = options.decoder.n_gpu_layers < 0 if may_move is None else may_move
    for setting in find_settings(bundle, options, room, predict, verdict):
        size = n_ctx(bundle.manifest.language, setting.options.decoder)
        keeps_context = (size, setting.options.n_positions) == (
            n_ctx(bundle.manifest.language, options.decoder),
            options.n_positions,
        )
        keeps_layers = setting.options.decoder.n_gpu_layers == options.decoder.n_gpu_layers
        if (keeps_context or (may_shorten and size >= shortest)) and (keeps_layers or may_move):
            return setting
    return None


def shortest_context(bundle: Bundle, options: EngineOptions) -> int:
    """The shortest context that is chosen unasked: the largest image, and 448 positions for what is said about it."""
    form = image_forms(bundle.manifest.vision, options).alone
    largest = options.visual_tokens or count_range(form)[1]
    return min(largest + _WORDS, bundle.manifest.language.n_ctx_train)


def _changes(
    bundle: Bundle, options: EngineOptions, room: Room, predict: Predict
) -> Iterator[tuple[str, EngineOptions]]:
    size = n_ctx(bundle.manifest.language, options.decoder)
    n_cells = options.n_positions
    if options.decoder.may_offload and predict(bundle, options).devices:
        n = most_layers(bundle, options, room, predict)
        if n is not None:
            yield f"--gpu-layers {n}", _with_layers(options, n)
    plain = replace(options, decoder=replace(options.decoder, repack=False))
    sparing = replace(plain, low_memory=True)
    variants = {"": options, " --no-repack": plain, " --low-memory": sparing}
    yield from ((words.strip(), changed) for words, changed in variants.items() if changed != options)
    if n_cells is not None and n_cells > size:  # several conversations share one, and the longest still fits
        for words, changed in variants.items():
            yield f"--kv-positions {size}{words}", replace(changed, n_positions=size)
    for n in _CONTEXTS:
        if n < size:
            shorter = f"-c {n}" if n_cells is None else f"-c {n} --kv-positions {n}"
            for words, changed in variants.items():
                yield shorter + words, _with_context(changed, n)


def _with_context(options: EngineOptions, n: int) -> EngineOptions:
    n_positions = None if options.n_positions is None else n
    return replace(options, n_positions=n_positions, decoder=replace(options.decoder, n_ctx=n))


def _with_layers(options: EngineOptions, n: int) -> EngineOptions:
    return replace(options, decoder=replace(options.decoder, n_gpu_layers=n))


def most_layers(bundle: Bundle, options: EngineOptions, room: Room, predict: Predict) -> int | None:
    """The most blocks, the head among them, that fit on the GPUs, if main memory has room for the others; else None."""
    low, high = 0, bundle.manifest.language.n_layer + 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = room.has_gpus_for(predict(bundle, _with_layers(options, middle)))
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0 or room.judge(predict(bundle, _with_layers(options, low))) != "fits":
        return None
    return low
