"""What LLaVA-1.5 was told to answer with; each follows the question on a line of its own.

Source: the question files and scripts of LLaVA's evaluation, v1.2.2.
"""

from __future__ import annotations

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_IN_CHINESE = "请直接回答选项字母。"
UNANSWERABLE = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"
LETTERS = "ABCDE"


def list_options(options: list[str]) -> str:
    """The options of a question, a line each: "A. Mars"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
