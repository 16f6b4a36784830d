"""Random Unicode text, by seed: every script, every kind of space and digit, combining marks, tokens in between."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from random import Random

_ASSIGNED = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
# Not the four separators that Python alone calls spaces: of transformers' tokenizers only the slow ones strip them.
_SPACES = [c for c in _ASSIGNED if c.isspace() and c not in "\x1c\x1d\x1e\x1f"]
_WORDS = (
    "What", "is", "shown", "It's", "isn't", "WE'LL", "1234567", "3.14", "Zwo\u0308lf", "A\u0308pfel", "cafe\u0301",
    "\u4f60\u597d", "\u043c\u0438\u0440", "<s>old</s>", "<EOT>", "<eos>", "\n", "\n\n", "\r\n", "\t", "<|", "|>",
)  # fmt: skip


def random_texts(n: int, seed: int, special: Sequence[str] = ()) -> Iterator[str]:
    """Yields `n` texts, with some of the special tokens in them."""
    random = Random(seed)
    for _ in range(n):
        yield "".join(_part(random, special) for _ in range(random.randrange(1, 25)))


def _part(random: Random, special: Sequence[str]) -> str:
    kind = random.random()
    if kind < 0.25:
        return random.choice(_WORDS) + random.choice((" ", "", "  "))
    if kind < 0.4:
        return random.choice(_SPACES) * random.randrange(1, 4)
    if kind < 0.5:
        return str(random.randrange(10 ** random.randrange(1, 9)))
    if kind < 0.58 and special:
        return random.choice(special)
    if kind < 0.75:
        return "".join(chr(random.randrange(32, 0x250)) for _ in range(random.randrange(1, 6)))
    return "".join(random.choice(_ASSIGNED) for _ in range(random.randrange(1, 5)))
