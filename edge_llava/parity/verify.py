"""Checks a bundle against the record it contains, or against its checkpoint.

Besides `cli/` and `conversion/`, this is the only place that knows both rooms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import StageParity
from edge_llava.bundle.parity_record import (
    N_TOKENS,
    PIXEL_STRIDE,
    PROMPT_AFTER,
    PROMPT_BEFORE,
    MeasuredParity,
    ParityRecord,
    sample_rows,
)
from edge_llava.device.threads import default_threads
from edge_llava.errors import BundleError, CheckpointError, list_faults
from edge_llava.fitting.bundle_needs import used_devices
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.parity.check import Check, VerifyReport
from edge_llava.parity.engines import CONVERTING, BundleEngines, GreedyRun, compare_rows
from edge_llava.runtime.options import EngineOptions, tuned_options
from edge_llava.runtime.vision.preprocess import cut_squares

if TYPE_CHECKING:
    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.truth import VisionTruth

# What another processor's rounding may cost, compared with the figure measured on the converting machine.
_COSINE_SLACK = 1e-3
# The whole bundle has another prompt and adds its stages' losses; it is compared with the language model's figure.
_WHOLE_SLACK = 0.05
# Two candidates this close, in standard deviations of the logits, may change places on another processor.
_NEAR_TIE = 0.02
# Repacked weights and an 8-bit cache round other numbers than `convert` compared: so much more, as a part of what
# quantization itself moved logits by.
_REPACKED_SHARE = 0.25
_REPACKED_WORST = 0.5  # the worst of a few rows scatters more: 0.27 of its loss was seen


def verify(bundle: Bundle, progress: ProgressCallback = silent, options: EngineOptions | None = None) -> VerifyReport:
    """Checks files, preprocessing, features, embeddings and greedy tokens on this device, without torch.

    Args:
        bundle: An opened bundle.
        progress: Called with the steps that are done.
        options: How its engines run; None: as `tune` measured, or else the defaults, which is what `load` takes.

    Raises:
        BundleError, BackendError: If an engine cannot even start; a file with another digest is a failed check.
    """
    try:
        bundle.verify_digests(trust_earlier=False, progress=progress)
    except BundleError as error:
        return VerifyReport((Check("files", False, str(error), {}),))
    n_files = len(bundle.manifest.files)
    checks = [
        Check("files", True, f"{n_files} files, {bundle.n_bytes:,} bytes, digests equal", {"bytes": bundle.n_bytes})
    ]
    record = ParityRecord.load(bundle.file("parity"))
    engines = BundleEngines(bundle, tuned_options(bundle) if options is None else options)
    _check_record(bundle, record)
    steps = (_check_pixels, _check_features, _check_embeddings, _check_language)
    for index, step in enumerate(steps):
        checks.append(step(bundle, engines, record))
        progress(ProgressEvent("verifying", index + 1, len(steps), "items"))
    return VerifyReport(tuple(checks))


def verify_against(
    bundle: Bundle, checkpoint: Checkpoint, progress: ProgressCallback = silent, options: EngineOptions = CONVERTING
) -> VerifyReport:
    """Compares every stage with transformers in float32, each on the reference's own input, and all of them together.

    Needs the [convert] extra. The check "whole" feeds a whole image through the whole bundle.

    Raises:
        CheckpointError: If the checkpoint's sizes differ from the bundle's.
    """
    from edge_llava.converters.reference_language import reference_logits
    from edge_llava.converters.reference_model import check_reading
    from edge_llava.converters.truth import vision_truth

    _check_sizes(bundle, checkpoint)
    check_reading(checkpoint)
    record = ParityRecord.load(bundle.file("parity"))
    vision = bundle.manifest.vision
    truth = vision_truth(checkpoint, record.images, vision.aspect, vision.max_tiles)
    parity = measure(bundle, checkpoint, truth, progress, options).figures
    engines = BundleEngines(bundle, options)
    ours = engines.embedding(truth.images[0])
    before, after = engines.tokenize_prompt(PROMPT_BEFORE, PROMPT_AFTER)
    run = engines.decode_greedily(before, ours, after, N_TOKENS)
    logits = reference_logits(checkpoint, before, truth.embeddings[0], [*after, *run.tokens[:-1]], N_TOKENS, progress)
    recorded = bundle.manifest.parity
    checks = [
        _against(stage, figures, recorded.get(stage), _slack(stage, bundle, options))
        for stage, figures in parity.items()
    ]
    whole = _against("whole", _compare_runs(run, logits), recorded.get("language"), _WHOLE_SLACK)
    return VerifyReport((*checks, whole, _costliest(bundle, parity)))


def _check_sizes(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest, tower, language = bundle.manifest, checkpoint.tower, checkpoint.config.language
    sizes = {
        "vision width": (manifest.vision.hidden_size, tower.hidden_size),
        "image size": (manifest.vision.image_size, tower.image_size),
        "patch size": (manifest.vision.patch_size, tower.patch_size),
        "vision blocks": (manifest.vision.n_blocks or checkpoint.n_blocks, checkpoint.n_blocks),
        "dropped rows": (manifest.vision.n_dropped_rows, checkpoint.tap.n_dropped_rows),
        "language width": (manifest.language.n_embd, language.n_embd),
        "blocks": (manifest.language.n_layer, language.n_layer),
        "heads": (manifest.language.n_head, language.n_head),
        "key/value heads": (manifest.language.n_head_kv, language.n_head_kv),
        "tokens": (manifest.language.n_vocab, len(checkpoint.vocabulary)),
    }
    faults = [
        f"{name}: {ours} in the bundle, {theirs} in the checkpoint"
        for name, (ours, theirs) in sizes.items()
        if ours != theirs
    ]
    if faults:
        raise CheckpointError(list_faults(f"{bundle.path} was not made from {checkpoint.directory}:", faults))


def measure(
    bundle: Bundle,
    checkpoint: Checkpoint,
    truth: VisionTruth,
    progress: ProgressCallback = silent,
    options: EngineOptions = CONVERTING,
) -> MeasuredParity:
    """Runs each stage of a bundle on the reference's input and compares it with the checkpoint in float32.

    Args:
        bundle: Its engines are run; only its manifest's specs and file paths matter.
        checkpoint: Read block by block.
        truth: Images, and the checkpoint's pixel values, features and embeddings.
        progress: Receives the number of finished blocks of the reference.
        options: How its engines run.

    Returns:
        The record that a new bundle stores, and the figures for each stage.
    """
    from edge_llava.converters.reference import reference_ids
    from edge_llava.converters.reference_language import reference_logits
    from edge_llava.converters.tokenizers.probes import probe_texts

    engines, probes = BundleEngines(bundle, options), probe_texts(checkpoint.vocabulary)
    pixels = [engines.pixels(image) for image in truth.images]
    features = engines.features(truth.pixels)
    projected = engines.rows(truth.features)
    rows = sample_rows(bundle.manifest.vision.n_features)
    image_rows = truth.rows[0][0, rows]
    before, after = engines.tokenize_prompt(PROMPT_BEFORE, PROMPT_AFTER)
    run = engines.decode_greedily(before, image_rows, after, N_TOKENS)
    continued = [*after, *run.tokens[:-1]]
    logits = reference_logits(checkpoint, before, image_rows, continued, N_TOKENS, progress)
    parity = {
        "tokenizer": _compare_ids(engines.tokenize(probes), reference_ids(checkpoint, probes)),
        "preprocess": compare_rows(np.concatenate(pixels), np.concatenate(truth.pixels)),
        "vision": compare_rows(np.concatenate(features), np.concatenate(truth.features)),
        "projector": compare_rows(np.concatenate(projected), np.concatenate(truth.rows)),
        "language": _compare_runs(run, logits),
    }
    if "mmproj" in bundle.manifest.files:
        parity["mmproj"] = _compare_mmproj(bundle, truth)
    record = ParityRecord(
        images=truth.images,
        pixels=tuple(values[:, :, ::PIXEL_STRIDE, ::PIXEL_STRIDE] for values in truth.pixels),
        rows=rows,
        features=np.stack([values[0, rows] for values in truth.features]),
        embeddings=np.stack([values[0, rows] for values in truth.rows]),
        before=np.array(before, np.int64),
        after=np.array(after, np.int64),
        tokens=np.array(run.tokens, np.int64),
        reference_tokens=logits.argmax(-1).astype(np.int64),
        logits=logits[0],
    )
    return MeasuredParity(record, parity)


def _compare_mmproj(bundle: Bundle, truth: VisionTruth) -> StageParity:
    """Compares llama.cpp's rows; they begin with the second patch, and their last, the class token's, is left out."""
    from edge_llava.parity.mtmd import encode_with_mtmd

    read_gguf_header(bundle.file("mmproj"))  # llama.cpp ends the process at some faults
    spec = bundle.manifest.vision
    squares = [np.asarray(cut_squares(Image.fromarray(image), spec)[0]) for image in truth.images]
    ours = encode_with_mtmd(bundle.file("mmproj"), bundle.file("language"), squares, default_threads())
    return compare_rows(np.stack([rows[:-1] for rows in ours]), np.stack([rows[0, 1:] for rows in truth.rows]))


def _compare_ids(ours: list[list[int]], theirs: list[list[int]]) -> StageParity:
    """Counts equal positions; a text that is split differently counts as different from the first difference on."""
    n_equal = n_total = 0
    for a, b in zip(ours, theirs, strict=True):
        n_equal += next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        n_total += max(len(a), len(b))
    return StageParity(tokens_equal=n_equal, tokens_total=n_total)


def _compare_runs(run: GreedyRun, reference_logits: np.ndarray) -> StageParity:
    equal = int((reference_logits.argmax(-1) == np.array(run.tokens)).sum())
    return compare_rows(run.logits, reference_logits, (equal, len(run.tokens)))


def _check_record(bundle: Bundle, record: ParityRecord) -> None:
    """Refuses the record of another bundle, which would index beyond this one's features and tokens."""
    manifest, n, r = bundle.manifest, len(record.images), len(record.rows)
    ids = np.concatenate([record.before, record.after, record.tokens, record.reference_tokens])
    rules = (
        (r > 0 and record.rows.min() >= 0 and record.rows.max() < manifest.vision.n_features, "rows"),
        (record.features.shape == (n, r, manifest.vision.hidden_size) and n > 0, "features"),
        (record.embeddings.shape == (n, r, manifest.language.n_embd), "embeddings"),
        (len(ids) > 0 and ids.min() >= 0 and ids.max() < manifest.language.n_vocab, "tokens"),
        (0 < len(record.tokens) == len(record.reference_tokens), "number of tokens"),
        (record.logits.shape == (manifest.language.n_vocab,), "logits"),
    )
    faults = [f"its {name} do not fit this bundle" for holds, name in rules if not holds]
    if faults:
        raise BundleError(list_faults(f"{bundle.file('parity')} is damaged:", faults, "Convert the checkpoint again."))


