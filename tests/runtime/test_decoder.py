from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError
from edge_llava.runtime.language.single_decoder import Decoder
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import DecoderOptions

pytestmark = pytest.mark.convert
NEVER = threading.Event()
TOKENS = [1, *np.random.default_rng(0).integers(259, 512, 99).tolist()]


class SetLater(threading.Event):
    """Becomes set when it has been looked at n times: a cancel in the middle of work, at the same place every time."""

    def __init__(self, n):
        super().__init__()
        self.n_left = n

    def is_set(self):
        self.n_left -= 1
        if self.n_left <= 0:
            self.set()
        return super().is_set()


@pytest.fixture
def open_decoder(seeded_f32):
    bundle, opened = Bundle.open(seeded_f32), []

    def run(**options):
        options = {"n_threads": 1} | options
        opened.append(Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(**options)))
        return opened[-1]

    yield run
    for decoder in opened:
        decoder.close()
        decoder.close()


@pytest.fixture
def decoder(open_decoder):
    return open_decoder()


@pytest.fixture(scope="module")
def token_rows(seeded_f32):
    """float32 (n_vocab, n_embd): what the model looks up for each token."""
    from gguf import GGUFReader

    reader = GGUFReader(seeded_f32 / "language.gguf")
    (tensor,) = (tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    return np.array(tensor.data, np.float32).reshape(512, 256)


def test_context_length(open_decoder):
    assert open_decoder().n_ctx == 1024  # trained
    assert open_decoder(n_ctx=512).n_ctx == 512


def test_text_round_trip(decoder):
    for text in ("What is shown?", "größe 日本 😀", "  two spaces", "line\nbreak", ""):
        ids = decoder.tokenize(text, add_bos=False)
        assert b"".join(map(decoder.piece, ids)).decode() == (" " + text if text else "")
        assert decoder.tokenize(text, add_bos=True) == [1, *ids]


def test_special_tokens(decoder):
    ids = decoder.tokenize("a</s>b", add_bos=False)
    assert ids.count(2) == 1
    assert [decoder.piece(token) for token in (1, 2)] == [b"", b""]
    assert [decoder.is_end(token) for token in (0, 1, 2, 300)] == [False, False, True, False]


@pytest.mark.parametrize("n_batch", [32, 33, 64])
def test_small_batches_give_the_same_logits(n_batch, open_decoder, token_rows):
    whole, parts = open_decoder(), open_decoder(n_batch=n_batch)
    for decoder in (whole, parts):
        decoder.prefill_tokens(TOKENS[:40], NEVER)
        decoder.prefill_embedding(token_rows[TOKENS], "key", 0, NEVER)
        decoder.prefill_tokens(TOKENS[:70], NEVER)
    assert whole.n_past == parts.n_past == 210
    assert np.abs(whole.logits() - parts.logits()).max() < 1e-3
    assert np.ptp(whole.logits()) > 1


def test_rows_of_tokens_are_the_tokens(open_decoder, token_rows):
    by_id, by_row = open_decoder(), open_decoder()
    by_id.prefill_tokens(TOKENS, NEVER)
    by_row.prefill_embedding(token_rows[TOKENS[:-1]], "key", 0, NEVER)
    by_row.prefill_tokens(TOKENS[-1:], NEVER)
    assert np.abs(by_id.logits() - by_row.logits()).max() < 1e-4


def test_decode_is_prefill_of_one(open_decoder):
    at_once, one_by_one = open_decoder(), open_decoder()
    at_once.prefill_tokens(TOKENS[:20], NEVER)
    one_by_one.prefill_tokens(TOKENS[:10], NEVER)
    for token in TOKENS[10:20]:
        one_by_one.decode(token)
    assert one_by_one.n_past == 20
    assert np.abs(at_once.logits() - one_by_one.logits()).max() < 1e-3


@pytest.mark.parametrize(
    ("wanted", "n_kept"),
    [
        ([*TOKENS[:20], 7], 20),
        (TOKENS[:20], 19),  # the last is computed again, for its logits
        (TOKENS[:5] + [7] * 30, 5),
        ([7] * 3, 0),
        (TOKENS[:1], 0),
        ([*TOKENS[:4], ("key", 4), 7], 4),
    ],
)
def test_common_prefix(wanted, n_kept, decoder):
    decoder.prefill_tokens(TOKENS[:20], NEVER)
    assert decoder.keep_common_prefix(wanted) == n_kept
    assert decoder.n_past == n_kept


def test_kept_prefix_gives_the_same_logits(open_decoder, token_rows):
    fresh, reused = open_decoder(), open_decoder()
    picture = [("a", row) for row in range(8)]
    reused.prefill_tokens(TOKENS[:6], NEVER)
    reused.prefill_embedding(token_rows[300:308], "a", 0, NEVER)
    reused.prefill_tokens(TOKENS[20:60], NEVER)
    assert reused.keep_common_prefix([*TOKENS[:6], *picture, 5]) == 14
    assert reused.keep_common_prefix([*TOKENS[:6], *picture[:3], ("b", 3), 5]) == 9
    reused.prefill_embedding(token_rows[303:308], "a", 3, NEVER)
    assert reused.keep_common_prefix([*TOKENS[:6], *picture, 5]) == 14
    for decoder, start in ((fresh, 0), (reused, 14)):
        for token in [] if start else TOKENS[:6]:
            decoder.decode(token)
        if not start:
            decoder.prefill_embedding(token_rows[300:308], "a", 0, NEVER)
        decoder.prefill_tokens(TOKENS[:9], NEVER)
    assert fresh.n_past == reused.n_past == 23
    assert np.abs(fresh.logits() - reused.logits()).max() < 1e-3


@pytest.mark.parametrize("n_looks", [1, 2, 40, 200])
def test_cancelled_prefill_keeps_whole_batches(n_looks, open_decoder):
    decoder, whole = open_decoder(n_batch=32), open_decoder()
    with pytest.raises(Cancelled):
        decoder.prefill_tokens(TOKENS, SetLater(n_looks))
    assert decoder.n_past in {0, 32, 64, 96}
    decoder.prefill_tokens(TOKENS[decoder.n_past :], NEVER)
    whole.prefill_tokens(TOKENS, NEVER)
    assert np.abs(decoder.logits() - whole.logits()).max() < 1e-3


def test_cancel_is_seen_inside_a_batch(open_decoder):
    """One graph of a large model takes seconds."""
    decoder, cancel = open_decoder(), SetLater(5)
    with pytest.raises(Cancelled):
        decoder.prefill_tokens(TOKENS, cancel)
    assert cancel.n_left == 0
    assert decoder.n_past == 0


def test_cancelled_picture(open_decoder, token_rows):
    decoder = open_decoder(n_batch=32)
    with pytest.raises(Cancelled):
        decoder.prefill_embedding(token_rows[:90], "key", 0, SetLater(150))
    assert decoder.n_past in {0, 32, 64}
    n = decoder.n_past
    decoder.prefill_embedding(token_rows[n:90], "key", n, NEVER)
    assert decoder.keep_common_prefix([("key", row) for row in range(90)] + [1]) == 90


def test_more_than_the_context_holds(open_decoder):
    decoder = open_decoder(n_ctx=256)
    with pytest.raises(BackendError, match=r"^llama.cpp failed to decode"):
        decoder.prefill_tokens(TOKENS * 3, NEVER)
    decoder.truncate(0)
    decoder.prefill_tokens(TOKENS, NEVER)
    assert decoder.n_past == 100


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
def test_kv_types_agree(kv_type, open_decoder):
    exact, other = open_decoder(), open_decoder(kv_type=kv_type)
    for decoder in (exact, other):
        decoder.prefill_tokens(TOKENS, NEVER)
    difference = np.abs(exact.logits() - other.logits()).max()
    assert difference == 0 if kv_type == "f32" else 0 < difference < 0.1


def test_truncated_file(seeded_f32, tmp_path):
    bundle, path = Bundle.open(seeded_f32), tmp_path / "language.gguf"
    path.write_bytes(bundle.file("language").read_bytes()[:-1000])
    with pytest.raises(BundleError, match="it is truncated"):
        Decoder(path, bundle.manifest.language, DecoderOptions())


def test_file_that_is_not_the_manifests(seeded_f32):
    bundle = Bundle.open(seeded_f32)
    with pytest.raises(BundleError, match="does not match its manifest"):
        Decoder(bundle.file("language"), dataclasses.replace(bundle.manifest.language, n_layer=5), DecoderOptions())


def test_options_out_of_range_are_refused_all_at_once():
    with pytest.raises(
        ValueError, match="n_ctx must be from 1 to 1048576; n_batch must be from 1 to 1048576; kv_type must be"
    ):
        DecoderOptions(n_ctx=0, n_batch=0, kv_type="q4")


@pytest.mark.parametrize("n_ctx", [16, 40, 300])
def test_the_context_is_what_was_asked_for(seeded_q4, n_ctx):
    """llama.cpp rounds it up to 256 after cutting the batch; a prompt in between must not reach llama_decode."""
    bundle = Bundle.open(seeded_q4)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_ctx=n_ctx, n_threads=1))
    assert decoder.n_ctx == n_ctx
    decoder.prefill_tokens([1] + [300] * (n_ctx - 1), threading.Event())
    assert decoder.n_past == n_ctx
    decoder.close()


def test_a_new_context_on_the_same_weights(open_decoder):
    fresh, reused = open_decoder(n_ctx=256, n_batch=32), open_decoder(n_ctx=512)
    reused.prefill_tokens(TOKENS, NEVER)
    reused.reconfigure(DecoderOptions(n_ctx=256, n_batch=32, n_threads=1))
    assert (reused.n_past, reused.n_ctx) == (0, 256)
    for decoder in (fresh, reused):
        decoder.prefill_tokens(TOKENS[:50], NEVER)
    assert np.array_equal(fresh.logits(), reused.logits())


def test_half_the_cache_is_nearly_as_exact(open_decoder):
    exact, small = open_decoder(), open_decoder(kv_type="q8_0")
    for decoder in (exact, small):
        decoder.prefill_tokens(TOKENS, NEVER)
    ours, reference = small.logits(), exact.logits()
    assert 0 < np.abs(ours - reference).max() < 0.1 * np.ptp(reference)


def test_a_small_cache_needs_flash_attention():
    with pytest.raises(ValueError, match="needs flash attention"):
        DecoderOptions(kv_type="q8_0", flash_attention=False)
