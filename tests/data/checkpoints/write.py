"""Writes what a version of transformers saves of each family: its JSON files, and the names and shapes of its tensors.

    python tests/data/checkpoints/write.py edge_llava/demo/llava-scenes tests/data/checkpoints

Run once with transformers 4.57 and once with 5.24; needs torch, Pillow, sentencepiece and protobuf. The files are named
`<family>-<major version>.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
)

MAJOR = int(transformers.__version__.split(".", maxsplit=1)[0])
IMAGE_TOKEN, SIDE = 1024, 28
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
VISION = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": SIDE,
    "patch_size": 14, "projection_dim": 64,
}  # fmt: skip
TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 1088,
    "max_position_embeddings": 512,
}  # fmt: skip
CLIP_TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 64,
}  # fmt: skip
MISTRAL = {"num_key_value_heads": 1, "sliding_window": None}
# Written by their own tests, or not read from a checkpoint.
NOT_KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def rope(theta: float, factor: float | None = None) -> dict[str, Any]:
    kind: dict[str, Any] = {"rope_type": "linear", "factor": factor} if factor else {"rope_type": "default"}
    if MAJOR >= 5:
        return {"rope_parameters": kind | {"rope_theta": theta}}
    return {"rope_theta": theta, "rope_scaling": kind if factor else None}


def llava(text: Any) -> Any:
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=IMAGE_TOKEN)
    return LlavaForConditionalGeneration(config)


def llava_next(text: Any) -> Any:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextForConditionalGeneration(config)


FAMILIES = {
    "llava": lambda: llava(LlamaConfig(**TEXT)),
    "llava-linear": lambda: llava(LlamaConfig(**TEXT, **rope(50000.0, 4.0))),
    "llava-mistral": lambda: llava(MistralConfig(**TEXT, **MISTRAL, **rope(1000000.0))),
    "next-llama": lambda: llava_next(LlamaConfig(**TEXT)),
    "next-mistral": lambda: llava_next(MistralConfig(**TEXT, **MISTRAL, **rope(1000000.0))),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=64)),
    "clip-vision": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION)),
}


def save_processor(directory: Path, demo: str, *, is_next: bool) -> None:
    folder, name = ("llava_next", "LlavaNextImageProcessor") if is_next else ("llava", "LlavaImageProcessor")
    module = f"transformers.models.{folder}.image_processing_{'pil_' if MAJOR >= 5 else ''}{folder}"
    make = getattr(import_module(module), f"{name}Pil" if MAJOR >= 5 else name)
    options = {"image_grid_pinpoints": PINPOINTS} if is_next else {}
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "do_pad": True}
    processor = LlavaNextProcessor if is_next else LlavaProcessor
    processor(make(**sizes, **options), AutoTokenizer.from_pretrained(demo), patch_size=14).save_pretrained(directory)


def record(directory: Path, target: Path) -> None:
    paths = [path for path in sorted(directory.glob("*.json")) if path.name not in NOT_KEPT]
    files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    with safe_open(directory / "model.safetensors", "pt") as file:
        tensors = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    target.write_text(json.dumps({"files": files, "tensors": tensors}, sort_keys=True) + "\n", encoding="utf-8")


def main(demo: str, out: str) -> None:
    for family, make in FAMILIES.items():
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            make().half().save_pretrained(directory)
            if not family.startswith("clip"):
                save_processor(directory, demo, is_next=family.startswith("next"))
            record(directory, Path(out) / f"{family}-{MAJOR}.json")
    with tempfile.TemporaryDirectory() as name:  # an older checkpoint, loaded and saved again
        LlavaForConditionalGeneration.from_pretrained(demo).save_pretrained(name)
        AutoProcessor.from_pretrained(demo).save_pretrained(name)
        record(Path(name), Path(out) / f"resaved-{MAJOR}.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
