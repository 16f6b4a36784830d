"""Which requests share the KV cache: those with the same `prompt_cache_key`, or else the same `user`.

Sharing is visible: `cached_tokens` and the time to the first token reveal how much of a prompt was computed before,
for this client or for another one.
"""

from __future__ import annotations

import hashlib
import secrets


def salt_of(*, prompt_cache_key: str | None, user: str | None) -> str:
    """The salt of a request, which has a fixed length; "" if the client sent neither field."""
    for name, value in (("prompt_cache_key", prompt_cache_key), ("user", user)):
        if value:
            return hashlib.sha256(f"{name} {value}".encode()).hexdigest()
    return ""


def own_salt() -> str:
    """Returns a salt that no other request has."""
    return secrets.token_hex()