def _check_pixels(bundle: Bundle, engines: BundleEngines, record: ParityRecord) -> Check:
    ours = [engines.pixels(image)[:, :, ::PIXEL_STRIDE, ::PIXEL_STRIDE] for image in record.images]
    if [values.shape for values in ours] != [values.shape for values in record.pixels]:
        return Check("preprocess", False, "other squares than on the converting machine", {})
    worst = max(float(np.abs(a - b).max()) for a, b in zip(ours, record.pixels, strict=True))
    return Check("preprocess", worst == 0.0, f"largest difference {worst:g}, expected 0", {"max_abs": worst})


def _check_features(bundle: Bundle, engines: BundleEngines, record: ParityRecord) -> Check:
    features = engines.features([engines.pixels(image) for image in record.images])
    figures = compare_rows(np.stack([values[0, record.rows] for values in features]), record.features)
    return _against("vision", figures, bundle.manifest.parity.get("vision"), _slack("vision", bundle, engines.options))


def _check_embeddings(bundle: Bundle, engines: BundleEngines, record: ParityRecord) -> Check:
    figures = compare_rows(np.stack(engines.rows(list(record.features))), record.embeddings)
    return _against("projector", figures, bundle.manifest.parity.get("projector"))


def _check_language(bundle: Bundle, engines: BundleEngines, record: ParityRecord) -> Check:
    before, after = record.before.tolist(), record.after.tolist()
    tokenized = engines.tokenize_prompt(PROMPT_BEFORE, PROMPT_AFTER)
    if tokenized != (before, after):
        return Check("language", False, f"the prompt is tokenized to {tokenized}, expected {(before, after)}", {})
    run = engines.decode_greedily(before, record.embeddings[0], after, len(record.tokens))
    ours, theirs = np.array(run.tokens), record.tokens
    n_equal = int((ours == theirs).cumprod().sum())
    figures = {"tokens_equal": n_equal, "tokens_total": len(theirs)}
    if n_equal == len(theirs):
        return Check(
            "language", True, f"{n_equal} of {len(theirs)} greedy tokens as on the converting machine", figures
        )
    logits = run.logits[n_equal]
    gap = float((logits[ours[n_equal]] - logits[theirs[n_equal]]) / logits.std())
    detail = f"{n_equal} of {len(theirs)} greedy tokens equal; then two candidates are {gap:.4f} sigma apart"
    return Check("language", gap < _near_tie(bundle, engines), detail, {**figures, "gap": gap})


