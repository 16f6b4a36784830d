"""What a family's published code makes of a conversation about images: transformers' model, slow processors, ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from checkpoint_layouts import Made
from PIL import Image
from published_templates import IMAGE, Render, Said
from transformers import AutoModelForImageTextToText, AutoTokenizer, CLIPImageProcessor, SiglipImageProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

Pixels = np.ndarray
LEAST_MARGIN = 1e-3  # between the best two logits, so that a comparison of tokens is none of rounding


class FamilyReference:
    """A checkpoint in transformers, float32, and the prompts of its family.

    Attributes:
        model: transformers' model with the checkpoint's weights.
        image_id: Id of an image's positions, in prompts.
    """

    def __init__(self, made: Made, aspect: str, render: Render) -> None:
        self.made, self.aspect, self.render = made, aspect, render
        self.model = AutoModelForImageTextToText.from_pretrained(made.twin, dtype=torch.float32).eval()
        self.config = self.model.config
        self.image_id: int = self.config.image_token_index
        is_sentencepiece = (made.twin / "tokenizer.model").is_file()
        self.tokenizer = AutoTokenizer.from_pretrained(made.twin, use_fast=not is_sentencepiece)

    def pixels(self, image: np.ndarray) -> Pixels:
        """(T, 3, S, S) of an image uint8 (H, W, 3) that is alone, by the slow processors."""
        found: Pixels = self._processor()(Image.fromarray(image), return_tensors="np")["pixel_values"]
        return found.reshape(-1, *found.shape[-3:])

    def rows(self, image: np.ndarray) -> np.ndarray:
        """Embedding rows (N, E) of an image that is alone."""
        return self._rows([image])[0]

    def inputs(self, said: Sequence[Said], images: Sequence[np.ndarray]) -> tuple[list[int], dict[str, Any]]:
        """Ids of a conversation, where every position of an image has `image_id`, and what the model takes."""
        prompt = self.render(said)
        if self.made.twin == self.made.directory:
            image_token = self.tokenizer.convert_ids_to_tokens(self.image_id)
            processor = self._whole_processor(image_token)
            pictures = [Image.fromarray(image) for image in images]
            nested = [pictures] if isinstance(processor, LlavaOnevisionProcessor) else pictures
            text = prompt.replace(IMAGE, image_token)
            inputs = dict(processor(images=nested or None, text=text, return_tensors="pt"))
            inputs.pop("token_type_ids", None)
            return inputs["input_ids"][0].tolist(), inputs
        return self._original_inputs(prompt, images)

    @torch.inference_mode()
    def greedy(self, inputs: dict[str, Any], ends: Sequence[int], n_tokens: int, n_deployed: int) -> list[int]:
        """Greedy tokens; rows that are not deployed cannot be chosen."""
        output = self.model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=n_tokens,
            eos_token_id=list(ends),
            pad_token_id=0,
            suppress_tokens=list(range(n_deployed, self.config.text_config.vocab_size)) or None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        best = torch.stack(output.scores)[:, 0].topk(2).values
        margin = float((best[:, 0] - best[:, 1]).min())
        assert margin > LEAST_MARGIN, f"another seed: two candidates are {margin} apart"
        n_prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        tokens: list[int] = output.sequences[0, n_prompt:].tolist()
        return tokens

    def _original_inputs(self, prompt: str, images: Sequence[np.ndarray]) -> tuple[list[int], dict[str, Any]]:
        """Source: LLaVA's tokenizer_image_token and prepare_inputs_labels_for_multimodal."""
        table, rows = self.model.get_input_embeddings(), self._rows(images)
        ids: list[int] = []
        parts: list[torch.Tensor] = []
        chunks = [self.tokenizer(chunk).input_ids for chunk in prompt.split(IMAGE)]
        bos = self.tokenizer.bos_token_id
        for index, chunk in enumerate(chunks):
            if index:
                ids += [self.image_id] * len(rows[index - 1])
                parts.append(torch.from_numpy(rows[index - 1]))
                chunk = chunk[1:] if bos is not None and chunk[:1] == [bos] else chunk
            ids += chunk
            parts.append(table(torch.tensor(chunk, dtype=torch.long)).detach())
        embeddings = torch.cat(parts)[None]
        return ids, {"inputs_embeds": embeddings, "attention_mask": torch.ones(embeddings.shape[:2], dtype=torch.long)}

    @torch.inference_mode()
    def _rows(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Embedding rows of all images of a conversation."""
        if self.aspect.startswith("anyres") and self.made.twin != self.made.directory:
            return [self._as_published(image, len(images)) for image in images]
        if self.aspect == "anyres":
            return [self._tiles(image).numpy() for image in images]
        return [self.model.get_image_features(torch.from_numpy(self.pixels(image)))[0].numpy() for image in images]

    def _tiles(self, image: np.ndarray) -> torch.Tensor:
        sizes = torch.tensor([image.shape[:2]])
        (rows,) = self.model.get_image_features(torch.from_numpy(self.pixels(image))[None], sizes)
        return rows

    def _as_published(self, image: np.ndarray, n_images: int) -> np.ndarray:
        """Source: LLaVA-NeXT's prepare_inputs_labels_for_multimodal; several images are padded squares."""
        core, newline = self.model.model, self.model.model.image_newline
        pads = n_images > 1 and self._limit() is not None
        pixels = self._square(image) if pads else self.pixels(image)
        hidden = core.vision_tower(torch.from_numpy(pixels), output_hidden_states=True).hidden_states[-2]
        has_class_row = self.config.vision_feature_select_strategy == "default"
        rows = core.multi_modal_projector(hidden[:, 1:] if has_class_row else hidden)
        if pads:
            return torch.cat((rows[0], newline[None])).numpy()
        side = self.config.vision_config.image_size
        n_patches, height, width = side // 14, *image.shape[:2]
        canvases = [tuple(canvas) for canvas in self._canvases()]
        best = select_best_resolution((height, width), [(h, w) for w, h in canvases])
        grid = rows[1:].view(best[0] // side, best[1] // side, n_patches, n_patches, -1)
        grid = grid.permute(4, 0, 2, 1, 3).contiguous().flatten(1, 2).flatten(2, 3)
        grid = _unpad(grid, width, height)
        if (limit := self._limit()) is not None:
            times = (grid.shape[1] * grid.shape[2] / (limit * n_patches**2)) ** 0.5
            if times > 1.1:
                size = [int(grid.shape[1] // times), int(grid.shape[2] // times)]
                grid = torch.nn.functional.interpolate(grid[None], size, mode="bilinear")[0]
        grid = torch.cat((grid, newline[:, None, None].expand(*grid.shape[:-1], 1)), dim=-1)
        return torch.cat((rows[0], grid.flatten(1, 2).transpose(0, 1))).numpy()

    def _published_config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.made.directory / "config.json").read_text())
        return config

    def _canvases(self) -> list[list[int]]:
        """As the checkpoint's config lists them."""
        canvases: list[list[int]] = self._published_config()["image_grid_pinpoints"]
        return canvases

    def _limit(self) -> int | None:
        ratio = self._published_config().get("image_aspect_ratio", "")
        return int(ratio.removeprefix("anyres_max_")) if ratio.startswith("anyres_max_") else None

    def _square(self, image: np.ndarray) -> Pixels:
        side = self.config.vision_config.image_size
        padded = LlavaOnevisionImageProcessor(size={"height": side, "width": side}).pad_to_square(
            image, background_color=(127, 127, 127)
        )
        return np.asarray(self._processor("squash")(Image.fromarray(padded), return_tensors="np")["pixel_values"])

    def _processor(self, aspect: str | None = None) -> Any:
        aspect, vision = aspect or self.aspect, self.config.vision_config
        side, is_siglip = vision.image_size, vision.model_type.startswith("siglip")
        square = {"height": side, "width": side}
        mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if is_siglip else {}
        if aspect == "squash":
            return SiglipImageProcessor(size=square)
        sizes = {"size": {"shortest_edge": side}, "crop_size": square, **mean}
        if aspect == "pad":
            return LlavaImageProcessor(do_pad=True, **sizes)
        if aspect == "crop":
            return CLIPImageProcessor(**sizes)
        flip = self.made.twin != self.made.directory
        canvases = [[b, a] if flip else [a, b] for a, b in (self._canvases())]
        if is_siglip:
            return LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=canvases, **mean)
        return LlavaNextImageProcessor(image_grid_pinpoints=canvases, **sizes)

    def _whole_processor(self, image_token: str) -> Any:
        strategy, image_processor = self.config.vision_feature_select_strategy, self._processor()
        if self.config.model_type == "llava_onevision":
            n_features = (self.config.vision_config.image_size // 14) ** 2
            return _WithoutVideos(
                image_processor,
                self.tokenizer,
                num_image_tokens=n_features,
                vision_feature_select_strategy=strategy,
                vision_aspect_ratio=self.config.vision_aspect_ratio,
            )
        make = LlavaNextProcessor if self.config.model_type == "llava_next" else LlavaProcessor
        return make(
            image_processor,
            self.tokenizer,
            patch_size=14,
            vision_feature_select_strategy=strategy,
            image_token=image_token,
            num_additional_image_tokens=int(strategy == "default"),
        )


class _WithoutVideos(LlavaOnevisionProcessor):  # type: ignore[misc]
    """Its processor for videos needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        """Anything will do."""


def _unpad(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Source: LLaVA's unpad_image."""
    current_height, current_width = image.shape[1:]
    if width / height > current_width / current_height:
        border = (current_height - int(height * (current_width / width))) // 2
        return image[:, border : current_height - border, :]
    border = (current_width - int(width * (current_height / height))) // 2
    return image[:, :, border : current_width - border]
