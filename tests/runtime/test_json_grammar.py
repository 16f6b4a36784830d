from __future__ import annotations

import json
import re

import pytest

from edge_llava.runtime.json_grammar import json_grammar
from edge_llava.runtime.sampler import SamplingOptions

ANY_OF_THREE = ['a "b"', "back\\slash", "Zwölf 😀"]
LIST = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.convert
@pytest.mark.parametrize(
    ("schema", "holds"),
    [
        ({"enum": ANY_OF_THREE}, lambda value: value in ANY_OF_THREE),
        ({"const": {"a": [1, None]}}, lambda value: value == {"a": [1, None]}),
        (LIST, lambda value: set(value) <= {True, False} and len(value) in (1, 2)),
        (PERSON, lambda value: set(map(type, value.values())) == {str, int}),
        ({"type": "string", "pattern": "^[0-9]{3}-(x|y)$"}, lambda value: re.fullmatch("[0-9]{3}-[xy]", value)),
        ({"properties": {'a"b': {"enum": [1]}}, "required": ['a"b']}, lambda value: value == {'a"b': 1}),
        ({"$ref": "#/$defs/p", "$defs": {"p": {"enum": [7]}}}, lambda value: value == 7),
        ({"anyOf": [{"type": "null"}, {"enum": ["no"]}]}, lambda value: value in (None, "no")),
    ],
)  # fmt: skip
def test_whatever_is_said_follows_the_schema(model, schema, holds):
    """The model says noise, so that the grammar alone makes it JSON."""
    chat = model.session(SamplingOptions(temperature=2, seed=5, max_new_tokens=400, grammar=json_grammar(schema)))
    for question in ("One", "Two", "Three"):
        tokens = list(chat.ask(question))
        assert tokens[-1].finish_reason == "stop"
        assert holds(json.loads("".join(token.text for token in tokens), strict=False))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ([], "it is no JSON object"),
        ("string", "it is no JSON object"),
        ({"type": "colour"}, "Unrecognized schema"),
        ({"type": "object", "properties": {"a": 3}}, "'int' object"),
        ({"enum": []}, "enum is empty"),
        ({"properties": {"a": {"anyOf": []}}}, "anyOf is empty"),
        ({"type": []}, "type is empty"),
        ({"type": "array", "items": []}, "items is empty"),
        ({"type": "string", "maxLength": 100_000}, "maxLength is 100000"),  # would end the process
        ({"type": "string", "maxLength": 10**12}, "maxLength is 1000000000000"),  # would fill the memory
        ({"type": "array", "items": {}, "minItems": -1}, "minItems is -1"),
        ({"type": "string", "minLength": "3"}, "minLength is '3'"),
        ({"type": "string", "pattern": "^a{5000}$"}, "repeats more than 1000 times"),
        ({"type": "string", "pattern": "[a-z]"}, 'Pattern must start with "\\^"'),
        ({"type": "string", "pattern": "^(?=a)b$"}, "Unsupported pattern syntax"),
        ({"type": "string", "pattern": "^\\d+$"}, r"a pattern with \\d"),
        ({"type": "string", "pattern": "^[\\w]+$"}, r"a pattern with \\w"),
        ({"$ref": "https://example.com/schema.json"}, "may refer to a place in the schema itself"),
        ({"$ref": "#/missing"}, "Error resolving ref"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "left recursion"),
        ({"const": "\ud83d"}, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_a_grammar_is_refused_in_words(capfd, schema, says):
    with pytest.raises(ValueError, match=rf"the JSON schema cannot be a grammar: (?s:.)*{says}"):
        json_grammar(schema)
    assert capfd.readouterr() == ("", "")


def test_nested_too_deeply():
    schema: dict[str, object] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match=r"cannot be a grammar: .*recursion"):
        json_grammar(schema)


def test_names_of_properties_are_no_keywords():
    properties = {name: {"type": "integer"} for name in ("enum", "pattern", "maxLength", "type", "items")}
    assert '"\\"maxLength\\"' in json_grammar({"type": "object", "properties": properties})
