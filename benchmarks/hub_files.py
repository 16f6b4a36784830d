"""Copies a LLaVA-1.5 checkpoint and adds the files that llava-hf's repositories have besides config and weights.

    python benchmarks/hub_files.py CHECKPOINT OUT

transformers and OpenVINO's exporter need them: tokenizer, chat template, image processor, generation settings. The
weights are links. CHECKPOINT is one that `seeded_checkpoint.py` wrote: config.json, tokenizer.model, shards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import CLIPImageProcessor, GenerationConfig, LlamaTokenizerFast, LlavaProcessor

# Source: chat_template.json of llava-hf/llava-1.5-7b-hf.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def complete_checkpoint(checkpoint: Path, out: Path) -> None:
    """Writes the copy; `out` must not exist."""
    out.mkdir(parents=True)
    for path in checkpoint.resolve().iterdir():
        if path.suffix == ".safetensors":
            (out / path.name).symlink_to(path)
        elif path.name not in ("config.json", "added_tokens.json"):
            (out / path.name).write_bytes(path.read_bytes())
    config = json.loads((checkpoint / "config.json").read_text())
    vision, pad = config["vision_config"], config["image_token_index"] + 1
    n_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    config |= {"dtype": "float16", "image_seq_length": n_patches, "pad_token_id": pad, "tie_word_embeddings": False}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=pad).save_pretrained(out)
    _processor(checkpoint, vision["image_size"], vision["patch_size"]).save_pretrained(out)


def _processor(checkpoint: Path, image_size: int, patch_size: int) -> LlavaProcessor:
    tokenizer = LlamaTokenizerFast(vocab_file=str(checkpoint / "tokenizer.model"), padding_side="left", legacy=False)
    added = json.loads((checkpoint / "added_tokens.json").read_text())
    tokenizer.add_tokens(sorted(added, key=added.__getitem__), special_tokens=True)
    tokenizer.pad_token = "<pad>"
    if tokenizer.convert_tokens_to_ids(list(added)) != list(added.values()):
        raise SystemExit(f"{checkpoint} numbers its added tokens {added}, which its tokenizer.model does not allow")
    square = {"height": image_size, "width": image_size}
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square),
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=_CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    complete_checkpoint(arguments.checkpoint, arguments.out)
