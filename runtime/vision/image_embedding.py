"""The handoff between vision and language: one image as rows of the language model's input space."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edge_llava.errors import ImageError
from edge_llava.home.border import blaming_file
from edge_llava.home.files import atomic_file
from edge_llava.home.regular_file import open_regular

_FORMAT = "edge-llava image embedding 1"
_MAX_BYTES = 1 << 30  # 50,000 rows of the widest model


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """One image after tower and projector; valid only with the bundle parts that made it.

    Attributes:
        data: float32 (n_tokens, n_embd), C-contiguous, finite; read-only.
        key: sha256 (hex) of the RGB squares that the tower is shown, the image's size, the vision spec, the two digests
            below, and the number of rows where they were reduced. Other rows always have another key.
        grid: Patches as (rows, columns), whether each still has its row or not: with `visual_tokens` there are fewer
            rows, in the order of the patches that they are, or were merged into.
        image_size: The image's (width, height) in pixels, upright.
        vision_sha256, projector_sha256: Digests of the tower (`tower_digest`) and of projector.gguf.
        vision_s, projector_s: Seconds spent in the tower and in the projector; 0.0 when loaded from a file.
        computed_here: Whether these rows were computed here from the image that `key` names. A file, or a copy with
            changed fields, only says so.
    """

    data: NDArray[np.float32]
    key: str
    grid: tuple[int, int]
    image_size: tuple[int, int]
    vision_sha256: str
    projector_sha256: str
    vision_s: float = 0.0
    projector_s: float = 0.0
    computed_here: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        data = self.data
        if data.dtype != np.float32 or data.ndim != 2 or 0 in data.shape or not data.flags.c_contiguous:
            raise ImageError(
                f"an image embedding must be C-contiguous float32 (n_tokens, n_embd), not {data.dtype} {data.shape}."
            )
        if not np.isfinite(data).all():
            raise ImageError(
                "an image embedding holds infinite or undefined numbers: the tower or its weights are damaged."
            )
        view = data.view()
        view.flags.writeable = False
        object.__setattr__(self, "data", view)  # the caller's own array stays writable

    def mark_computed(self) -> ImageEmbedding:
        """Marks the rows as just computed from the image that `key` names; for the encoder only."""
        object.__setattr__(self, "computed_here", True)
        return self

    @cached_property
    def identity(self) -> str:
        """What the rows are known by in the KV cache: the key if they were computed here, else their own digest.

        A file that names another image's key, or holds other rows, is never taken for that image.
        """
        if self.computed_here:
            return self.key
        return hashlib.sha256(self.key.encode() + b"\0" + self.data.tobytes()).hexdigest()

    @property
    def n_tokens(self) -> int:
        """Positions that the image takes in the context."""
        return int(self.data.shape[0])

    @property
    def n_embd(self) -> int:
        """Width of a row."""
        return int(self.data.shape[1])

    def save(self, path: str | os.PathLike[str], dtype: Literal["float32", "float16"] = "float32") -> None:
        """Writes the embedding as safetensors, tensor `embedding` (n_tokens, n_embd), the rest as metadata.

        Args:
            path: Written by rename, so that an interrupted save leaves nothing behind.
            dtype: "float16" halves the file and rounds.

        Raises:
            ImageError: If the file cannot be written, or a number does not fit in float16.
        """
        with np.errstate(over="ignore"):
            rows = self.data.astype(dtype)
        if not np.isfinite(rows).all():
            raise ImageError("the embedding holds numbers beyond float16. Save it as float32.")
        key = self.key
        if dtype == "float16":  # rounded rows are other rows: in the KV cache they are not taken for the exact ones
            key = hashlib.sha256(f"{key} float16".encode()).hexdigest()
        metadata = {
            "format": _FORMAT,
            "key": key,
            "grid": json.dumps(self.grid),
            "image_size": json.dumps(self.image_size),
            "vision_sha256": self.vision_sha256,
            "projector_sha256": self.projector_sha256,
        }
        try:
            target = Path(path).resolve()
            if os.path.exists(target) and not os.path.isfile(target):
                raise ImageError(f"{target} is not a file that can be replaced. Name another file with -o.")
            if not os.path.isdir(target.parent):
                raise ImageError(f"{path}: the directory {target.parent} does not exist. Name another file with -o.")
            with atomic_file(target) as file:
                file.write(save({"embedding": rows}, metadata))  # safetensors' own files are private whatever the umask
        except (OSError, SafetensorError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ImageError(f"{path} cannot be written: {reason}. Name another file with -o.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageEmbedding:
        """Reads what `save` wrote.

        Raises:
            ImageError: If the file is missing, damaged, or something else.
        """
        if not os.path.isfile(path):
            raise ImageError(f"there is no file {path}.")
        with blaming_file(ImageError, path, "Make it again with 'edge-llava embed'."):
            open_regular(path, _MAX_BYTES).close()
            with safe_open(path, framework="numpy") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if metadata.get("format") != _FORMAT or names != {"embedding"}:
                    raise ImageError(
                        f"{path} is not an image embedding. Make one: edge-llava embed IMAGE -o FILE.safetensors"
                    )
                rows = file.get_tensor("embedding")
            if rows.dtype.kind != "f":
                raise ValueError(f"its numbers are {rows.dtype}, expected float32 or float16")
            (n_rows, n_columns), (width, height) = (json.loads(metadata[name]) for name in ("grid", "image_size"))
            grid, size = (int(n_rows), int(n_columns)), (int(width), int(height))
            digests = metadata["vision_sha256"], metadata["projector_sha256"]
            with np.errstate(over="ignore"):
                data = np.array(rows, np.float32, order="C")
            return cls(data, metadata["key"], grid, size, *digests)
