"""What the tests of the converters share: the reference model in float32, and checkpoints in every layout."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]

Tensors = dict[str, Any]
N_TOKENS = 512  # of the demo's tokenizer; rows from here on are noise

_OLD_TO_NEW = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_OLD_TO_ORIGINAL = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("multi_modal_projector.linear_2.", "model.mm_projector.2."),
)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tensors this small are slower on several threads."""
    import torch

    torch.set_num_threads(1)


class Reference:
    """transformers' own LLaVA in float32, its slow tokenizer and its slow image processors."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import LlamaTokenizer, LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = LlamaTokenizer(vocab_file=str(directory / "tokenizer.model"), legacy=True)
        self.config = self.model.config

    def pixels(self, image: np.ndarray, aspect: str) -> np.ndarray:
        """(1, 3, S, S) float32 of an image uint8 (H, W, 3)."""
        from PIL import Image
        from transformers import CLIPImageProcessor, SiglipImageProcessor
        from transformers.models.llava.image_processing_llava import LlavaImageProcessor

        side = self.config.vision_config.image_size
        if aspect == "squash":
            processor = SiglipImageProcessor(size={"height": side, "width": side})
            return processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = LlavaImageProcessor(do_pad=True, **sizes) if aspect == "pad" else CLIPImageProcessor(**sizes)
        return processor(Image.fromarray(image), return_tensors="np")["pixel_values"]

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """The tower's hidden state (P, D) that the config selects."""
        import torch

        with torch.inference_mode():
            tower = self.model.model.vision_tower(torch.from_numpy(pixels), output_hidden_states=True)
        keeps_cls = self.config.vision_feature_select_strategy == "full"
        return tower.hidden_states[self.config.vision_feature_layer][0, 0 if keeps_cls else 1 :].numpy()

    def embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """Embedding rows (P, E)."""
        import torch

        with torch.inference_mode():
            return self.model.get_image_features(torch.from_numpy(pixels))[0].numpy()

    def ids(self, text: str, *, bos: bool = False) -> list[int]:
        """Ids of one piece of text; each side of an image is its own piece."""
        ids: list[int] = self.tokenizer(text).input_ids
        assert ids[0] == self.tokenizer.bos_token_id
        return ids if bos else ids[1:]

    def prompt_ids(self, prompt: str, *, bos: bool = True) -> list[int]:
        """Ids of a prompt with `<image>` marks, each image as repeated image tokens."""
        n_features = self.config.image_seq_length
        first, *others = prompt.split("<image>")
        ids = self.ids(first, bos=bos)
        for piece in others:
            ids += [self.config.image_token_index] * n_features + self.ids(piece)
        return ids

    def greedy(self, ids: list[int], pixels: Sequence[np.ndarray], n_tokens: int = 32) -> list[int]:
        """Greedy tokens; rows without a token cannot be chosen.

        A seed whose two best candidates ever come within 1e-3 would compare rounding; it fails here.
        """
        import torch

        prompt = torch.tensor([ids])
        n_rows = self.config.text_config.vocab_size
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                pixel_values=torch.from_numpy(np.concatenate(list(pixels))) if pixels else None,
                do_sample=False,
                max_new_tokens=n_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.config.pad_token_id,
                suppress_tokens=list(range(N_TOKENS, n_rows)) or None,
                return_dict_in_generate=True,
                output_scores=True,
            )
        best = torch.stack(output.scores)[:, 0].topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3
        tokens: list[int] = output.sequences[0, len(ids) :].tolist()
        return tokens


