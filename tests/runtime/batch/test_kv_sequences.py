"""What each sequence holds, shares and loses. That its numbers are right is seen by the logits that follow."""

from __future__ import annotations

import llama_cpp
import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.kv.host_cache import HostCache, KeptConversation
from edge_llava.runtime.kv.sequences import NoCells
from edge_llava.runtime.language.decoder import Decoder, RowChunk, TokenChunk
from edge_llava.runtime.options import DecoderOptions

pytestmark = pytest.mark.convert
RNG = np.random.default_rng(0)
SYSTEM = [1, *RNG.integers(259, 512, 30).tolist()]
ROWS = RNG.standard_normal((20, 64)).astype(np.float32)
NEXT = 400


def text(seed, n=20):
    return np.random.default_rng(seed).integers(259, 512, n).tolist()


@pytest.fixture
def open_cache(seeded_f32):
    """open_cache(n_cells, host_bytes) -> Decoder of two at a time, four sequences."""
    bundle, opened = Bundle.open(seeded_f32), []

    def run(n_cells=512, host_bytes=1 << 24):
        options = DecoderOptions(n_threads=1, n_ctx=256)
        path, spec = bundle.file("language"), bundle.manifest.language
        opened.append(Decoder(path, spec, options, n_parallel=2, n_cells=n_cells, host_bytes=host_bytes))
        return opened[-1]

    yield run
    for decoder in opened:
        decoder.close()


@pytest.fixture(scope="module")
def alone(seeded_f32):
    """alone(positions) -> logits after them and NEXT, computed from nothing."""
    bundle = Bundle.open(seeded_f32)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_threads=1))

    one = OneSequence(decoder)

    def run(positions):
        one.truncate(0)
        for position in positions:
            if isinstance(position, int):
                one.decode(position)
            else:
                one.prefill_rows(ROWS[position[1]][None])
        one.decode(NEXT)
        return one.logits()

    yield run
    decoder.close()


def compute(decoder, wanted):
    """Claims a sequence and computes what is missing; gives it, and how many positions it had."""
    sequence = decoder.sequences.claim([*wanted, NEXT])
    n_known = len(sequence.positions)
    for position in wanted[n_known:]:
        if isinstance(position, int):
            decoder.decode_tokens([TokenChunk(sequence, [position], False)])
        else:
            decoder.decode_rows([RowChunk(sequence, ROWS[position[1]][None], *position)])
    assert sequence.positions == list(wanted)
    return sequence, n_known


def remember(decoder, wanted):
    """The same, released afterwards."""
    sequence, n_known = compute(decoder, wanted)
    decoder.sequences.release(sequence)
    return sequence, n_known


def next_logits(decoder, sequence):
    decoder.decode_tokens([TokenChunk(sequence, [NEXT], True)])
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(decoder.context, -1), shape=(512,)).copy()


def test_a_conversation_continues_in_its_place(open_cache, alone):
    decoder = open_cache()
    first, n_known = remember(decoder, [*SYSTEM, *text(1)])
    assert n_known == 0
    again, n_known = compute(decoder, [*SYSTEM, *text(1), *text(2)])
    assert again is first
    assert n_known == 51
    assert decoder.sequences.n_used == 71
    assert np.abs(next_logits(decoder, again) - alone([*SYSTEM, *text(1), *text(2)])).max() < 1e-4


def test_at_least_the_last_position_is_computed(open_cache):
    decoder = open_cache()
    remember(decoder, SYSTEM)
    sequence = decoder.sequences.claim(SYSTEM)
    assert sequence.positions == SYSTEM[:-1]
    assert decoder.sequences.count_known(SYSTEM) == 30


def test_a_beginning_is_shared_with_a_busy_conversation(open_cache, alone):
    """No cell more than what differs, and neither disturbs the other."""
    decoder = open_cache()
    picture = [*SYSTEM, *(("k", row) for row in range(20)), 13]
    one, _ = compute(decoder, [*picture, *text(1)])
    other, n_known = compute(decoder, [*picture, *text(2)])
    assert other is not one
    assert n_known == 52
    assert decoder.sequences.n_used == 52 + 20 + 20
    assert np.abs(next_logits(decoder, one) - alone([*picture, *text(1)])).max() < 1e-4
    assert np.abs(next_logits(decoder, other) - alone([*picture, *text(2)])).max() < 1e-4
    decoder.sequences.truncate(one, 0)
    assert decoder.sequences.n_used == 52 + 20 + 1
    assert np.abs(next_logits(decoder, other) - alone([*picture, *text(2), NEXT])).max() < 1e-4


