"""Shared by all rooms: a home of its own for every test, and bundles and checkpoints made here, by seed, once a run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Server
from numpy.typing import NDArray

from edge_llava import demo
from edge_llava.bundle.vision_spec import VisionSpec

# Several processes share the cores: threads that wait awake take them from the others. OpenMP reads it when loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).parents[1]
SMALL_BUNDLE = ROOT / "edge_llava" / "selftest" / "bundle"
SMALL_Q4_FILES = ROOT / "tests" / "data" / "bundles" / "q4"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the many short files last, so that no process waits for another's long one at the end."""
    items.sort(key=lambda item: "/runtime/" in item.nodeid or "/hall/" in item.nodeid)


def pytest_collection_finish() -> None:
    """What has been imported is kept; looking for garbage in it would take a fifth of a second each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def amx_verdict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept about llama.cpp's AMX, so that not every process of every test tries it out."""
    directory = tmp_path_factory.mktemp("amx")
    subprocess.run(
        [sys.executable, "-c", "from edge_llava.ggml.amx import can_use_amx; can_use_amx()"],
        env=os.environ | {"EDGE_LLAVA_HOME": str(directory)},
        check=True,
    )
    return directory / "amx.json"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, amx_verdict: Path) -> Path:
    """No test touches the user's home, or the network."""
    directory = tmp_path_factory.mktemp("home")
    if amx_verdict.exists():
        shutil.copy(amx_verdict, directory)
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(directory))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return directory


