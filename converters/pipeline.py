"""Checkpoint to bundle: the steps in order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle, describe_file
from edge_llava.bundle.manifest import (
    FORMAT_VERSION,
    QUANTS,
    FileEntry,
    Manifest,
    SourceInfo,
    StageParity,
)
from edge_llava.bundle.parity_record import ParityRecord, make_reference_pictures
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.converters import reference
from edge_llava.converters.bundle_specs import describe_language, describe_projector, describe_vision
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.language_gguf import plan_language, write_language
from edge_llava.converters.mmproj_gguf import check_mmproj, write_mmproj
from edge_llava.converters.projector_gguf import write_projector
from edge_llava.converters.quantize import Encoder, encoded_bytes, projector_type
from edge_llava.converters.reference_model import check_reading
from edge_llava.converters.staging import check_target, publish, staging_directory
from edge_llava.converters.tower import TrimmedTower, build_tower
from edge_llava.converters.vision_int8 import BUDGET_MIN, has_cuda, is_worthwhile, write_int8
from edge_llava.converters.vision_onnx import write_vision
from edge_llava.device.memory import return_freed_memory
from edge_llava.errors import ConversionError, list_faults
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.home.regular_file import share_permissions

_ROLE_FILES = {
    "vision": "vision.onnx",
    "vision_data": "vision.onnx.data",
    "projector": "projector.gguf",
    "language": "language.gguf",
    "mmproj": "mmproj.gguf",
    "parity": "parity.safetensors",
}
_SQUARES_MEASURED = 2  # of a picture: the whole, and of "anyres" one tile
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion makes.

    Attributes:
        quant: The language model's quantization, one of `manifest.QUANTS`; the projector takes at least 6 bits.
        vision: "fp32", "fp16" (half the disk, computed in float32), "int8" (a quarter, and fast on a CPU; what harms
            the features beyond the budget stays finer), or "auto": int8 if the language model is quantized, at least
            half of the tower can be int8, and there is no CUDA here; else fp32.
        calibrate: Directory of the pictures that int8 is measured with; None takes the built-in ones.
        aspect: "pad" or "crop"; None as the checkpoint was trained.
        vision_tower: Directory or hub id of the tower, for checkpoints that do not hold it.
        base: Directory or hub id of the model that the checkpoint is a delta or adapter of, or a projector for.
        template: Name of the conversation template; None as the checkpoint's config says.
        mmproj: Also write tower and projector in one file for llama.cpp's own tools.
        n_threads: Threads that quantize; None takes all cores.
        overwrite: Replace a bundle that is there already, once the new one is complete.

    Raises:
        ValueError: If a value is not offered; all faults at once.
    """

    quant: str = "Q4_K_M"
    vision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    calibrate: str | None = None
    aspect: Literal["pad", "crop"] | None = None
    vision_tower: str | None = None
    base: str | None = None
    template: str | None = None
    mmproj: bool = False
    n_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        rules = (
            (self.quant in QUANTS, f"quant must be one of {', '.join(QUANTS)}"),
            (self.vision in ("auto", "fp32", "fp16", "int8"), "vision must be auto, fp32, fp16 or int8"),
            (self.calibrate is None or self.vision in ("auto", "int8"), "calibrate belongs to vision auto or int8"),
            (self.aspect in (None, "pad", "crop"), "aspect must be pad, crop or None"),
            (self.template in (None, *TEMPLATES), f"template must be one of {', '.join(TEMPLATES)}"),
            (self.n_threads is None or self.n_threads >= 1, "n_threads must be at least 1"),
        )
        faults = [message for holds, message in rules if not holds]
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def tries_int8(self) -> bool:
        """Whether an int8 tower is made, and kept if it is worth it. An unquantized bundle is so in all its parts."""
        return self.vision == "int8" or (self.vision == "auto" and self.quant not in _UNQUANTIZED and not has_cuda())


class ParityMeasure(Protocol):
    """Runs the new bundle's engines; given by the hall, since this room does not know the runtime."""

    def __call__(
        self, bundle: Bundle, checkpoint: Checkpoint, truth: VisionTruth
    ) -> tuple[ParityRecord, dict[str, StageParity]]:
        """Returns the record to store and the figures for the manifest."""
        ...


