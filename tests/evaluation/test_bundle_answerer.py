from __future__ import annotations

import pytest

import edge_llava
from edge_llava.evaluation.bundle_answerer import BundleAnswerer
from edge_llava.evaluation.scene_scores import evaluate_scenes
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.runtime.vision.image_encoder import ImageEncoder
from edge_llava.scenes.drawing import draw_scene
from edge_llava.scenes.scene import sample_scene

pytestmark = pytest.mark.convert
ONE_THREAD = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)


@pytest.fixture(scope="module")
def model(seeded_f32, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_LLAVA_HOME", str(tmp_path_factory.mktemp("home")))
        with edge_llava.load(seeded_f32, ONE_THREAD) as opened:
            yield opened


def test_an_answer_is_the_first_greedy_turn_about_the_picture(model, seeded_f32):
    scene = sample_scene(5)
    ask = BundleAnswerer(model)(scene)
    ask("How many rings are there?", 3)
    answer = ask("What colour is the ring?", 6)
    with edge_llava.load(seeded_f32, ONE_THREAD) as fresh:  # which has computed nothing before
        chat = fresh.session(edge_llava.SamplingOptions(temperature=0, max_new_tokens=6))
        tokens = list(chat.ask("What colour is the ring?", image=draw_scene(scene)))
    assert answer == "".join(token.text for token in tokens).strip() != ""
    assert len(tokens) == 6


def test_a_picture_is_encoded_and_prefilled_once(model, monkeypatch):
    prefilled, encoded = [], []
    prefill, encode = model.engine.language.decode_rows, ImageEncoder.encode

    def count_rows(chunks):
        prefilled.extend((chunk.identity, len(chunk.rows), chunk.first_row) for chunk in chunks)
        prefill(chunks)

    def count_pictures(*arguments):
        encoded.append(encode(*arguments))
        return encoded[-1]

    monkeypatch.setattr(model.engine.language, "decode_rows", count_rows)
    monkeypatch.setattr(ImageEncoder, "encode", count_pictures)
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_ANSWER_TOKENS", 1)
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_DESCRIPTION_TOKENS", 1)
    evaluate_scenes(BundleAnswerer(model), seed=0, n=4)
    assert prefilled == [(image.key, 64, 0) for image in encoded]
    assert len({image.key for image in encoded}) == 4


def test_noise_is_right_about_nothing(model, monkeypatch):
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_DESCRIPTION_TOKENS", 8)
    figures = evaluate_scenes(BundleAnswerer(model), seed=0, n=3).to_dict()
    assert figures["overall"] < 0.2
    assert figures["description"]["recall"] == 0.0
