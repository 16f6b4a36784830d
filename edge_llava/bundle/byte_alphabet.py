"""GPT-2's alphabet: a letter that can be seen for each of the 256 bytes.

Source: bytes_to_unicode of openai/gpt-2's encoder.py, as in llama.cpp's src/unicode.cpp.
"""

from __future__ import annotations

_SEEN = (*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256))
_OTHERS = tuple(byte for byte in range(256) if byte not in _SEEN)
# By byte.
BYTE_LETTERS = tuple(chr(byte if byte in _SEEN else 256 + _OTHERS.index(byte)) for byte in range(256))
