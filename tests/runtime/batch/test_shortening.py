"""Conversations that an engine shortens."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.options import SamplingOptions

pytestmark = pytest.mark.convert
GREEDY = SamplingOptions(temperature=0, max_new_tokens=4)


@pytest.mark.parametrize("n_questions", [1, 8])
def test_images_of_file_objects_are_read_once(open_engine, seeded_f32, noise, n_questions):
    """What is opened to see how long the conversation is, is what the engine is asked about."""
    engine = open_engine(seeded_f32, {"n_ctx": 256})

    def answer(source):
        messages = [Message("user", "What is this?", (source,))]
        for n in range(1, n_questions):
            messages += [
                Message("assistant", "A circle."),
                Message("user", f"Question {n}: why is it that you say so?"),
            ]
        tokens = []
        handle = engine.submit(messages, GREEDY, tokens.append, on_full="drop-oldest")
        assert handle.wait(60)
        return [token.id for token in tokens], handle.n_dropped

    file = io.BytesIO()
    Image.fromarray(noise(64, 48)).save(file, "PNG")
    file.seek(0)
    ids, n_dropped = answer(file)
    assert (ids, n_dropped) == answer(noise(64, 48))
    assert (n_dropped > 0) == (n_questions == 8)
