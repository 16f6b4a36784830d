"""The vision section of a manifest: the tower as deployed, and how its weights were quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_llava.bundle.json_fields import JsonFields
from edge_llava.ggml.limits import MAX_BLOCKS, MAX_INT32

ASPECTS = ("pad", "crop", "squash", "anyres")
MERGES = ("flat", "spatial", "spatial_unpad", "spatial_unpad_rounded")
RANKINGS = ("none", "class_attention", "received_attention")
SEVERAL_IMAGES = ("as_one", "square_with_newline")
VISION_PRECISIONS = ("fp32", "fp16", "int8")
MAX_PINPOINTS = 1024  # published ones have at most 36; every image looks at all
MAX_TILES = 1024  # of one canvas; published ones have at most 36
_STRANGEST_MEAN, _SMALLEST_STD = 1000.0, 1e-6  # of pixel values from 0 to 1: beyond, the padding is not a colour
MATMUL_KINDS = ("int8", "blockwise8", "float")


@dataclass(frozen=True)
class VisionQuantization:
    """How the MatMuls of an int8 tower are computed, and how near its patch features are to float32.

    Attributes:
        matmuls: Kind by name: "int8" (one scale per image for the input, one per output channel for the weights),
            "blockwise8" (a scale for every 32 numbers of both), or "float".
        cosine_mean, cosine_min: Cosine similarity of a patch's features to float32 over the calibration images.
        budget_mean, budget_min: What they had to reach.
        n_pictures: Calibration images.
    """

    matmuls: Mapping[str, str]
    cosine_mean: float
    cosine_min: float
    budget_mean: float
    budget_min: float
    n_pictures: int

    def count(self, kind: str) -> int:
        """MatMuls of one kind."""
        return sum(value == kind for value in self.matmuls.values())

    def describe(self) -> str:
        """What was chosen, and what it measured, in words."""
        words = {"int8": "int8", "blockwise8": "8-bit blockwise", "float": "float"}
        kinds = ", ".join(f"{self.count(kind)} {words[kind]}" for kind in MATMUL_KINDS if self.count(kind))
        return (
            f"{len(self.matmuls)} MatMuls: {kinds}; cosine {self.cosine_mean:.6f}, worst patch {self.cosine_min:.6f} "
            f"over {self.n_pictures} calibration images"
        )


@dataclass(frozen=True)
class VisionSpec:
    """The vision tower as deployed.

    Attributes:
        image_size: Side S of the square input in pixels.
        patch_size: Side of a patch in pixels; what remains of S after whole patches is not seen.
        hidden_size: Width D of a patch feature.
        n_blocks: Blocks that are run; None where the bundle was made with format version 1, which does not say it.
        has_class_row: Whether the tower puts a row of its own before the patches.
        n_dropped_rows: Rows dropped from the front of what the tower computes, 0 or 1.
        image_mean, image_std: Per-channel normalization in RGB order, of pixels scaled to [0, 1].
        aspect: "pad" to a square of the mean colour, "crop" the centre, "squash" to a square, or "anyres" tiles.
        grid_pinpoints: Canvas sizes (width, height) in pixels for "anyres", in the order in which ties are decided;
            empty otherwise.
        merge: How the tiles of "anyres" become one sequence: "flat", tile after tile; "spatial", the rows of the
            canvas; "spatial_unpad", without its border, counted as LLaVA does, or "spatial_unpad_rounded", as
            transformers does. "flat" where there are no tiles.
        merge_limit: N of "anyres_max_N": a canvas of more rows than N squares is scaled down (bilinear); None: never.
        has_newline: Whether a trained row ends each row of patches of the canvas; or, where there are no tiles, all of
            them.
        several_images: How an image is placed that is not alone in its conversation: "as_one", as if it were, or
            "square_with_newline": padded to a square, one view, the trained row at its end.
        max_tiles: Squares that an image may be encoded as, at most, the whole image among them; None: as many as its
            canvas makes.
        precision: How the weights are stored: "fp32", "fp16" or "int8".
        quantization: What was chosen for each MatMul of an "int8" tower, and what it costs; None for the others, and
            where it was not noted.
        ranking: What vision.onnx gives to rank patches by (its `patch_keys` are unused):
            "class_attention", the class row's attention to each; "received_attention", the mean of all; "none".
    """

    image_size: int
    patch_size: int
    hidden_size: int
    n_blocks: int | None
    has_class_row: bool
    n_dropped_rows: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    aspect: str
    grid_pinpoints: tuple[tuple[int, int], ...]
    merge: str
    has_newline: bool
    precision: str
    merge_limit: int | None = None
    several_images: str = "as_one"
    max_tiles: int | None = None
    quantization: VisionQuantization | None = None
    ranking: str = "none"

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """The `grid_pinpoints` that `max_tiles` allows, in their order."""
        return usable_canvases(self.grid_pinpoints, self.image_size, self.max_tiles)

    @property
    def grid_side(self) -> int:
        """Patches along one side of the square input."""
        return self.image_size // self.patch_size

    @property
    def has_patches_only(self) -> bool:
        """Whether the rows are the patches of the square input, no more and no fewer."""
        return self.n_features == self.grid_side**2

    @property
    def n_features(self) -> int:
        """Rows P of one square input: grid_side squared, one more with a class row, without those that are dropped."""
        return self.grid_side**2 + int(self.has_class_row) - self.n_dropped_rows


def usable_canvases(
    pinpoints: tuple[tuple[int, int], ...], image_size: int, max_tiles: int | None
) -> tuple[tuple[int, int], ...]:
    """The canvases (width, height) that make at most `max_tiles` squares, together with the whole image; None: all."""
    if max_tiles is None:
        return pinpoints
    return tuple(size for size in pinpoints if count_squares(size, image_size) <= max_tiles)


def count_squares(canvas: tuple[int, int], image_size: int) -> int:
    """Squares that an image on this canvas (width, height) is encoded as: its tiles, and the whole image."""
    return 1 + (canvas[0] // image_size) * (canvas[1] // image_size)


def find_tile_fault(
    aspect: str, pinpoints: tuple[tuple[int, int], ...], image_size: int, max_tiles: int | None
) -> str | None:
    """Why images cannot be limited to so many squares, as the end of a sentence about a model; None if they can."""
    if max_tiles is None:
        return None
    if aspect != "anyres":
        return "does not cut images into tiles, so their number cannot be limited. Leave --max-tiles out."
    fewest = min((count_squares(size, image_size) for size in pinpoints), default=0)
    if max_tiles >= fewest:
        return None
    return f"encodes an image as {fewest} tiles or more, the whole image among them. Use --max-tiles {fewest} or more."


def read_vision(fields: JsonFields, version: int) -> VisionSpec:
    """The section `vision` of a manifest of this format version; its faults are noted in `fields`.

    Version 1 knows CLIP only, which has a class row.
    """
    quantization = fields.optional_object("quantization")
    if version == 1:
        has_class_row, n_dropped_rows, n_blocks = True, int(fields.boolean("drop_cls")), None
        ranking = "class_attention" if fields.optional_boolean("has_ranking") else "none"
    else:
        has_class_row, n_dropped_rows = fields.boolean("has_class_row"), fields.integer("n_dropped_rows", 0, 1)
        n_blocks, ranking = fields.optional_integer("n_blocks", 1, MAX_BLOCKS), fields.text("ranking", RANKINGS)
    return VisionSpec(
        image_size=fields.integer("image_size", 1, 4096),
        patch_size=fields.integer("patch_size", 1, 4096),
        hidden_size=fields.integer("hidden_size", 1, MAX_INT32),
        n_blocks=n_blocks,
        has_class_row=has_class_row,
        n_dropped_rows=n_dropped_rows,
        image_mean=fields.triple("image_mean", -_STRANGEST_MEAN, _STRANGEST_MEAN),
        image_std=fields.triple("image_std", _SMALLEST_STD, _STRANGEST_MEAN),
        aspect=fields.text("aspect", ASPECTS),
        grid_pinpoints=fields.sizes("grid_pinpoints", MAX_PINPOINTS),
        merge=fields.text("merge", MERGES),
        has_newline=fields.boolean("has_newline"),
        precision=fields.text("precision", VISION_PRECISIONS),
        merge_limit=None if version == 1 else fields.optional_integer("merge_limit", 1, MAX_TILES),
        several_images="as_one" if version == 1 else fields.text("several_images", SEVERAL_IMAGES),
        max_tiles=None if version == 1 else fields.optional_integer("max_tiles", 2, 1 + MAX_TILES),
        quantization=None if quantization is None else _read_quantization(quantization),
        ranking=ranking,
    )


def _read_quantization(fields: JsonFields) -> VisionQuantization:
    matmuls = fields.object("matmuls")
    return VisionQuantization(
        matmuls={name: matmuls.text(name, MATMUL_KINDS) for name in matmuls.names()},
        cosine_mean=fields.number("cosine_mean", -1, 1),
        cosine_min=fields.number("cosine_min", -1, 1),
        budget_mean=fields.number("budget_mean", -1, 1),
        budget_min=fields.number("budget_min", -1, 1),
        n_pictures=fields.integer("n_pictures", 1),
    )


def find_vision_faults(vision: VisionSpec) -> list[str]:
    """Fields that are each valid and yet cannot be true together."""
    faults = []
    if vision.image_size < vision.patch_size:
        faults.append(f"vision.image_size {vision.image_size} is smaller than patch_size {vision.patch_size}")
    faults += _find_tile_faults(vision)
    if vision.ranking != "none" and not vision.has_patches_only:
        faults.append(f"vision.ranking is {vision.ranking!r}, and other rows than patches are kept")
    if vision.ranking == "class_attention" and not vision.has_class_row:
        faults.append("vision.ranking is 'class_attention', and the tower has no class row")
    if vision.quantization is not None and vision.precision != "int8":
        faults.append(f"vision.quantization describes an int8 tower, and vision.precision is {vision.precision!r}")
    return faults


def _find_tile_faults(vision: VisionSpec) -> list[str]:
    faults = []
    if (vision.aspect == "anyres") != bool(vision.grid_pinpoints):
        faults.append(f"vision.aspect {vision.aspect!r} and {len(vision.grid_pinpoints)} grid_pinpoints")
    if any(length % vision.image_size for size in vision.grid_pinpoints for length in size):
        faults.append(f"vision.grid_pinpoints are not multiples of image_size {vision.image_size}")
    n_tiles = max((w * h // vision.image_size**2 for w, h in vision.grid_pinpoints), default=0)
    if n_tiles > MAX_TILES:
        faults.append(f"vision.grid_pinpoints hold a canvas of {n_tiles} tiles, at most {MAX_TILES} are supported")
    if vision.merge == "flat" and vision.has_newline and vision.several_images != "square_with_newline":
        faults.append("vision.has_newline is true, and vision.merge is 'flat', which has no rows to end")
    if vision.merge != "flat" and not (vision.aspect == "anyres" and vision.has_patches_only):
        faults.append(f"vision.merge {vision.merge!r} needs tiles of patches only (anyres)")
    if vision.merge_limit is not None and vision.merge == "flat":
        faults.append(f"vision.merge_limit is {vision.merge_limit}, and vision.merge is 'flat'")
    if vision.several_images == "square_with_newline" and not vision.has_newline:
        faults.append("vision.several_images is 'square_with_newline', and vision.has_newline is false")
    if vision.max_tiles is not None and vision.aspect != "anyres":
        faults.append(f"vision.max_tiles is {vision.max_tiles}, and vision.aspect {vision.aspect!r} makes no tiles")
    if vision.max_tiles is not None and vision.grid_pinpoints and not vision.canvases:
        faults.append(f"vision.max_tiles is {vision.max_tiles}, and all of vision.grid_pinpoints make more")
    return faults
