"""Writes the small bundle that tests and the self-test use: python tests/data/bundles/write.py

It is a LLaVA-1.5 with random weights, which answers noise, always the same, and without end. The F32 bundle is
edge_llava/selftest/bundle, a part of the wheel; q4 (beside this file) holds the files in which the Q4_K_M bundle of
the same checkpoint differs from it. Rows of 64 are too short for k-quants: llama.cpp's own substitutes are in it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load, save_file

ROOT = Path(__file__).parents[3]
F32 = ROOT / "edge_llava" / "selftest" / "bundle"
Q4 = Path(__file__).parent / "q4"
NAME = "seeded"
END_OF_TEXT = 2


def write_checkpoint(directory: Path) -> None:
    """Writes the checkpoint into a directory that does not exist; its name becomes part of the bundle."""
    from seeded_checkpoint import write_tiny_checkpoint  # of benchmarks/

    from edge_llava.converters.model_configs import LanguageConfig, TowerConfig

    tower = TowerConfig(32, 64, 2, 2, image_size=56, patch_size=7, layer_norm_eps=1e-5, hidden_act="quick_gelu")
    language = LanguageConfig(
        n_embd=64, n_ff=64, n_layer=2, n_head=2, n_head_kv=1, head_dim=32, n_rows=512, n_ctx_train=1024,
        rms_eps=1e-5, rope_theta=10000.0, rope_factor=None, tied=False,
    )  # fmt: skip
    write_tiny_checkpoint(directory, tower, language)
    tensors = load((directory / "model.safetensors").read_bytes())
    tensors["language_model.lm_head.weight"][END_OF_TEXT] = 0  # greedy answers end only where the context does
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def write_bundles(directory: Path) -> tuple[Path, Path]:
    """Writes checkpoint and bundles into an empty directory.

    Returns:
        The directories of the F32 and of the Q4_K_M bundle.
    """
    from edge_llava.conversion.convert import convert
    from edge_llava.converters.pipeline import ConvertOptions

    write_checkpoint(directory / NAME)
    f32 = convert(directory / NAME, directory / "f32", ConvertOptions(quant="F32"))
    q4 = convert(directory / NAME, directory / "q4", ConvertOptions(quant="Q4_K_M", vision="fp32"))
    return f32.path, q4.path


def main() -> None:
    """Replaces the committed files."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["EDGE_LLAVA_HOME"] = str(Path(directory) / "home")
        f32, q4 = write_bundles(Path(directory))
        for target in (F32, Q4):
            shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(f32, F32)
        Q4.mkdir()
        for path in sorted(q4.iterdir()):
            if path.read_bytes() != (f32 / path.name).read_bytes():
                shutil.copy(path, Q4 / path.name)


if __name__ == "__main__":
    main()