@pytest.fixture
def server() -> Iterator[Server]:
    """An OpenAI-compatible server on this machine whose replies `server.behave` determines."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that no build folder stays in the repository.

    The copy has a build folder that an earlier version left, with a module that is deleted since.
    """
    copy = tmp_path_factory.mktemp("sources")
    for name in ("edge_llava", "runtime", "converters"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    left = copy / "build" / "lib" / "edge_llava" / "deleted_since.py"
    left.parent.mkdir(parents=True)
    left.touch()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "out"), str(copy)]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = (copy / "out").glob("*.whl")
    return path


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """run(*arguments) -> Result of `edge-llava *arguments`."""

    def call(*arguments: object) -> Result:
        from edge_llava.cli import main

        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(int(exit_.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def forget() -> Callable[[Any], None]:
    """forget(model): nothing is computed already; of an idle model."""

    def run(model: Any) -> None:
        sequences = model.engine.language.sequences
        for sequence in sequences._sequences:
            assert not sequence.is_busy
            sequences.truncate(sequence, 0)
        for kept in tuple(sequences.host._kept):
            sequences.host.remove(kept)

    return run


@pytest.fixture(scope="session")
def kernels_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH with a package `kernels` that says what it is asked for, and ends the process.

    transformers calls it for code that a checkpoint's config names (CVE-2026-4372).
    """
    directory = tmp_path_factory.mktemp("packages")
    (directory / "kernels").mkdir()
    (directory / "kernels" / "__init__.py").write_text(
        "import os\n"
        "class _Any:\n"
        "    def __call__(self, *arguments, **options):\n"
        "        return arguments[0] if arguments and isinstance(arguments[0], type) else self\n"
        "    def __getattr__(self, name): return self\n"
        "    def __or__(self, other): return self\n"
        "def get_kernel(*arguments, **options):\n"
        "    print('a kernel was fetched', arguments, flush=True)\n"
        "    os._exit(3)\n"
        "def __getattr__(name): return _Any()\n"
    )
    information = directory / "kernels-0.18.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    return directory


@pytest.fixture(scope="session")
def noise() -> Callable[..., NDArray[np.uint8]]:
    """noise(width, height, seed=0) -> uint8 (height, width, 3); every pixel differs from its neighbours."""

    def make(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def clip_spec() -> Callable[..., VisionSpec]:
    """clip_spec(aspect, image_size=336, merge="flat", pinpoints=()) -> the spec of a released tower."""

    def make(
        aspect: str, image_size: int = 336, merge: str = "flat", pinpoints: tuple[tuple[int, int], ...] = ()
    ) -> VisionSpec:
        return VisionSpec(
            image_size=image_size,
            patch_size=14,
            hidden_size=1024,
            n_blocks=23,
            has_class_row=True,
            n_dropped_rows=1,
            image_mean=(0.48145466, 0.4578275, 0.40821073),
            image_std=(0.26862954, 0.26130258, 0.27577711),
            aspect=aspect,
            grid_pinpoints=pinpoints,
            merge=merge,
            has_newline=merge.startswith("spatial_unpad"),
            precision="fp32",
        )

    return make


@pytest.fixture(scope="session")
def seeded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in Hugging Face layout with random weights: it answers noise, always the same."""
    from seeded_checkpoint import write_tiny_checkpoint  # of benchmarks/

    directory = tmp_path_factory.mktemp("checkpoints") / "seeded"
    write_tiny_checkpoint(directory)
    return directory


@pytest.fixture(scope="session")
def convert_to(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """convert_to(source, **ConvertOptions fields) -> bundle directory, in a home that lasts for the session."""
    from edge_llava.conversion.convert import convert
    from edge_llava.converters.options import ConvertOptions

    root = tmp_path_factory.mktemp("bundles")

    def run(source: Path, **options: object) -> Path:
        before = os.environ.get("EDGE_LLAVA_HOME")
        os.environ["EDGE_LLAVA_HOME"] = str(root / "home")
        try:
            out = root / f"{source.name}-{len(list(root.iterdir()))}"
            return convert(source, out, ConvertOptions(**options)).path  # type: ignore[arg-type]
        finally:
            if before is None:
                del os.environ["EDGE_LLAVA_HOME"]
            else:
                os.environ["EDGE_LLAVA_HOME"] = before

    return run


@pytest.fixture(scope="session")
def seeded_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small F32 bundle that tests/data/bundles/write.py made. Read only: copy it before changing it."""
    return shutil.copytree(SMALL_BUNDLE, tmp_path_factory.mktemp("bundles") / "seeded-f32")


@pytest.fixture(scope="session")
def seeded_q4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint as a Q4_K_M bundle with a float tower. Read only: copy it before changing it."""
    directory = shutil.copytree(SMALL_BUNDLE, tmp_path_factory.mktemp("bundles") / "seeded-q4")
    return shutil.copytree(SMALL_Q4_FILES, directory, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def converted_f32(seeded_checkpoint: Path, convert_to: Callable[..., Path]) -> Path:
    """The seeded checkpoint as an F32 bundle. Read only: copy it before changing it."""
    return convert_to(seeded_checkpoint, quant="F32")


@pytest.fixture(scope="session")
def converted_q4(seeded_checkpoint: Path, convert_to: Callable[..., Path]) -> Path:
    """The seeded checkpoint as a Q4_K_M bundle with an unquantized tower. Read only: copy it before changing it."""
    return convert_to(seeded_checkpoint, quant="Q4_K_M", vision="fp32")


@pytest.fixture(scope="session")
def demo_bundle() -> Path:
    """The demo that comes with edge-llava, which gives real answers. Read only."""
    return demo.BUNDLE


@dataclass(frozen=True)
class Shape:
    """A LLaVA-1.5 to be made: the tower's kind, widths and counts; the language model's config takes `text` as well."""

    tower: str = "clip_vision_model"
    vision_width: int = 64
    vision_ff: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    image_size: int = 56
    patch_size: int = 14
    width: int = 64
    ff: int = 160
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    tied: bool = False
    context: int = 512
    extra_rows: int = 64
    model_type: str = "llama"
    text: Mapping[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory, seeded_checkpoint: Path) -> Callable[..., Path]:
    """make_checkpoint(shape, seed=0) -> directory that transformers itself saved, float32, seeded tokenizer.

    The tokens are the seeded checkpoint's 512; then come <image> (512) and <pad> (513) and rows of noise, as in files
    of llava-hf.
    """
    import torch
    from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    n_tokens = 512

    def make(shape: Shape = Shape(), seed: int = 0) -> Path:
        torch.manual_seed(seed)
        config = LlavaConfig(
            vision_config=AutoConfig.for_model(
                shape.tower,
                hidden_size=shape.vision_width,
                intermediate_size=shape.vision_ff,
                num_hidden_layers=shape.vision_layers,
                num_attention_heads=shape.vision_heads,
                image_size=shape.image_size,
                patch_size=shape.patch_size,
            ).to_dict(),
            text_config=CONFIG_MAPPING[shape.model_type](
                hidden_size=shape.width,
                intermediate_size=shape.ff,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                vocab_size=n_tokens + shape.extra_rows,
                max_position_embeddings=shape.context,
                rms_norm_eps=1e-5,
                initializer_range=0.15,
                tie_word_embeddings=shape.tied,
                **shape.text,
            ).to_dict(),
            image_token_index=n_tokens,
            pad_token_id=n_tokens + 1,
            image_seq_length=(shape.image_size // shape.patch_size) ** 2,
        )
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif "vision_tower" in name or "projector" in name:
                    parameter.mul_(4)
        directory = tmp_path_factory.mktemp("checkpoints") / f"llava-{seed}"
        model.save_pretrained(directory)
        (directory / "tokenizer.model").write_bytes((seeded_checkpoint / "tokenizer.model").read_bytes())
        (directory / "added_tokens.json").write_text(json.dumps({"<image>": n_tokens, "<pad>": n_tokens + 1}))
        return directory

    return make


@pytest.fixture(scope="session")
def shape() -> type[Shape]:
    """The Shape class, for tests that make checkpoints."""
    return Shape


@pytest.fixture(scope="session")
def llama_vocabulary() -> Path:
    """The file that EDGE_LLAVA_LLAMA_VOCABULARY names: LLaMA's vocabulary as a GGUF without weights."""
    path = os.environ.get("EDGE_LLAVA_LLAMA_VOCABULARY")
    if not path:
        pytest.skip("EDGE_LLAVA_LLAMA_VOCABULARY does not name LLaMA's vocabulary")
    return Path(path)


@pytest.fixture(scope="session")
def published_vocabulary() -> Callable[[str], Path]:
    """published_vocabulary(name) -> ggml-vocab-NAME.gguf of the directory that EDGE_LLAVA_VOCABULARIES names."""

    def find(name: str) -> Path:
        directory = os.environ.get("EDGE_LLAVA_VOCABULARIES")
        path = Path(directory or "") / f"ggml-vocab-{name}.gguf"
        if not directory or not path.is_file():
            pytest.skip(f"EDGE_LLAVA_VOCABULARIES names no directory with {path.name}")
        return path

    return find