class NextReference(Reference):
    """transformers' LLaVA-1.6: several squares per image."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration

        self.model = LlavaNextForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = LlamaTokenizer(vocab_file=str(directory / "tokenizer.model"), legacy=True)
        self.config = self.model.config

    def pixels(self, image: np.ndarray, aspect: str = "anyres") -> np.ndarray:
        """(T, 3, S, S) float32 of an image uint8 (H, W, 3): the whole, then its tiles."""
        from PIL import Image
        from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor

        side = self.config.vision_config.image_size
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = LlavaNextImageProcessor(image_grid_pinpoints=self.config.image_grid_pinpoints, **sizes)
        return processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]

    def embedding(self, image: np.ndarray) -> np.ndarray:
        """Embedding rows (N, E) of a whole image."""
        import torch

        sizes = torch.tensor([image.shape[:2]])
        with torch.inference_mode():
            (rows,) = self.model.get_image_features(torch.from_numpy(self.pixels(image))[None], sizes)
        return rows.numpy()

    def greedy_about(self, prompt: str, images: Sequence[np.ndarray], n_tokens: int = 32) -> list[int]:
        """Greedy tokens after a prompt with `<image>` marks. The tile axis is padded with zeros, as in a batch."""
        import torch

        squares = [self.pixels(image) for image in images]
        most = max(len(values) for values in squares)
        batch = np.stack([np.concatenate([v, np.zeros((most - len(v), *v.shape[1:]), v.dtype)]) for v in squares])
        first, *others = prompt.split("<image>")
        ids = self.ids(first, bos=True)
        for image, piece in zip(images, others, strict=True):
            ids += [self.config.image_token_index] * len(self.embedding(image)) + self.ids(piece)
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=torch.from_numpy(batch),
                image_sizes=torch.tensor([image.shape[:2] for image in images]),
                do_sample=False,
                max_new_tokens=n_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.config.pad_token_id,
                suppress_tokens=list(range(N_TOKENS, self.config.text_config.vocab_size)) or None,
                return_dict_in_generate=True,
                output_scores=True,
            )
        best = torch.stack(output.scores)[:, 0].topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3
        found: list[int] = output.sequences[0, len(ids) :].tolist()
        return found


@pytest.fixture(scope="session")
def next_reference() -> Callable[[Path], NextReference]:
    """next_reference(directory) -> the 1.6 checkpoint in transformers."""
    return NextReference


@pytest.fixture
def make_next(
    make_llava: Callable[..., Path], copy_of: Callable[[Path], Path], edit_config: Callable[..., None]
) -> Callable[..., Path]:
    """make_next(shape, seed, **config changes) -> a LLaVA-1.6 in Hugging Face layout, canvases of 2 to 4 tiles."""
    import torch

    def make(shape: Any, seed: int, **changes: Any) -> Path:
        copy = copy_of(make_llava(shape, seed))
        tensors = read_weights(copy)
        width = tensors["language_model.model.norm.weight"].shape[0]
        tensors["image_newline"] = torch.randn(width, generator=torch.Generator().manual_seed(seed))
        write_weights(copy, tensors)
        side = json.loads((copy / "config.json").read_text())["vision_config"]["image_size"]
        pinpoints = [[side * h, side * w] for h, w in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
        kind = {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"}
        edit_config(copy, kind | {"image_grid_pinpoints": pinpoints} | changes)
        return copy

    return make


@pytest.fixture(scope="session")
def reference() -> Callable[[Path], Reference]:
    """reference(directory) -> the checkpoint in transformers."""
    return Reference


class GgufFile:
    """The contents of a GGUF file: metadata by key; type, shape (fastest axis first) and bytes of each tensor by name.

    gguf's own reader takes seconds for a vocabulary.
    """

    _SCALARS: ClassVar = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path: Path) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self._data, self._at = path.read_bytes(), 0
        assert self._data[:4] == b"GGUF"
        _, _, n_tensors, n_metadata = self._unpack("IIQQ")
        self.metadata = {self._string(): self._value(self._unpack("I")[0]) for _ in range(n_metadata)}
        infos = []
        for _ in range(n_tensors):
            name, (n_dims,) = self._string(), self._unpack("I")
            infos.append((name, self._unpack(f"{n_dims}Q"), *self._unpack("IQ")))
        start = -(-self._at // 32) * 32
        self.tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        for name, shape, type_id, offset in infos:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(type_id)]
            n_bytes = math.prod(shape) // block * block_bytes
            data = self._data[start + offset : start + offset + n_bytes]
            assert len(data) == n_bytes
            self.tensors[name] = (GGMLQuantizationType(type_id).name, shape, data)

    def _unpack(self, code: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return values

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def _value(self, type_id: int) -> Any:
        if type_id == 8:
            return self._string()
        if type_id != 9:
            return self._unpack(self._SCALARS[type_id])[0]
        item_type, length = self._unpack("IQ")
        if item_type == 8:
            return [self._string() for _ in range(length)]
        return list(self._unpack(f"{length}{self._SCALARS[item_type]}"))


@pytest.fixture(scope="session")
def read_gguf() -> type[GgufFile]:
    """read_gguf(path) -> GgufFile."""
    return GgufFile


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """An image uint8 (H, W, 3): gradients, two boxes and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x // width, 255 * y // height, (7 * x + 3 * y) % 256], -1)
    for _ in range(2):
        top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
        image[top : top + height // 3, left : left + width // 3] = random.integers(0, 256, 3)
    return np.clip(image + random.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_image() -> Callable[[int, int, int], np.ndarray]:
    """make_image(height, width, seed) -> uint8 (H, W, 3)."""
    return draw


@pytest.fixture(scope="session")
def make_llava(make_checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """make_llava(shape, seed) -> as make_checkpoint, with image embeddings near 1.

    make_checkpoint's reach 500, where float32 itself is 5e-5 wide.
    """

    def make(shape: Any, seed: int) -> Path:
        directory = make_checkpoint(shape, seed)
        tensors = read_weights(directory)
        for name in tensors:
            if "projector" in name and name.endswith("weight"):
                tensors[name] = tensors[name] * 0.1
        write_weights(directory, tensors)
        return directory

    return make


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """copy_of(directory) -> a copy that the test may change."""

    def copy(directory: Path) -> Path:
        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(directory, target)
        return target

    return copy


def read_weights(directory: Path) -> Tensors:
    """All tensors of a checkpoint with one safetensors file."""
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def write_weights(directory: Path, tensors: Mapping[str, Any], kind: str = "safetensors") -> None:
    """Replaces a checkpoint's weights by one file of this kind: safetensors, bin, or legacy (before torch 1.6)."""
    import torch
    from safetensors.torch import save_file

    (directory / "model.safetensors").unlink(missing_ok=True)
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    else:
        torch.save(dict(tensors), directory / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "legacy")


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], Tensors]:
    """weights_of(directory) -> tensors by name."""
    return read_weights


@pytest.fixture(scope="session")
def put_weights() -> Callable[..., None]:
    """put_weights(directory, tensors, kind="safetensors") replaces the weights; kinds: safetensors, bin, legacy."""
    return write_weights


@pytest.fixture(scope="session")
def edit_config() -> Callable[..., None]:
    """edit_config(directory, changes, drop=()) changes config.json; a dotted key reaches into a section."""

    def edit(directory: Path, changes: Mapping[str, Any], drop: Sequence[str] = ()) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        for key in (*changes, *drop):
            section = config
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            if key in changes:
                section[last] = changes[key]
            else:
                del section[last]
        path.write_text(json.dumps(config))

    return edit


def rename(tensors: Tensors, prefixes: Sequence[tuple[str, str]]) -> Tensors:
    """Tensors under new prefixes; those without a matching prefix are left out."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in prefixes:
            if name.startswith(old):
                renamed[new + name[len(old) :]] = tensor
                break
    return renamed


@pytest.fixture
def new_prefixes(copy_of: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """new_prefixes(directory) -> the same checkpoint with the tensor names of transformers 4.52 and later."""

    def convert(directory: Path) -> Path:
        copy = copy_of(directory)
        tensors = read_weights(copy)
        renamed = rename(tensors, _OLD_TO_NEW)
        assert len(renamed) == len(tensors)
        write_weights(copy, renamed)
        return copy

    return convert


@pytest.fixture
def original_layout(copy_of: Callable[[Path], Path], tmp_path: Path) -> Callable[..., Path]:
    """original_layout(directory, tower="clip", **config changes) -> the checkpoint as LLaVA's own code saves it.

    The tower becomes a CLIPModel of its own in the sibling directory `tower`, text encoder and all. The embedding keeps
    the rows of the 512 tokens. With tower=None the tower stays inside, as 1.5 fine-tunes have it.
    """
    import torch
    from transformers import CLIPModel

    def convert(directory: Path, tower: str | None = "clip", **changes: Any) -> Path:
        copy = copy_of(directory)
        hf = json.loads((copy / "config.json").read_text())
        tensors = read_weights(copy)
        inner = rename(tensors, [("vision_tower.", "")])
        original = rename(tensors, _OLD_TO_ORIGINAL)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            original[name] = original[name][:N_TOKENS].clone()
        original["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        write_weights(copy, original, "bin")
        text = {key: hf["text_config"][key] for key in hf["text_config"] if key != "model_type"}
        config = text | {
            "architectures": ["LlavaLlamaForCausalLM"],
            "model_type": "llava",
            "vocab_size": N_TOKENS,
            "mm_hidden_size": hf["vision_config"]["hidden_size"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            "image_aspect_ratio": "pad",
        }
        (copy / "added_tokens.json").unlink()
        if tower is not None:
            config["mm_vision_tower"] = f"../{tower}"
            _save_clip(tmp_path / tower, hf["vision_config"], inner)
        (copy / "config.json").write_text(json.dumps(config | changes))
        return copy

    def _save_clip(target: Path, vision: dict[str, Any], inner: Tensors) -> None:
        from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

        torch.manual_seed(0)
        text = CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
        )
        clip = CLIPModel(CLIPConfig(text.to_dict(), CLIPVisionConfig(**vision).to_dict(), projection_dim=16))
        missing, unexpected = clip.load_state_dict(inner, strict=False)
        assert not unexpected
        assert not any(name.startswith("vision_model.") for name in missing if "position_ids" not in name)
        clip.save_pretrained(target)

    return convert


@pytest.fixture
def language_of(tmp_path: Path) -> Iterator[Callable[[Path], Any]]:
    """language_of(checkpoint) -> the runtime's LanguageModel of its language model in F32."""
    from edge_llava.converters.bundle_specs import describe_language
    from edge_llava.converters.checkpoint import Checkpoint
    from edge_llava.converters.language_gguf import write_language
    from edge_llava.converters.quantize import Encoder
    from edge_llava.home.progress import silent
    from edge_llava.runtime.language.language_model import LanguageModel
    from edge_llava.runtime.options import DecoderOptions

    opened: list[LanguageModel] = []

    def make(directory: Path) -> LanguageModel:
        checkpoint, path = Checkpoint.open(str(directory)), tmp_path / f"language-{len(opened)}.gguf"
        encoder = Encoder(1)
        write_language(checkpoint, path, "F32", encoder, silent)
        encoder.close()
        opened.append(LanguageModel(path, describe_language(checkpoint, "F32", "llava_v1"), DecoderOptions()))
        return opened[-1]

    yield make
    for language in opened:
        language.close()


@pytest.fixture
def with_tokenizer(
    make_checkpoint: Callable[..., Path], shape: Any, copy_of: Callable[[Path], Path], edit_config: Callable[..., None]
) -> Callable[..., Path]:
    """with_tokenizer(write, n_rows, image_token) -> a checkpoint whose tokenizer's files `write(directory)` writes."""

    def make(write: Callable[[Path], None], n_rows: int = 576, image_token: int = 512) -> Path:
        narrow = shape(width=16, ff=16, layers=1, heads=1, kv_heads=1, extra_rows=n_rows - N_TOKENS)
        directory = copy_of(make_checkpoint(narrow, 43))
        for name in ("tokenizer.model", "added_tokens.json"):
            (directory / name).unlink()
        write(directory)
        edit_config(directory, {"image_token_index": image_token})
        return directory

    return make
