"""Published checkpoints that `edge-llava convert` reads, by their shapes: what they take before anything is fetched.

Source: config.json and the card of each repository. The sizes follow from the shapes, as `fit` computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_spec import SENTENCEPIECE, LanguageSpec
from edge_llava.bundle.manifest import FORMAT_VERSION, FileEntry, Manifest, ProjectorSpec, SourceInfo
from edge_llava.bundle.template_spec import describe_template
from edge_llava.bundle.templates import TEMPLATES
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.fitting.bundle_needs import estimate_needs
from edge_llava.fitting.needs import MemoryNeeds
from edge_llava.ggml.types import BLOCK_SIZES, GgmlType
from edge_llava.runtime.options import DecoderOptions, EngineOptions

QUANT = "Q4_K_M"  # of the bundles
_STORED_BYTES = 2  # of a weight in these repositories: float16 or bfloat16
_HALF = (0.5, 0.5, 0.5)
_NEXT_CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_ONEVISION_CANVASES = tuple((384 * width, 384 * height) for width in range(1, 7) for height in range(1, 7))
_ANY_TEMPLATE = describe_template(TEMPLATES["vicuna_v1"], {})  # it takes no memory


@dataclass(frozen=True)
class LanguageShape:
    """A language model: widths, counts, and the size of its Q4_K_M file, which a test computes anew.

    Attributes:
        n_embd, n_ff: Widths.
        n_layer, n_head, n_head_kv: Blocks, query heads, key/value heads.
        n_vocab, n_ctx: Rows of the embedding, positions.
        q4_bytes: Of the tensors in QUANT.
        tied: Whether the embedding is also the head.
        architecture: llama.cpp's name of it; "qwen2" has biases.
    """

    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_ctx: int
    q4_bytes: int
    tied: bool = False
    architecture: str = "llama"

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names as in GGUF and shapes, without the bytes of biases and norms, which are few."""
        width, narrow = self.n_embd, self.n_embd // self.n_head * self.n_head_kv
        yield "token_embd.weight", (self.n_vocab, width)
        for layer in range(self.n_layer):
            yield f"blk.{layer}.attn_q.weight", (width, width)
            yield f"blk.{layer}.attn_k.weight", (narrow, width)
            yield f"blk.{layer}.attn_v.weight", (narrow, width)
            yield f"blk.{layer}.attn_output.weight", (width, width)
            yield f"blk.{layer}.ffn_gate.weight", (self.n_ff, width)
            yield f"blk.{layer}.ffn_up.weight", (self.n_ff, width)
            yield f"blk.{layer}.ffn_down.weight", (width, self.n_ff)
        if not self.tied:
            yield "output.weight", (self.n_vocab, width)


