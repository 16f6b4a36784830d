"""Checkpoint to bundle: the steps in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle, describe_file
from edge_llava.bundle.manifest import FORMAT_VERSION, FileEntry, Manifest, SourceInfo, StageParity
from edge_llava.bundle.parity_record import MeasuredParity, make_reference_images
from edge_llava.bundle.template_spec import TemplateSpec
from edge_llava.bundle.vision_spec import VisionSpec, find_tile_fault
from edge_llava.converters.bundle_specs import describe_language, describe_projector, describe_vision
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.dialogue import Dialogue
from edge_llava.converters.disk_space import check_disk
from edge_llava.converters.language_gguf import write_language
from edge_llava.converters.language_measuring import check_size, measure_language, read_dialogues
from edge_llava.converters.language_recipe import PLAIN, LanguageRecipe
from edge_llava.converters.mmproj_gguf import check_mmproj, write_mmproj
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.projector_gguf import write_projector
from edge_llava.converters.quantize import Encoder
from edge_llava.converters.reference import reference_pixels
from edge_llava.converters.reference_model import check_reading
from edge_llava.converters.reference_tower import reference_features
from edge_llava.converters.smoothing import Smoother
from edge_llava.converters.staging import check_target, staging_directory
from edge_llava.converters.template_choice import checkpoint_template
from edge_llava.converters.truth import VisionTruth, project_truth
from edge_llava.converters.vision_int8 import BUDGET_MIN, Calibration, is_worthwhile, write_int8
from edge_llava.converters.vision_onnx import write_vision
from edge_llava.device.memory import return_freed_memory
from edge_llava.device.threads import usable_threads
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
_SQUARES_MEASURED = 2  # of an image: the whole, and of "anyres" one tile


@dataclass(frozen=True, eq=False)
class Stage:
    """A bundle that lacks only its comparison with the checkpoint.

    Attributes:
        bundle: Where it grows; its manifest contains no comparison and was not written.
        truth: What the checkpoint makes of the reference images.
    """

    bundle: Bundle
    truth: VisionTruth

    def seal(self, measured: MeasuredParity) -> None:
        """Adds the comparison and writes the manifest, last of all files.

        Raises:
            ConversionError: If the bundle does not compute what the checkpoint computes.
        """
        directory, manifest = self.bundle.path, self.bundle.manifest
        _refuse_broken(measured.figures, manifest.language.quant, manifest.vision.precision)
        measured.record.save(directory / _ROLE_FILES["parity"])
        files = dict(manifest.files) | {"parity": describe_file(directory / _ROLE_FILES["parity"], directory)}
        text = replace(manifest, files=files, parity=measured.figures).to_json()
        Manifest.from_json(text, "the new manifest")  # nothing is published that cannot be read
        (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")
        share_permissions(directory, like=directory / MANIFEST_NAME)


@contextmanager
def stage(
    checkpoint: Checkpoint,
    out: Path,
    options: ConvertOptions,
    *,
    calibration: Iterable[NDArray[np.uint8]] = (),
    dialogues: Sequence[Dialogue] = (),
    progress: ProgressCallback = silent,
) -> Iterator[Stage]:
    """Converts an opened checkpoint. The bundle takes its place when the block ends, for which it must be sealed.

    Args:
        checkpoint: Opened, hence complete.
        out: The bundle's directory. It appears whole or not at all; work happens beside it.
        options: What to make.
        calibration: Images uint8 (H, W, 3) to measure an int8 tower with, beside the reference images, and the
            language model in `dialogues`; read only if needed.
        dialogues: What is said about these images, to measure what matters in the language model; () does not.
        progress: Called with stages and bytes.

    Raises:
        CheckpointError: If transformers or peft would read other tensors from the checkpoint's files.
        ConversionError: If `out` is in the way, images cannot be limited to `max_tiles`, the disk is full, a weight
            cannot be represented, or transformers and peft read another model than the converters do.
    """
    check_target(out, overwrite=options.overwrite)
    _check_tiles(checkpoint, options)
    check_reading(checkpoint)
    if options.mmproj:
        check_mmproj(checkpoint)
    template = checkpoint_template(checkpoint, options.template)
    check_disk(checkpoint, out, options)
    check_size(checkpoint, options)
    progress(ProgressEvent("checkpoint", 1, 1, "items"))
    with staging_directory(out, overwrite=options.overwrite) as directory:
        truth, vision, features = _export_tower(
            checkpoint, directory, options, calibration, progress, keeps_features=bool(dialogues)
        )
        return_freed_memory()
        recipe = PLAIN
        if dialogues:
            sequences = read_dialogues(checkpoint, template, dialogues, features)
            recipe = measure_language(checkpoint, sequences, options, directory, progress)
            del sequences, features  # hundreds of megabytes
            return_freed_memory()
        _write_weights(checkpoint, directory, options, recipe, progress)
        return_freed_memory()
        manifest = _describe(checkpoint, directory, vision, template, options, recipe)
        yield Stage(Bundle(directory, manifest), truth)
        if not os.path.isfile(directory / MANIFEST_NAME):
            raise RuntimeError("the stage was not sealed")


def _check_tiles(checkpoint: Checkpoint, options: ConvertOptions) -> None:
    config = checkpoint.config
    aspect, size = options.aspect or config.aspect, checkpoint.tower.image_size
    if fault := find_tile_fault(aspect, config.grid_pinpoints, size, options.max_tiles):
        raise ConversionError(f"{checkpoint.name} {fault}")


def _write_weights(
    checkpoint: Checkpoint,
    directory: Path,
    options: ConvertOptions,
    recipe: LanguageRecipe,
    progress: ProgressCallback,
) -> None:
    encoder = Encoder(usable_threads(options.n_threads))
    try:
        write_projector(checkpoint, directory / _ROLE_FILES["projector"], options.quant, encoder, progress)
        write_language(checkpoint, directory / _ROLE_FILES["language"], options.quant, encoder, progress, recipe)
        if options.mmproj:
            write_mmproj(checkpoint, directory / _ROLE_FILES["mmproj"], options.quant, encoder, progress)
    finally:
        encoder.close()


def _export_tower(
    checkpoint: Checkpoint,
    directory: Path,
    options: ConvertOptions,
    calibration: Iterable[NDArray[np.uint8]],
    progress: ProgressCallback,
    *,
    keeps_features: bool,
) -> tuple[VisionTruth, VisionSpec, list[NDArray[np.float32]]]:
    """Exports the tower; returns what the checkpoint's computes of the calibration images as well, (S, P, D) each."""
    path, aspect = directory / _ROLE_FILES["vision"], options.aspect or checkpoint.config.aspect
    precision: Literal["fp32", "fp16"] = "fp16" if options.vision == "fp16" else "fp32"
    name = f"vision tower, {'int8' if options.tries_int8 else precision}"
    progress(ProgressEvent(name, 0, None, "items"))
    images = make_reference_images()
    others = calibration if options.tries_int8 or keeps_features else ()
    truth, measuring, smoother = _calibrate(checkpoint, images, others, aspect, options)
    features = list(measuring.features[len(images) :]) if keeps_features else []
    if options.tries_int8:
        quantization = write_int8(checkpoint, path, measuring, smoother, progress)
        if options.vision == "int8" or is_worthwhile(quantization):
            progress(ProgressEvent(name, 1, 1, "items"))
            return truth, describe_vision(checkpoint, "int8", aspect, quantization, options.max_tiles), features
        name = f"vision tower, fp32: int8 holds its budget for {quantization.count('int8')} MatMuls only"
    write_vision(checkpoint, path, precision)
    progress(ProgressEvent(name, 1, 1, "items"))
    return truth, describe_vision(checkpoint, precision, aspect, max_tiles=options.max_tiles), features