def _near_tie(bundle: Bundle, engines: BundleEngines) -> float:
    """How far apart two candidates may be that change places, in standard deviations of the logits.

    Vectors of cosine c and equal length are sqrt(2 - 2 c) of it apart.
    """
    recorded = bundle.manifest.parity.get("language")
    if _is_as_converted(engines.options):
        return _NEAR_TIE
    cosine = 1.0 if recorded is None or recorded.cosine_mean is None else recorded.cosine_mean
    return _NEAR_TIE + _REPACKED_SHARE * math.sqrt(max(0.0, 2 - 2 * cosine))


def _slack(stage: str, bundle: Bundle, options: EngineOptions) -> float:
    """Returns what another processor may cost. In int8, rounding moves whole steps, so the loss may be doubled."""
    recorded = bundle.manifest.parity.get(stage)
    loss = 0.0 if recorded is None else 1 - (recorded.cosine_min or 0.0)
    if stage == "vision" and bundle.manifest.vision.precision == "int8":
        return max(_COSINE_SLACK, loss)
    if stage == "language" and not _is_as_converted(options):
        return max(_COSINE_SLACK, _REPACKED_WORST * loss)
    return _COSINE_SLACK


def _is_as_converted(options: EngineOptions) -> bool:
    """Whether the language model computes as `convert` compared it: on the CPU; threads change nothing."""
    on_cpu = replace(options.decoder, n_threads=None, adapts_threads=None, n_gpu_layers=0, devices=None)
    return on_cpu == CONVERTING.decoder and not used_devices(options)


