"""Makes the demo checkpoint. Each step stores its result in the work folder, and is skipped if the result exists."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from demo_checkpoint.corpus import vocabulary_texts
from demo_checkpoint.language import train_language
from demo_checkpoint.muon import MuonForMatrices
from demo_checkpoint.tower import train_tower
from demo_checkpoint.vocabulary import DemoTokenizer, train_vocabulary
from edge_llava.home.atomic_directory import atomic_directory
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.drawing import encode_scene
from edge_llava.scenes.scene import Scene, sample_scenes
from edge_llava.scenes.sentences import captions
from edge_llava.scenes.shorthand import shorthand
from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.caption_pairs import pair_captions
from edge_llava.training.instructions.conversations import Conversation, Turn, write_conversations
from edge_llava.training.instructions.scene_teacher import teach
from edge_llava.training.stages import TrainOptions, align, finetune
from edge_llava.training.starting_point import join, open_llava
from edge_llava.training.trainer import Schedule

TEMPLATE = "llava_v1"
_SEED = 20230417
# Seeds of scenes of one split: tower, language model and LLaVA are trained on different scenes.
_TOWER_SCENES, _LANGUAGE_SCENES, _LLAVA_SCENES = 1, 2, 3
_ALIGN = Schedule(2e-3, batch_size=32, save_every=250, seed=_SEED)
_FINETUNE = Schedule(
    1e-3, batch_size=8, weight_decay=0.05, beta2=0.98, optimizer=MuonForMatrices(2e-3, 0.05), save_every=500, seed=_SEED
)
_N_TURNS = (8, 14)  # per conversation: many questions for one pass over the picture


@dataclass(frozen=True)
class Amounts:
    """The amounts of training data.

    Attributes:
        vocabulary: Scenes whose texts make the vocabulary.
        tower: Scenes for the vision tower.
        tower_epochs: Passes over the tower's scenes.
        language: Documents for the language model.
        pictures: Pictures for LLaVA's two stages.
        conversations: Conversations per picture.
        shorthands: Share of the pictures with a list of facts in shorthand.
        descriptions, reasonings: Share with a detailed description, and with a question that needs reasoning.
    """

    vocabulary: int = 4000
    tower: int = 32000
    tower_epochs: int = 8
    language: int = 6000
    pictures: int = 18000
    conversations: int = 2
    shorthands: float = 0.5
    descriptions: float = 0.3
    reasonings: float = 0.2


def make_demo(out: Path, work: Path, amounts: Amounts = Amounts(), progress: ProgressCallback = silent) -> None:
    """Makes the demo checkpoint.

    Args:
        out: Directory of the checkpoint; replaced when the new one is complete.
        work: Folder for intermediate results, from which a stopped run resumes.
        amounts: The amounts of training data.
        progress: Called after every step.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_vocabulary(work / "tokenizer.model", amounts)
    _make_tower(work / "clip", tokenizer, amounts, progress)
    _make_language(work / "llama", tokenizer, amounts, progress)
    _make_data(work / "data", amounts, progress)
    if not (work / "aligned").exists():
        llava = join(work / "clip", work / "llama", "mlp2x_gelu", _SEED)
        align(llava, _options(work, "captions.json", work / "aligned", _ALIGN), progress)
    finetune(open_llava(work / "aligned"), _options(work, "instructions.json", out, _FINETUNE), progress)


def _options(work: Path, data: str, out: Path, schedule: Schedule) -> TrainOptions:
    return TrainOptions(
        data=work / "data" / data,
        images=work / "data" / "images",
        out=out,
        schedule=schedule,
        template=TEMPLATE,
        keep_features=True,
        features=work / "features",
    )


def _make_vocabulary(path: Path, amounts: Amounts) -> DemoTokenizer:
    if not path.is_file():
        path.write_bytes(train_vocabulary(vocabulary_texts(_scenes(_TOWER_SCENES, amounts.vocabulary), seed=5)))
    return DemoTokenizer(path.read_bytes())


def _make_tower(out: Path, tokenizer: DemoTokenizer, amounts: Amounts, progress: ProgressCallback) -> None:
    if not out.exists():
        scenes = _scenes(_TOWER_SCENES, amounts.tower)
        clip = train_tower(scenes, amounts.tower_epochs, tokenizer, out.with_name("tower"), progress)
        with atomic_directory(out, overwrite=False) as directory:
            clip.save_pretrained(directory)


def _make_language(out: Path, tokenizer: DemoTokenizer, amounts: Amounts, progress: ProgressCallback) -> None:
    if not out.exists():
        scenes = _scenes(_LANGUAGE_SCENES, amounts.language)
        llama = train_language(scenes, TEMPLATE, tokenizer, out.with_name("language"), progress)
        with atomic_directory(out, overwrite=False) as directory:
            llama.save_pretrained(directory)
            shutil.copyfile(out.with_name("tokenizer.model"), directory / "tokenizer.model")


def _make_data(out: Path, amounts: Amounts, progress: ProgressCallback) -> None:
    """Makes the pictures, captions and instructions of the two stages."""
    if out.exists():
        return
    scenes = _scenes(_LLAVA_SCENES, amounts.pictures)
    with atomic_directory(out, overwrite=False) as directory:
        (directory / "images").mkdir()
        # spawned, not forked: torch's threads do not survive a fork
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            for index, picture in enumerate(pool.map(encode_scene, scenes, chunksize=64)):
                (directory / "images" / _picture_name(index)).write_bytes(picture)
                progress(ProgressEvent("drawing pictures", index + 1, len(scenes), "items"))
        pictures = (AnnotatedImage(f"{i}", _picture_name(i), captions(scene), ()) for i, scene in enumerate(scenes))
        write_conversations(directory / "captions.json", pair_captions(pictures, _SEED), _SEED)
        write_conversations(directory / "instructions.json", _instructions(scenes, amounts), _SEED)


def _instructions(scenes: Sequence[Scene], amounts: Amounts) -> Iterator[Conversation]:
    random = np.random.default_rng(_SEED)
    for index, scene in enumerate(scenes):
        types = ["conversation"] * amounts.conversations
        types += ["shorthand"] * (random.random() < amounts.shorthands)
        types += ["detail"] * (random.random() < amounts.descriptions)
        types += ["reasoning"] * (random.random() < amounts.reasonings)
        for number, type_ in enumerate(types):
            is_list = type_ == "shorthand"
            turns = (Turn(*shorthand(scene, random)),) if is_list else teach(scene, type_, random, _N_TURNS)
            yield Conversation(f"{type_}-{index}-{number}", _picture_name(index), turns, type_)


def _scenes(seed: int, number: int) -> list[Scene]:
    return list(islice(sample_scenes("train", seed), number))


def _picture_name(index: int) -> str:
    return f"{index:06d}.jpg"
