"""Pictures and embeddings as parts of a conversation of one bundle; nothing is encoded here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import ImageError
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.anyres import count_tokens
from edge_llava.runtime.vision.image import Alpha, PictureSource, is_truncated, open_picture
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_key import image_key, tower_digest


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image that was decoded and identified for one bundle: the slow part of placing it.

    Attributes:
        picture: Upright RGB.
        key: Its `image_key`.
        truncated: Whether the file's end is missing.
    """

    picture: Image.Image
    key: str
    truncated: bool


def open_image(source: PictureSource, bundle: Bundle, visual_tokens: int | None, alpha: Alpha = "white") -> OpenedImage:
    """Decodes an image and computes its key.

    Args:
        source: What to open.
        bundle: Whose tower will see it.
        visual_tokens, alpha: As in `EngineOptions`.

    Raises:
        ImageError: If it cannot be read.
    """
    picture = open_picture(source, alpha=alpha)
    return OpenedImage(picture, image_key(picture, bundle.manifest, visual_tokens), is_truncated(picture))


def place_image(
    image: PictureSource | ImageEmbedding | OpenedImage,
    bundle: Bundle,
    visual_tokens: int | None,
    alpha: Alpha = "white",
    *,
    salt: str = "",
) -> ImageRun:
    """A picture, or an embedding, as a part of a conversation.

    Args:
        image: What to place.
        bundle: Whose tower will see it, or has.
        visual_tokens, alpha: As in `EngineOptions`.
        salt: The same image with another salt counts as another image; its rows are computed again.

    Raises:
        ImageError: If the picture cannot be read or the embedding belongs to another bundle.
    """
    if isinstance(image, ImageEmbedding):
        return ImageRun.of_embedding(check_embedding(image, bundle, visual_tokens))
    opened = image if isinstance(image, OpenedImage) else open_image(image, bundle, visual_tokens, alpha)
    n_tokens = count_tokens(opened.picture.size, bundle.manifest.vision, visual_tokens)
    identity = hashlib.sha256(f"{opened.key} {salt}".encode()).hexdigest() if salt else opened.key
    return ImageRun(opened.key, identity, n_tokens, opened.picture, truncated=opened.truncated)


def check_embedding(embedding: ImageEmbedding, bundle: Bundle, visual_tokens: int | None) -> ImageEmbedding:
    """Returns the embedding if it was made by this bundle's tower and projector, with so many visual tokens.

    Raises:
        ImageError: If it was not; says by which part it differs.
    """
    manifest = bundle.manifest
    for part, digest, own in (
        ("vision tower", embedding.vision_sha256, tower_digest(manifest)),
        ("projector", embedding.projector_sha256, manifest.files["projector"].sha256),
    ):
        if digest != own:
            raise ImageError(
                f"this image embedding was made by another {part} ({digest[:12]}...) "
                f"than that of {bundle.name} ({own[:12]}...). "
                "Make it again: edge-llava embed IMAGE -o FILE.safetensors"
            )
    wanted = (count_tokens(embedding.image_size, manifest.vision, visual_tokens), manifest.language.n_embd)
    if embedding.data.shape != wanted:
        raise ImageError(
            f"this image embedding has shape {embedding.data.shape}, expected {wanted}. Rows differ where the "
            "picture and the question were given other --visual-tokens: use the same for both."
        )
    return embedding