def test_another_picture_is_not_shared(open_cache):
    decoder = open_cache()
    compute(decoder, [*SYSTEM, *(("k", row) for row in range(20)), 13])
    _, n_known = compute(decoder, [*SYSTEM, *(("other", row) for row in range(20)), 13])
    assert n_known == len(SYSTEM)


def test_an_idle_conversation_keeps_what_only_its_beginning_is_taken_of(open_cache):
    decoder = open_cache()
    one, _ = remember(decoder, [*SYSTEM, *text(1)])
    other, n_known = compute(decoder, [*SYSTEM, *text(2)])
    assert other is not one
    assert n_known == 31
    _, n_known = compute(decoder, [*SYSTEM, *text(1), *text(3)])
    assert n_known == 51


def test_what_a_leader_has_computed_is_shared_later(open_cache, alone):
    decoder, wanted = open_cache(), [*SYSTEM, *text(1)]
    leader, follower = decoder.sequences.claim(wanted), decoder.sequences.claim(wanted)
    decoder.decode_tokens([TokenChunk(leader, wanted[:20], False)])
    decoder.sequences.share(leader, follower, 50)
    assert follower.positions == wanted[:20]
    decoder.decode_tokens([TokenChunk(leader, wanted[20:], False)])
    decoder.sequences.share(leader, follower, 50)
    decoder.sequences.share(leader, follower, 30)
    assert follower.positions == wanted[:50]
    assert decoder.sequences.n_used == 51
    decoder.decode_tokens([TokenChunk(follower, wanted[50:], False)])
    assert np.abs(next_logits(decoder, follower) - alone(wanted)).max() < 1e-4


def test_more_conversations_than_sequences(open_cache, alone):
    """Those that lost their sequence come back from the host cache, with the right numbers."""
    decoder, tails = open_cache(), [text(n, 70) for n in range(6)]
    for tail in tails:
        remember(decoder, [*SYSTEM, *tail])
    assert len(decoder.sequences.host) == 2
    for tail in tails:
        sequence, n_known = compute(decoder, [*SYSTEM, *tail, *text(9)])
        assert n_known == 101
        assert np.abs(next_logits(decoder, sequence) - alone([*SYSTEM, *tail, *text(9)])).max() < 1e-4
        decoder.sequences.release(sequence)


def test_a_picture_comes_back_from_the_host_cache(open_cache, alone):
    decoder = open_cache(n_cells=256)
    wanted = [*SYSTEM, *(("k", row) for row in range(20)), 13, *text(1)]
    remember(decoder, wanted)
    assert decoder.sequences.make_room(256)
    assert (decoder.sequences.n_used, len(decoder.sequences.host)) == (0, 1)
    sequence, n_known = compute(decoder, [*wanted, 7])
    assert n_known == len(wanted)
    assert (len(decoder.sequences.host), decoder.sequences.host.n_bytes) == (0, 0)
    assert np.abs(next_logits(decoder, sequence) - alone([*wanted, 7])).max() < 1e-4