@dataclass(frozen=True, eq=False)
class VisionTruth:
    """Pictures uint8 (H, W, 3), and what the checkpoint's tower and projector make of each in float32.

    Attributes:
        pictures: RGB.
        pixels: (T, 3, S, S): one square, or of "anyres" the whole and its tiles.
        features: (T, P, D).
        rows: (T, P, E): after the projector.
        embeddings: (N, E): what the language model reads.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    pixels: tuple[NDArray[np.float32], ...]
    features: tuple[NDArray[np.float32], ...]
    rows: tuple[NDArray[np.float32], ...]
    embeddings: tuple[NDArray[np.float32], ...]


def convert(
    checkpoint: Checkpoint,
    out: Path,
    options: ConvertOptions,
    *,
    measure: ParityMeasure,
    calibration: Iterable[NDArray[np.uint8]] = (),
    progress: ProgressCallback = silent,
) -> Bundle:
    """Converts an opened checkpoint to a bundle.

    Args:
        checkpoint: Opened, hence complete.
        out: The bundle's directory. It appears whole or not at all; work happens in `<out>.partial`.
        options: What to make.
        measure: Compares the result with the checkpoint.
        calibration: Pictures uint8 (H, W, 3) to measure an int8 tower with, beside the reference pictures; read only
            if one is made.
        progress: Told stages and bytes.

    Raises:
        CheckpointError: If transformers or peft would read other tensors from the checkpoint's files.
        ConversionError: If `out` is in the way, the disk is full, a weight cannot be represented, or transformers and
            peft read another model than the converters do.
    """
    out = out.resolve() if out.is_symlink() else out  # the link stays, and what it points to is replaced
    check_target(out, overwrite=options.overwrite)
    check_reading(checkpoint)
    if options.mmproj:
        check_mmproj(checkpoint)
    _check_disk(checkpoint, out, options)
    with staging_directory(out) as directory:
        truth, vision = _export_tower(checkpoint, directory, options, calibration, progress)
        return_freed_memory()
        encoder = Encoder(options.n_threads or os.cpu_count() or 1)
        try:
            write_projector(checkpoint, directory / _ROLE_FILES["projector"], options.quant, encoder, progress)
            write_language(checkpoint, directory / _ROLE_FILES["language"], options.quant, encoder, progress)
            if options.mmproj:
                write_mmproj(checkpoint, directory / _ROLE_FILES["mmproj"], options.quant, encoder, progress)
        finally:
            encoder.close()
        return_freed_memory()
        manifest = _describe(checkpoint, directory, vision, options)
        record, parity = measure(Bundle(directory, manifest), checkpoint, truth)
        _refuse_broken(parity, options.quant, vision.precision)
        record.save(directory / _ROLE_FILES["parity"])
        _seal(directory, manifest, parity)
        publish(directory, out)
    bundle = Bundle.open(out)
    bundle.remember_digests()
    return bundle


def estimate_bytes(checkpoint: Checkpoint, options: ConvertOptions) -> int:
    """Size of the bundle to be, from shapes alone."""
    language = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan_language(checkpoint, options.quant))
    vision = (1 if options.tries_int8 else 2 if options.vision == "fp16" else 4) * _count_weights(checkpoint)
    matrix = (checkpoint.config.language.n_embd, checkpoint.tower.hidden_size + checkpoint.config.language.n_embd)
    projector = encoded_bytes(projector_type(options.quant), matrix)
    mmproj = (_count_weights(checkpoint) + 4 * matrix[0] * matrix[1]) * (4 if options.quant == "F32" else 2)
    return language + vision + projector + (mmproj if options.mmproj else 0) + (2 << 20)


def _count_weights(checkpoint: Checkpoint) -> int:
    """Of the blocks of the tower, nearly all that it has."""
    tower = checkpoint.tower
    return checkpoint.n_blocks * (4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size)


def _export_tower(
    checkpoint: Checkpoint,
    directory: Path,
    options: ConvertOptions,
    calibration: Iterable[NDArray[np.uint8]],
    progress: ProgressCallback,
) -> tuple[VisionTruth, VisionSpec]:
    path, aspect = directory / _ROLE_FILES["vision"], options.aspect or checkpoint.config.aspect
    precision: Literal["fp32", "fp16"] = "fp16" if options.vision == "fp16" else "fp32"
    stage = f"vision tower, {'int8' if options.tries_int8 else precision}"
    progress(ProgressEvent(stage, 0, None, "items"))
    tower = build_tower(checkpoint)
    truth = vision_truth(checkpoint, tower, make_reference_pictures(), aspect)
    if options.tries_int8:
        others = (reference.reference_pixels(checkpoint, picture, aspect) for picture in calibration)
        squares = [values[:_SQUARES_MEASURED] for values in (*truth.pixels, *others)]
        quantization = write_int8(tower, path, squares, options.n_threads or os.cpu_count() or 1, progress)
        if options.vision == "int8" or is_worthwhile(quantization):
            progress(ProgressEvent(stage, 1, 1, "items"))
            return truth, describe_vision(checkpoint, "int8", aspect, quantization)
        stage = f"vision tower, fp32: int8 holds its budget for {quantization.count('int8')} MatMuls only"
        tower = build_tower(checkpoint)  # the other one is rescaled
    write_vision(tower, path, precision)
    progress(ProgressEvent(stage, 1, 1, "items"))
    return truth, describe_vision(checkpoint, precision, aspect)


def vision_truth(
    checkpoint: Checkpoint, tower: TrimmedTower, pictures: tuple[NDArray[np.uint8], ...], aspect: str
) -> VisionTruth:
    """What tower and projector of the checkpoint make of pictures, in float32."""
    pixels = tuple(reference.reference_pixels(checkpoint, picture, aspect) for picture in pictures)
    features = tuple(reference.reference_features(tower, values) for values in pixels)
    rows = tuple(reference.reference_rows(checkpoint, values) for values in features)
    embeddings = tuple(
        reference.reference_embedding(checkpoint, values, (picture.shape[1], picture.shape[0]))
        for picture, values in zip(pictures, rows, strict=True)
    )
    return VisionTruth(pictures, pixels, features, rows, embeddings)


def _describe(checkpoint: Checkpoint, directory: Path, vision: VisionSpec, options: ConvertOptions) -> Manifest:
    """The manifest of everything but the comparison with the checkpoint, which needs it."""
    return Manifest(
        format_version=FORMAT_VERSION,
        created_by=f"edge-llava {version('edge-llava')}",
        source=_copy_licenses(checkpoint, directory),
        vision=vision,
        projector=describe_projector(checkpoint, options.quant),
        language=describe_language(checkpoint, options.quant, options.template or checkpoint.config.template),
        files=_describe_files(directory),
        parity={},
    )


def _seal(directory: Path, manifest: Manifest, parity: Mapping[str, StageParity]) -> None:
    """Adds the comparison to the manifest and writes it, last of all files."""
    files = dict(manifest.files) | {"parity": describe_file(directory / _ROLE_FILES["parity"], directory)}
    text = replace(manifest, files=files, parity=parity).to_json()
    Manifest.from_json(text, "the new manifest")  # nothing is published that cannot be read
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")
    share_permissions(directory, like=directory / MANIFEST_NAME)


def _describe_files(directory: Path) -> dict[str, FileEntry]:
    paths = {role: directory / name for role, name in _ROLE_FILES.items()}
    return {role: describe_file(path, directory) for role, path in paths.items() if path.is_file()}


def _refuse_broken(parity: Mapping[str, StageParity], quant: str, precision: str) -> None:
    """A bundle far from its checkpoint is no bundle: something is wrong that quantization does not explain."""
    tower = BUDGET_MIN if precision == "int8" else 0.999  # no patch of a reference picture is below that
    floors = {"vision": tower, "projector": 0.98, "language": 0.98 if quant in ("F32", "F16", "BF16", "Q8_0") else 0.0}
    faults = [
        f"{stage}: {figures.describe()}; expected a mean cosine of at least {floors[stage]}"
        for stage, figures in parity.items()
        if stage in floors and not (figures.cosine_mean is not None and figures.cosine_mean >= floors[stage])
    ]
    tokenizer, preprocess = parity["tokenizer"], parity["preprocess"]
    if tokenizer.tokens_equal != tokenizer.tokens_total:
        faults.append(f"tokenizer: {tokenizer.describe()}; expected all")
    if preprocess.max_abs != 0:
        faults.append(f"preprocess: off by {preprocess.max_abs}; expected 0")
    if faults:
        raise ConversionError(list_faults("the result does not compute what the checkpoint computes:", faults))


def _copy_licenses(checkpoint: Checkpoint, directory: Path) -> SourceInfo:
    names = []
    for path in checkpoint.license_files():
        (directory / "licenses").mkdir(exist_ok=True)
        (directory / "licenses" / path.name).write_bytes(path.read_bytes())  # a new file's permissions, not its own
        names.append(path.name)
    return SourceInfo(checkpoint.name, checkpoint.revision, checkpoint.config.layout, tuple(names))


def _check_disk(checkpoint: Checkpoint, out: Path, options: ConvertOptions) -> None:
    parent = next(path for path in (out, *out.parents) if path.exists())
    free, needed = shutil.disk_usage(parent).free, estimate_bytes(checkpoint, options)
    if options.tries_int8:  # beside the float32 tower that it is made from
        needed = max(needed, 6 * _count_weights(checkpoint))
    if free < needed:
        sizes = f"{free / 1e6:,.0f} MB free; the bundle needs {needed / 1e6:,.0f} MB"
        raise ConversionError(f"{parent} has {sizes}. Choose another place with -o.")
