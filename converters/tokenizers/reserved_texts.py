"""Texts of tokens that llama.cpp takes for special ones, whatever their type in the file says.

Qwen2 has an ordinary token </s>, which its own tokenizer never produces: it splits that text before it merges.
llama.cpp would find it whole in every text, and end an answer at it.
Source: llama.cpp's src/llama-vocab.cpp, as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary

# They end an answer.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "[e~[",
})  # fmt: skip
# They stand around code that is to be filled in, or name a part of a message.
_OTHER_TEXTS = frozenset({
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "<|code_prefix|>", "<|prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "<|code_suffix|>", "<|suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "<|code_middle|>", "<|middle|>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
    "<reponame>", "<|file_sep|>", "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>",
})  # fmt: skip
_SPACE = "\u0120"  # a space in the alphabet of byte-level tokenizers


def disguise_reserved(vocabulary: Vocabulary) -> None:
    """Renames ordinary tokens of a byte-level vocabulary that llama.cpp would take for special ones.

    Each gets a space behind it, which is all that an answer would show of it. That no text lost its token by that is
    part of the proof, see `probes`.
    """
    for id_, (text, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if type_ is TokenType.NORMAL and text in END_TEXTS | _OTHER_TEXTS:
            vocabulary.tokens[id_] = f"{text}{_SPACE}"