def test_what_makes_room_for_a_conversation_may_take_its_place_in_the_host_cache(open_cache, alone):
    first, second = text(1, 150), text(2, 150)
    roomy = open_cache()
    remember(roomy, first)
    assert roomy.sequences.make_room(512)
    decoder = open_cache(n_cells=256, host_bytes=roomy.sequences.host.n_bytes * 3 // 2)
    remember(decoder, first)
    assert decoder.sequences.make_room(150)
    remember(decoder, second)
    sequence, n_known = compute(decoder, [*first, 5])
    assert n_known == 150
    assert decoder.sequences.host.find(second)[0] == 150
    assert len(decoder.sequences.host) == 1
    assert np.abs(next_logits(decoder, sequence) - alone([*first, 5])).max() < 1e-4


def test_a_branch_leaves_its_origin_in_the_host_cache(open_cache):
    decoder = open_cache()
    remember(decoder, [*SYSTEM, *text(1), *text(2)])
    decoder.sequences.make_room(512)
    _, n_known = compute(decoder, [*SYSTEM, *text(1), *text(3)])
    assert n_known == 51
    assert decoder.sequences.n_used == 71
    _, n_known = compute(decoder, [*SYSTEM, *text(1), *text(2), *text(4)])
    assert n_known == 71


@pytest.mark.parametrize(("n_more", "n_known"), [(15, 10), (16, 26)])
def test_a_few_positions_are_not_worth_restoring(open_cache, n_more, n_known):
    decoder = open_cache()
    remember(decoder, [*SYSTEM, *text(1, 70)])
    assert decoder.sequences.make_room(512)
    compute(decoder, [*SYSTEM[:10], *text(2)])
    assert compute(decoder, [*SYSTEM[: 10 + n_more], *text(3)])[1] == n_known


def test_few_positions_are_not_worth_keeping(open_cache):
    """Of two conversations about one picture, the second one's question: the picture is still there."""
    decoder, shared = open_cache(), [*SYSTEM, *text(1, 70)]
    compute(decoder, [*shared, *text(2)])
    remember(decoder, [*shared, *text(3, 63)])
    remember(decoder, [*shared, *text(4, 64)])
    assert not decoder.sequences.make_room(512)
    assert len(decoder.sequences.host) == 1
    assert [compute(decoder, [*shared, *text(n, 70)])[1] for n in (3, 4)] == [101, 165]


def test_room_is_made_from_the_least_used(open_cache):
    decoder = open_cache(n_cells=256)
    first, second, third = (remember(decoder, text(n, 60))[0] for n in range(3))
    busy, _ = compute(decoder, text(0, 60))
    assert busy is first
    assert decoder.sequences.make_room(256 - 180)
    assert len(second.positions) == 60
    assert decoder.sequences.make_room(256 - 180 + 1)
    assert [len(sequence.positions) for sequence in (first, second, third)] == [60, 0, 60]
    assert not decoder.sequences.make_room(256 - 60 + 1)
    assert [len(sequence.positions) for sequence in (first, second, third)] == [60, 0, 0]


def test_idle_conversations_leave_the_cache_while_others_are_computed(open_cache):
    """Not for their own sake: attention looks at their cells. What they share with a busy one stays."""
    decoder = open_cache(n_cells=1024)
    shared = text(1, 200)
    busy, _ = compute(decoder, [*shared, 5])
    own, _ = remember(decoder, text(2, 200))
    child, _ = remember(decoder, [*shared, *text(3, 50)])
    decoder.sequences.tidy()
    assert [len(sequence.positions) for sequence in (busy, own, child)] == [201, 200, 250]
    another, _ = remember(decoder, text(4, 10))
    decoder.sequences.tidy()
    assert [len(sequence.positions) for sequence in (busy, own, child, another)] == [201, 0, 250, 10]
    assert compute(decoder, [*text(2, 200), 7])[1] == 200


def test_without_a_host_cache_it_is_computed_again(open_cache):
    decoder = open_cache(host_bytes=0)
    remember(decoder, [*SYSTEM, *text(1)])
    assert decoder.sequences.make_room(512)
    assert (len(decoder.sequences.host), decoder.sequences.host.n_bytes) == (0, 0)
    assert compute(decoder, [*SYSTEM, *text(1), 5])[1] == 0


def test_a_copied_beginning_is_restored_elsewhere(open_cache, alone):
    """Of a conversation that goes on; exactly the positions that were asked for, and without a trace of the copy."""
    decoder, other = open_cache(), open_cache()
    prefix = [*SYSTEM, *(("k", row) for row in range(20))]
    sequence, _ = compute(decoder, [*prefix, *text(1)])
    state = decoder.sequences.copy_prefix(sequence, prefix)
    assert not decoder.sequences.copy_prefix(sequence, [*prefix[:-1], ("other", 19)])
    assert decoder.sequences.n_used == len(prefix) + 20
    memory = llama_cpp.llama_get_memory(decoder.context)
    assert llama_cpp.llama_memory_seq_pos_max(memory, decoder.sequences._scratch) == -1
    target = other.sequences.claim([*prefix, 13])
    assert other.sequences.restore(target, state, prefix)
    assert target.positions == prefix
    assert np.abs(next_logits(other, target) - alone(prefix)).max() < 1e-4
    other.sequences.release(target)
    assert compute(other, [*prefix, *text(2)])[1] == len(prefix)


@pytest.mark.parametrize(
    "damage", [lambda state: state[:-4], lambda state: bytearray(len(state)), lambda state: state[:9]]
)
def test_a_state_that_is_refused_leaves_an_empty_sequence(open_cache, alone, damage):
    decoder = open_cache()
    sequence, _ = compute(decoder, [*SYSTEM, *text(1)])
    state = decoder.sequences.copy_prefix(sequence, SYSTEM)
    target = decoder.sequences.claim([7, 8])
    assert not decoder.sequences.restore(target, damage(state), SYSTEM)
    assert target.positions == []
    assert decoder.sequences.n_used == len(SYSTEM) + 20
    assert decoder.sequences.restore(target, state, SYSTEM)
    assert np.abs(next_logits(decoder, target) - alone(SYSTEM)).max() < 1e-4


def test_a_state_for_which_there_is_no_room(open_cache):
    decoder = open_cache(n_cells=256)
    sequence, _ = compute(decoder, text(1, 150))
    state = decoder.sequences.copy_prefix(sequence, text(1, 150))
    target = decoder.sequences.claim([7, 8])
    with pytest.raises(NoCells):
        decoder.sequences.restore(target, state, text(1, 150))
    assert (target.positions, decoder.sequences.n_used) == ([], 150)


def test_an_owners_conversation_may_be_cut(open_cache):
    """Its earlier content is not needed once it continues elsewhere: it keeps its place, and no copy is made."""
    decoder = open_cache()
    wanted = [*SYSTEM, *text(1, 100)]
    first = decoder.sequences.claim([*wanted, NEXT], owner=1)
    decoder.decode_tokens([TokenChunk(first, wanted, False)])
    decoder.sequences.release(first)
    second = decoder.sequences.claim([*SYSTEM, *text(2)], owner=1)
    assert second is first
    assert second.positions == SYSTEM
    decoder.decode_tokens([TokenChunk(second, text(2), False)])
    decoder.sequences.release(second)
    other = decoder.sequences.claim([*SYSTEM, *text(3)], owner=2)
    assert other is not second
    assert (other.positions, second.positions) == (SYSTEM, [*SYSTEM, *text(2)])
    assert decoder.sequences.n_used == len(SYSTEM) + 20
    assert len(decoder.sequences.host) == 0


def test_what_a_forgotten_owner_leaves_is_not_kept(open_cache):
    """It may be used while it is there; it goes without a copy, and so do its copies in the host cache."""
    decoder = open_cache()
    sequences = decoder.sequences
    for owner in (1, 2):
        sequence = sequences.claim([*text(owner, 100), NEXT], owner=owner)
        decoder.decode_tokens([TokenChunk(sequence, text(owner, 100), False)])
        sequences.release(sequence)
    sequences.forget(1)
    assert sequences.count_known([*text(1, 100), NEXT]) == 100
    assert sequences.make_room(512)
    assert len(sequences.host) == 1
    assert [sequences.count_known([*text(owner, 100), NEXT]) for owner in (1, 2)] == [0, 100]
    sequences.forget(2)
    assert (len(sequences.host), sequences.host.n_bytes) == (0, 0)


def kept(*positions, n_bytes=10):
    return KeptConversation(positions, bytearray(n_bytes))


def test_the_host_cache_forgets_the_oldest():
    host = HostCache(25)
    first, second, third = kept(1, 2), kept(2, 3), kept(3, 4)
    for conversation in (first, second, third):
        host.put(conversation)
    assert (len(host), host.n_bytes) == (2, 20)
    assert host.find((1, 2, 3))[0] == 0
    assert host.find((3, 4, 5)) == (2, third)
    host.put(kept(4, n_bytes=26))
    assert (len(host), host.n_bytes, host.find((4,))) == (0, 0, None)


def test_the_host_cache_keeps_a_conversation_once():
    host = HostCache(100)
    host.put(kept(1, 2))
    host.put(kept(1, 3))
    longer = kept(1, 2, 5)
    host.put(longer)
    assert len(host) == 2
    assert host.find((1, 2, 5, 6)) == (3, longer)
