"""What a user may choose about a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_llava.bundle.language_spec import MIXED, NEED_IMPORTANCE, QUANTS
from edge_llava.bundle.manifest import MAX_NOTICE, is_notice
from edge_llava.bundle.templates import TEMPLATES

_UNQUANTIZED = ("F32", "F16", "BF16")
EXACT = (*_UNQUANTIZED, "Q8_0")  # that no importance matrix changes


@dataclass(frozen=True)
class ConvertOptions:
    """The options of a conversion.

    Attributes:
        quant: The language model's quantization, one of `language_spec.QUANTS`, or MIXED with `size_bytes`; the
            projector keeps at least 6 bits.
        size_bytes: What the bundle may take on disk: each matrix gets the type that makes the whole lose least, by what
            each was measured to lose.
        vision: "fp32", "fp16" (half the disk space, computed in float32), "int8" (a quarter, and fast on a CPU; layers
            that would exceed the error budget keep more bits), or "auto": int8 if the language model is quantized, at
            least half of the tower can be int8, and CUDA is not available; else fp32.
        calibrate: Directory of the images that int8 is measured with; None uses the built-in ones.
        imatrix: What to measure the importance of the language model's weights on: "auto", which is built-in images and
            conversations, or a directory of images, and of conversations about them in LLaVA's JSON; None: "auto" where
            the quantization needs it, and for a size, else nothing.
        aspect: "pad" or "crop"; None uses what the checkpoint was trained with.
        max_tiles: Squares that an image may be encoded as, at most, the whole image among them, for checkpoints that
            cut images into tiles; None: as many as the checkpoint's canvases make.
        vision_tower: Directory or hub id of the tower, for checkpoints that do not contain it.
        base: Directory or hub id of the model that the checkpoint is a delta or adapter of, or a projector for.
        template: Name of the conversation template; None follows the checkpoint's config.
        mmproj: Also write tower and projector to one file for llama.cpp's own tools.
        notice: A line that everyone who uses the bundle is shown, for example what the model does not know.
        n_threads: Threads of a conversion; None: as many as a chat would use.
        overwrite: Replace an existing bundle once the new one is complete.

    Raises:
        ValueError: If a value is not offered; all faults at once.
    """

    quant: str = "Q4_K_M"
    size_bytes: int | None = None
    vision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    calibrate: str | None = None
    imatrix: str | None = None
    aspect: Literal["pad", "crop"] | None = None
    max_tiles: int | None = None
    vision_tower: str | None = None
    base: str | None = None
    template: str | None = None
    mmproj: bool = False
    notice: str | None = None
    n_threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        rules = (
            (self.quant in (*QUANTS, MIXED), f"quant must be one of {', '.join(QUANTS)}"),
            ((self.quant == MIXED) == (self.size_bytes is not None), f"quant {MIXED} and size_bytes belong together"),
            (self.size_bytes is None or self.size_bytes > 0, "size_bytes must be above 0"),
            (self.vision in ("auto", "fp32", "fp16", "int8"), "vision must be auto, fp32, fp16 or int8"),
            (self.calibrate is None or self.vision in ("auto", "int8"), "calibrate belongs to vision auto or int8"),
            (self.imatrix is None or self.quant not in EXACT, f"imatrix changes nothing about {self.quant}"),
            (self.aspect in (None, "pad", "crop"), "aspect must be pad, crop or None"),
            (self.max_tiles is None or self.max_tiles >= 2, "max_tiles must be at least 2"),
            (self.template in (None, *TEMPLATES), f"template must be one of {', '.join(TEMPLATES)}"),
            (
                self.notice is None or is_notice(self.notice),
                f"notice must be one printable line of at most {MAX_NOTICE} characters",
            ),
            (self.n_threads is None or self.n_threads >= 1, "n_threads must be at least 1"),
        )
        faults = [message for holds, message in rules if not holds]
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def measures_importance(self) -> bool:
        """Whether the language model is quantized by an importance matrix."""
        return self.imatrix is not None or self.quant in (*NEED_IMPORTANCE, MIXED)

    @property
    def tries_int8(self) -> bool:
        """Whether to try an int8 tower. "auto" does not where the language model is unquantized."""
        if self.vision != "auto" or self.quant in _UNQUANTIZED:
            return self.vision == "int8"
        from edge_llava.converters.vision_int8 import has_cuda  # which imports torch

        return not has_cuda()
