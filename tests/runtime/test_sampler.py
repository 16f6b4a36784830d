from __future__ import annotations

import json
import re
from contextlib import closing

import llama_cpp
import numpy as np
import pytest

from edge_llava.errors import BackendError
from edge_llava.runtime.language import grammar as grammar_file
from edge_llava.runtime.language.decoder import TokenChunk
from edge_llava.runtime.language.grammar import GrammarFault
from edge_llava.runtime.language.json_grammar import JsonGrammar
from edge_llava.runtime.language.json_schema import strict_schema
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.options import SamplingOptions


def test_defaults_are_llavas_command_line():
    options = SamplingOptions()
    assert (options.temperature, options.top_k, options.top_p, options.min_p) == (0.2, 0, 1.0, 0.0)
    assert (options.repeat_penalty, options.seed, options.max_new_tokens) == (1.0, None, 512)
    assert (options.stop, options.grammar, options.json_schema, options.logprobs) == ((), None, None, None)
    assert (options.frequency_penalty, options.presence_penalty, options.logit_bias) == (0.0, 0.0, ())


def test_all_faults_at_once():
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        SamplingOptions(
            temperature=-1,
            top_k=-1,
            top_p=0,
            min_p=1,
            repeat_penalty=0,
            frequency_penalty=2.1,
            presence_penalty=-2.1,
            logit_bias=((5, 101.0),),
            seed=-1,
            max_new_tokens=0,
            stop="###",
            grammar=" ",
            json_schema={"not": {}},
            logprobs=21,
        )
    assert str(caught.value).split("; ") == [
        "temperature must be from 0 to 100",
        "top_k must not be negative",
        "top_p must be above 0 and at most 1",
        "min_p must be at least 0 and below 1",
        "repeat_penalty must be above 0",
        "frequency_penalty must be from -2 to 2",
        "presence_penalty must be from -2 to 2",
        "logit_bias must be from -100 to 100",
        "seed must be from 0 to 4294967294",
        "max_new_tokens must be at least 1",
        "grammar must not be empty",
        "grammar and json_schema exclude each other",
        "stop must be a sequence of non-empty texts",
        "logprobs must be from 0 to 20",
        "json_schema: not is not supported",
    ]


@pytest.mark.parametrize(
    "fault",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"repeat_penalty": float("inf")},
        {"frequency_penalty": float("nan")},
        {"logit_bias": ((1, float("nan")),)},
        {"logit_bias": ((1, 1.0),) * 1025},
        {"logprobs": -1},
        {"seed": 2**32 - 1},
        {"stop": ("a", "")},
        {"grammar": ""},
    ],
)
def test_one_fault(fault):
    with pytest.raises(ValueError, match=f"^{next(iter(fault))} must"):
        SamplingOptions(**fault)


def test_borders_are_allowed():
    options = SamplingOptions(temperature=0, top_p=1, min_p=0, seed=2**32 - 2, max_new_tokens=1, stop=["a"])
    assert options.seed == 4294967294
    assert SamplingOptions(temperature=100, frequency_penalty=-2, presence_penalty=2, logprobs=20).logprobs == 20


def ask(model, question="What is this?", **options):
    options = {"max_new_tokens": 24} | options
    return [token.id for token in model.session(SamplingOptions(**options)).ask(question)]


def text(model, **options):
    return "".join(token.text for token in model.session(SamplingOptions(**options)).ask("What is this?"))


@pytest.mark.convert
def test_seeds(model):
    first = ask(model, temperature=1.0, seed=7)
    assert ask(model, temperature=1.0, seed=7) == first
    assert ask(model, temperature=1.0, seed=8) != first
    assert ask(model, temperature=1.0, seed=0) != first


@pytest.mark.convert
def test_no_seed_draws_one(model):
    assert len({tuple(ask(model, temperature=2.0)) for _ in range(3)}) > 1


@pytest.mark.convert
def test_options_that_leave_one_token_are_greedy(model):
    greedy = ask(model, temperature=0)
    assert ask(model, temperature=0, seed=3) == greedy
    assert ask(model, temperature=1.5, top_k=1, seed=1) == greedy
    assert ask(model, temperature=1.5, top_p=1e-6, seed=1) == greedy
    assert ask(model, temperature=1.5, min_p=0.999999, seed=1) == greedy


@pytest.mark.convert
def test_repeat_penalty_changes_a_repeating_answer(model):
    greedy = ask(model, temperature=0)
    penalized = ask(model, temperature=0, repeat_penalty=50.0)
    assert penalized[0] == greedy[0]
    assert len(set(penalized)) > len(set(greedy))