def _calibrate(
    checkpoint: Checkpoint,
    images: tuple[NDArray[np.uint8], ...],
    others: Iterable[NDArray[np.uint8]],
    aspect: str,
    options: ConvertOptions,
) -> tuple[VisionTruth, Calibration, Smoother]:
    """Runs the tower once, on the reference images and those that int8 is measured with besides."""
    pixels = [reference_pixels(checkpoint, image, aspect, options.max_tiles) for image in images]
    pixels += [reference_pixels(checkpoint, image, aspect, options.max_tiles)[:_SQUARES_MEASURED] for image in others]
    smoother = Smoother()
    features = reference_features(checkpoint, pixels, smoother.watch)
    truth = project_truth(checkpoint, images, pixels[: len(images)], features[: len(images)], options.max_tiles)
    squares, exact = ([values[:_SQUARES_MEASURED] for values in arrays] for arrays in (pixels, features))
    return truth, Calibration(tuple(squares), tuple(exact), usable_threads(options.n_threads)), smoother


def _describe(
    checkpoint: Checkpoint,
    directory: Path,
    vision: VisionSpec,
    template: TemplateSpec,
    options: ConvertOptions,
    recipe: LanguageRecipe,
) -> Manifest:
    """The manifest of everything but the comparison with the checkpoint, which needs it."""
    return Manifest(
        format_version=FORMAT_VERSION,
        created_by=f"edge-llava {version('edge-llava')}",
        source=_copy_licenses(checkpoint, directory),
        vision=vision,
        projector=describe_projector(checkpoint, options.quant),
        language=describe_language(checkpoint, options.quant, template, recipe),
        files=_describe_files(directory),
        parity={},
        notice=options.notice,
    )


def _describe_files(directory: Path) -> dict[str, FileEntry]:
    paths = {role: directory / name for role, name in _ROLE_FILES.items()}
    return {role: describe_file(path, directory) for role, path in paths.items() if path.is_file()}


def _refuse_broken(parity: Mapping[str, StageParity], quant: str, precision: str) -> None:
    """A bundle far from its checkpoint is no bundle: something is wrong that quantization does not explain."""
    tower = BUDGET_MIN if precision == "int8" else 0.999  # no patch of a reference image is below that
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