@dataclass(frozen=True)
class TowerShape:
    """A vision tower: side of its input and width, blocks that are stored and used."""

    image_size: int
    hidden_size: int
    n_ff: int
    n_stored: int
    n_used: int
    has_class_row: bool

    @property
    def block_weights(self) -> int:
        """Weights of the matrices of a block."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.n_ff


@dataclass(frozen=True)
class Published:
    """A checkpoint on a hub.

    Attributes:
        repository: "owner/name".
        license: As its card states it; None: it states none.
        language, tower: Shapes.
        canvases: Sizes of its tiled images, in pixels; none: images are one square.
    """

    repository: str
    license: str | None
    language: LanguageShape
    tower: TowerShape
    canvases: tuple[tuple[int, int], ...] = ()

    @property
    def n_weights(self) -> int:
        """Weights that the repository has, but for biases and norms."""
        language = sum(rows * columns for _, (rows, columns) in self.language.tensors())
        projector = self.language.n_embd * (self.tower.hidden_size + self.language.n_embd)
        return language + projector + self.tower.n_stored * self.tower.block_weights

    @property
    def download_bytes(self) -> int:
        """What a conversion fetches."""
        return _STORED_BYTES * self.n_weights

    def plan(self) -> Bundle:
        """The bundle that a conversion to QUANT would make: a manifest, and sizes of files that do not exist."""
        language, tower = self.language, self.tower
        block, block_bytes = BLOCK_SIZES[GgmlType.Q6_K]
        sizes = {
            "language": language.q4_bytes,
            "projector": language.n_embd * (tower.hidden_size + language.n_embd) // block * block_bytes,
            "vision": tower.n_used * tower.block_weights,  # int8
        }
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            created_by="",
            source=SourceInfo(self.repository, None, "hf", ()),
            vision=self._vision(),
            projector=ProjectorSpec("mlp2x_gelu", tower.hidden_size, language.n_embd, "Q6_K"),
            language=self._language(),
            files={role: FileEntry(f"{role}.planned", size, "") for role, size in sizes.items()},
            parity={},
        )
        return Bundle(Path(self.repository), manifest)

    def needs(self) -> MemoryNeeds:
        """What the bundle would take in memory on a CPU, in the settings that save it."""
        return estimate_needs(self.plan(), EngineOptions(DecoderOptions(repack=False)))

    def _vision(self) -> VisionSpec:
        tower, is_tiled = self.tower, bool(self.canvases)
        return VisionSpec(
            image_size=tower.image_size,
            patch_size=14,
            hidden_size=tower.hidden_size,
            n_blocks=tower.n_used,
            has_class_row=tower.has_class_row,
            n_dropped_rows=int(tower.has_class_row),
            image_mean=_HALF,
            image_std=_HALF,
            aspect="anyres" if is_tiled else "pad",
            grid_pinpoints=self.canvases,
            merge="spatial_unpad_rounded" if is_tiled else "flat",
            has_newline=is_tiled,
            precision="int8",
            merge_limit=9 if self.canvases == _ONEVISION_CANVASES else None,
        )

    def _language(self) -> LanguageSpec:
        language = self.language
        return LanguageSpec(
            architecture=language.architecture,
            n_embd=language.n_embd,
            n_layer=language.n_layer,
            n_head=language.n_head,
            n_head_kv=language.n_head_kv,
            n_vocab=language.n_vocab,
            n_ctx_train=language.n_ctx,
            quant=QUANT,
            template=_ANY_TEMPLATE,
            bos=0,
            eos=0,
            end_ids=(0,),
            tokenizer=SENTENCEPIECE,
        )


_CLIP = TowerShape(336, 1024, 4096, n_stored=24, n_used=23, has_class_row=True)
_SIGLIP_26 = TowerShape(384, 1152, 4304, n_stored=26, n_used=26, has_class_row=False)
_SIGLIP_27 = TowerShape(384, 1152, 4304, n_stored=27, n_used=27, has_class_row=False)
_VICUNA_7B = LanguageShape(4096, 11008, 32, 32, 32, 32064, 4096, q4_bytes=4_079_560_704)
_VICUNA_13B = LanguageShape(5120, 13824, 40, 40, 40, 32064, 4096, q4_bytes=7_864_005_120)
_MISTRAL = LanguageShape(4096, 14336, 32, 32, 8, 32064, 32768, q4_bytes=4_367_001_600)
_LLAMA_3 = LanguageShape(4096, 14336, 32, 32, 8, 128320, 8192, q4_bytes=4_912_195_584)
_LLAMA_3_1 = LanguageShape(4096, 14336, 32, 32, 8, 128256, 131072, q4_bytes=4_911_833_088)
_LLAMA_3_UNPADDED = replace(_LLAMA_3_1, n_ctx=8192)
_QWEN_0_5B = LanguageShape(1024, 2816, 24, 16, 16, 151936, 32768, q4_bytes=400_714_752, architecture="qwen2")
_QWEN_2_0_5B = LanguageShape(896, 4864, 24, 14, 2, 152000, 32768, q4_bytes=391_634_432, tied=True, architecture="qwen2")
_QWEN_2_7B = LanguageShape(3584, 18944, 28, 28, 4, 152128, 32768, q4_bytes=4_676_103_936, architecture="qwen2")

# From the smallest to the largest.
PUBLISHED = (
    Published("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "apache-2.0", _QWEN_2_0_5B, _SIGLIP_26, _ONEVISION_CANVASES),
    Published("qnguyen3/nanoLLaVA", "apache-2.0", _QWEN_0_5B, _SIGLIP_27),
    Published("llava-hf/llava-1.5-7b-hf", "llama2", _VICUNA_7B, _CLIP),
    Published("llava-hf/llava-v1.6-vicuna-7b-hf", "llama2", _VICUNA_7B, _CLIP, _NEXT_CANVASES),
    Published("llava-hf/bakLlava-v1-hf", None, _MISTRAL, _CLIP),
    Published("llava-hf/llava-v1.6-mistral-7b-hf", "apache-2.0", _MISTRAL, _CLIP, _NEXT_CANVASES),
    Published("llava-hf/llava-onevision-qwen2-7b-ov-hf", "apache-2.0", _QWEN_2_7B, _SIGLIP_26, _ONEVISION_CANVASES),
    Published("xtuner/llava-llama-3-8b-v1_1-transformers", None, _LLAMA_3, _CLIP),
    Published("BAAI/Bunny-Llama-3-8B-V", "apache-2.0", _LLAMA_3_UNPADDED, _SIGLIP_27),
    Published("fancyfeast/llama-joycaption-beta-one-hf-llava", None, _LLAMA_3_1, _SIGLIP_27),
    Published("llava-hf/llava-1.5-13b-hf", "llama2", _VICUNA_13B, _CLIP),
    Published("llava-hf/llava-v1.6-vicuna-13b-hf", "llama2", _VICUNA_13B, _CLIP, _NEXT_CANVASES),
)
