"""Writes the tokens of a checkpoint into language.gguf."""

from __future__ import annotations

import re

from gguf import GGUFWriter

from edge_llava.converters.tokenizers.vocabulary import Vocabulary

# llama.cpp takes white space after special tokens away where a model is called Phi-3, and before one of ModernBERT's.
_NAMES = re.compile("(phi)-?(3)|(modern)-(bert)", re.IGNORECASE)


def neutral_name(name: str) -> str:
    """A model's name, changed where llama.cpp would take it for a hint at the tokenizer."""
    return _NAMES.sub(lambda match: "_".join(filter(None, match.groups())), name)


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Adds the keys tokenizer.ggml.*."""
    spec = vocabulary.spec
    writer.add_tokenizer_model(spec.model)
    writer.add_tokenizer_pre(spec.pre)
    writer.add_token_list(vocabulary.tokens)
    if spec.model == "llama":
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types([int(type_) for type_ in vocabulary.types])
    if spec.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.unk is not None:
        writer.add_unk_token_id(vocabulary.unk)
    writer.add_add_bos_token(spec.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(spec.adds_space)