@pytest.fixture
def append(last_sequence):
    """append(model, token): continues what an idle model answered last, so that the next one can be sampled."""

    def run(model, token):
        model.engine.language.decode_tokens([TokenChunk(last_sequence(model), [token], is_last=True)])

    return run


def penalize(logits, drawn, repeat, frequency, presence):
    """What OpenAI's and CTRL's papers say, in numpy."""
    logits = logits.astype(np.float64)
    for token in set(drawn[-64:]):
        logits[token] = logits[token] / repeat if logits[token] > 0 else logits[token] * repeat
    for token in set(drawn):
        logits[token] -= frequency * drawn.count(token) + presence
    return logits


@pytest.mark.convert
@pytest.mark.parametrize(
    ("repeat", "frequency", "presence"),
    [(1.0, 0.7, 0.0), (1.0, 0.0, 1.5), (1.3, 0.0, 0.0), (1.1, 1.9, -0.5), (1.0, -2.0, -2.0), (1.2, 0.1, 0.3)],
)
def test_penalties_are_what_numpy_computes(model, repeat, frequency, presence, append):
    """Beyond 64 tokens, too: the frequency and presence of the whole answer count, and repetition in its last 64."""
    list(model.session(SamplingOptions(max_new_tokens=1, temperature=0)).ask("What is this?"))
    options = SamplingOptions(
        temperature=0, repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence
    )
    drawn, n_changed = [], 0
    with closing(Sampler(options, model.engine.language)) as sampler:
        for _ in range(90):
            logits = model.engine.language.logits()
            expected = int(penalize(logits, drawn, repeat, frequency, presence).argmax())
            n_changed += expected != int(logits.argmax())
            assert sampler.sample(model.engine.language.context) == expected
            drawn.append(expected)
            append(model, expected)
    assert n_changed > 0


@pytest.mark.convert
def test_penalties_count_what_an_answer_begins_with(model):
    (first,) = ask(model, temperature=0, max_new_tokens=1)
    with closing(Sampler(SamplingOptions(temperature=0, presence_penalty=2.0), model.engine.language)) as sampler:
        sampler.remember([first])
        expected = int(penalize(model.engine.language.logits(), [first], 1.0, 0.0, 2.0).argmax())
        assert sampler.sample(model.engine.language.context) == expected


@pytest.mark.convert
@pytest.mark.parametrize("grammar", [None, "root ::= [a-z]+"])
def test_biases_are_added_to_logits(model, grammar):
    (letter,) = model.engine.language.tokenize_within("q")
    assert ask(model, temperature=0, logit_bias=((letter, 100.0),), grammar=grammar)[:4] == [letter] * 4
    greedy = ask(model, temperature=0, max_new_tokens=1)[0]
    assert greedy not in ask(model, temperature=1.0, seed=1, logit_bias=((greedy, -100.0),))
    for beyond in (-1, llama_cpp.llama_vocab_n_tokens(model.engine.language.vocabulary)):
        with pytest.raises(ValueError, match=f"logit_bias names token {beyond}; the model's tokens are 0 to"):
            ask(model, logit_bias=((beyond, 1.0),))


@pytest.mark.convert
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "seed": 3, "repeat_penalty": 2.0}])
def test_logprobs_are_the_log_softmax_of_the_engines_logits(model, ask, forget, options):
    language, seen = model.engine.language, []  # each token with the logits that it was sampled from
    how = SamplingOptions(max_new_tokens=12, logprobs=5, **options)
    ask(model, "What is this?", how, on_token=lambda token: seen.append((token, language.logits()))).wait()
    assert len(seen) == 12
    for token, logits in seen:
        logits = logits.astype(np.float64)
        expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-12)
        assert [top.id for top in token.top_logprobs] == np.argsort(-expected, kind="stable")[:5].tolist()
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(sorted(expected)[:-6:-1], abs=1e-12)
        assert token.piece == language.piece(token.id)
        assert [top.piece for top in token.top_logprobs] == [
            language.piece(top.id, special=True) for top in token.top_logprobs
        ]
    forget(model)  # the last bit may depend on how much of a prompt is computed at a time
    assert [token for token, _ in seen] == list(model.session(how).ask("What is this?"))


@pytest.mark.convert
def test_logprobs_are_reported_where_they_are_asked_for(model):
    plain = next(model.session(SamplingOptions(temperature=0)).ask("What?"))
    assert (plain.logprob, plain.top_logprobs, plain.piece) == (None, (), b"")
    alone = next(model.session(SamplingOptions(temperature=0, logprobs=0)).ask("What?"))
    assert alone.logprob is not None
    assert alone.logprob < 0
    assert alone.top_logprobs == ()