def _against(stage: str, figures: StageParity, recorded: StageParity | None, slack: float = _COSINE_SLACK) -> Check:
    """Passes if the stage is as close to the reference as on the converting machine."""
    numbers = {key: value for key, value in dataclasses.asdict(figures).items() if value is not None}
    if figures.cosine_min is None:
        return Check(stage, figures.tokens_equal == figures.tokens_total, figures.describe(), numbers)
    baseline = recorded.cosine_min if recorded is not None and recorded.cosine_min is not None else 1.0
    ok = figures.cosine_min >= baseline - slack
    return Check(stage, ok, figures.describe() + ("" if ok else f"; expected {baseline:.6f}"), numbers)


def _costliest(bundle: Bundle, parity: Mapping[str, StageParity]) -> Check:
    manifest = bundle.manifest
    precision = {
        "vision": manifest.vision.precision,
        "projector": manifest.projector.quant,
        "language": manifest.language.quant,
    }
    losses = {stage: 1 - (parity[stage].cosine_mean or 0.0) for stage in precision}
    worst = max(losses, key=losses.__getitem__)
    shares = ", ".join(f"{stage} ({precision[stage]}) {loss:.2g}" for stage, loss in losses.items())
    return Check(
        "cost", True, f"1 - cosine by stage: {shares}; {worst} costs most", {f"{k}_loss": v for k, v in losses.items()}
    )