@pytest.mark.convert
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_grammar_is_respected(model, temperature):
    grammar = 'root ::= "yes" | "no" | [0-9]{3}'
    for seed in range(4):
        assert re.fullmatch("yes|no|[0-9]{3}", text(model, temperature=temperature, seed=seed, grammar=grammar))


@pytest.mark.convert
def test_grammar_of_nothing(model):
    """All that it allows is the end of the answer."""
    (token,) = model.session(SamplingOptions(temperature=1, grammar="root ::=")).ask("What is this?")
    assert (token.id, token.text, token.finish_reason) == (2, "", "stop")


@pytest.mark.convert
def test_grammar_beyond_ascii(model):
    """The demo's vocabulary has this character only as three byte tokens."""
    assert text(model, temperature=0, grammar='root ::= "日" "€"') == "日€"


@pytest.mark.convert
@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_a_grammar_draws_what_llama_cpp_draws_from_what_it_allows(model, penalty, append):
    """llama.cpp's own order, in which the grammar comes before the choice, from the same logits."""
    grammar, decoder = "root ::= ([a-m] | [ .]){40}", model.engine.language
    list(model.session(SamplingOptions(max_new_tokens=1, temperature=0)).ask("What is this?"))
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    n_vocab = llama_cpp.llama_vocab_n_tokens(decoder.vocabulary)
    for sampler in (
        llama_cpp.llama_sampler_init_grammar(decoder.vocabulary, grammar.encode(), b"root"),
        llama_cpp.llama_sampler_init_penalties(n_vocab, 64, penalty, 0.0, 0.0),
        llama_cpp.llama_sampler_init_greedy(),
    ):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    ours = Sampler(SamplingOptions(temperature=0, grammar=grammar, repeat_penalty=penalty), decoder)
    drawn = []
    for _ in range(12):
        token = ours.sample(decoder.context)
        assert token == llama_cpp.llama_sampler_sample(chain, decoder.context, -1)
        drawn.append(token)
        append(model, token)
    assert len(set(drawn)) > 1
    ours.close()
    llama_cpp.llama_sampler_free(chain)


@pytest.mark.convert
def test_grammars_draw_every_allowed_token_as_often_as_the_model_would(model):
    """Drawn anew among what is allowed, where the first draw is not: the shares stay those of the logits."""
    decoder = model.engine.language
    list(model.session(SamplingOptions(max_new_tokens=1, temperature=0)).ask("What is this?"))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(decoder.context, -1), (512,)).astype(float)
    allowed = [token for token in range(512) if re.fullmatch(rb"[a-z]", decoder.piece(token))]
    share = np.exp(logits[allowed] - logits[allowed].max())
    share /= share.sum()
    counts = dict.fromkeys(allowed, 0)
    for seed in range(600):
        with closing(Sampler(SamplingOptions(1.0, grammar="root ::= [a-z]", seed=seed), decoder)) as sampler:
            counts[sampler.sample(decoder.context)] += 1
    deviation = np.abs(np.array(list(counts.values())) - 600 * share)
    assert (deviation < 5 * np.sqrt(600 * share * (1 - share)) + 1).all()


@pytest.mark.convert
def test_grammar_without_a_way_on(model):
    """No token writes a zero byte; llama.cpp alone would draw one all the same, and end the process."""
    answer = model.session(SamplingOptions(grammar='root ::= "a" "\\x00"')).ask("What is this?")
    assert next(answer).text == "a"
    with pytest.raises(GrammarFault, match="allows no token"):
        list(answer)
    assert ask(model, temperature=0, max_new_tokens=3)


@pytest.mark.convert
def test_grammar_of_ways_that_double(model, monkeypatch):
    """Two rules that say the same of everything but the end: 2 ** n ways to read n letters."""
    monkeypatch.setattr(grammar_file, "_MAX_STEP_S", 0.05)
    grammar = 'root ::= "a" root "b" | "a" root "c"'
    with pytest.raises(GrammarFault, match="too many ways at once"):
        list(model.session(SamplingOptions(grammar=grammar, max_new_tokens=200)).ask("What is this?"))
    assert ask(model, temperature=0, max_new_tokens=3)


@pytest.mark.convert
@pytest.mark.parametrize("grammar", ["root", 'other ::= "a"', "root ::= missing", 'root ::= "a', "root ::= ((("])
def test_grammar_that_does_not_compile(model, grammar):
    chat = model.session(SamplingOptions(temperature=0, grammar=grammar, max_new_tokens=3))
    with pytest.raises(
        BackendError, match=r"^the grammar does not compile. It must be GBNF with a rule named 'root'.$"
    ):
        list(chat.ask("What is this?"))
    assert chat.n_positions == 0
    chat.options = SamplingOptions(temperature=0, max_new_tokens=3)
    assert [token.id for token in chat.ask("What is this?")] == ask(model, temperature=0, max_new_tokens=3)


@pytest.mark.convert
def test_close_twice(model):
    sampler = Sampler(SamplingOptions(temperature=0), model.engine.language)
    sampler.close()
    sampler.close()


@pytest.mark.parametrize("temperature", [1e-38, 5e-38, 1e-5, 5e-324])
def test_what_is_nearly_0_is_0(model, temperature):
    """Logits divided by it overflow, and a token that no grammar allows would end the process."""
    for grammar in (None, 'root ::= "x" | "y" | "no"'):
        answers = [
            [token.id for token in model.session(SamplingOptions(heat, max_new_tokens=8, grammar=grammar)).ask("What?")]
            for heat in (temperature, 0)
        ]
        assert answers[0] == answers[1]


SCENE = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]{1,3}$"}, "maxItems": 2},
        "size": {"type": "number", "minimum": 0.5, "maximum": 1},
    },
    "required": ["colour", "tags", "size"],
}


@pytest.mark.convert
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.5, "repeat_penalty": 1.5, "logprobs": 3}])
def test_answers_follow_a_schema(model, options):
    for seed in range(5):
        how = SamplingOptions(json_schema=SCENE, seed=seed, max_new_tokens=200, **options)
        tokens = list(model.session(how).ask("What is this?"))
        value = json.loads("".join(token.text for token in tokens))
        assert tokens[-1].finish_reason == "stop"
        assert list(value) == ["colour", "tags", "size"]
        assert value["colour"] in ("red", "blue")
        assert all(re.fullmatch("[a-c]{1,3}", tag) for tag in value["tags"])
        assert 0.5 <= value["size"] <= 1
        assert [token.id for token in model.session(how).ask("What is this?")] == [token.id for token in tokens]


@pytest.mark.convert
def test_an_answer_of_a_schema_that_is_cut_says_so(model):
    how = SamplingOptions(json_schema={"type": "array", "minItems": 50}, temperature=0, max_new_tokens=5)
    tokens = list(model.session(how).ask("What is this?"))
    assert (len(tokens), tokens[-1].finish_reason) == (5, "length")


def share_of(logits, top_k=0, top_p=1.0, min_p=0.0):
    """The probabilities that a chain at temperature 1 gives; float64 (V,)."""
    share = np.exp(logits - logits.max())
    order = np.argsort(-share)
    keep = np.zeros(len(share), bool)
    keep[order[: top_k or None]] = True
    share = np.where(keep, share, 0) / share[keep].sum()
    keep[order[np.cumsum(share[order]) - share[order] >= top_p]] = False
    keep &= share >= min_p * share.max()
    return np.where(keep, share, 0) / share[keep].sum()


@pytest.mark.convert
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}, {"logit_bias": ((60, 3.0),), "presence_penalty": 2.0}]
)
def test_a_schema_samples_what_the_chain_gives_over_the_tokens_that_it_allows(model, options):
    decoder, n = model.engine.language, 300
    list(model.session(SamplingOptions(max_new_tokens=1, temperature=0)).ask("What is this?"))
    grammar, allowed = JsonGrammar(strict_schema('{"type":"integer"}'), decoder.json_tokenizer), []
    grammar.sample(lambda tokens: allowed.extend(tokens.tolist()) or 0)
    assert len(allowed) > 10
    begun, logits = allowed[3], decoder.logits().astype(np.float64)
    for token, bias in options.get("logit_bias", ()):
        logits[token] += bias
    logits[begun] -= options.get("presence_penalty", 0.0)
    expected = share_of(logits[allowed], **{key: value for key, value in options.items() if key[:3] in ("top", "min")})
    counts = dict.fromkeys(allowed, 0)
    for seed in range(n):
        how = SamplingOptions(temperature=1, json_schema={"type": "integer"}, seed=seed, **options)
        with closing(Sampler(how, decoder)) as sampler:
            sampler.remember([begun])
            counts[sampler.sample(decoder.context)] += 1
    deviation = np.abs(np.array(list(counts.values())) - n * expected)
    assert (deviation <= 5 * np.sqrt(n * expected * (1 - expected)) + 1e-6).all()
