"""Who shares what was computed: requests that give the same `prompt_cache_key`, or else the same `user`.

What is shared shows: `cached_tokens` and the time to the first token reveal how much of a prompt was computed before,
for this client or for another one.
"""

from __future__ import annotations

import hashlib
import secrets

from edge_llava.server.openai.request_fields import RequestFields

_FIELDS = ("prompt_cache_key", "user")


def read_salt(fields: RequestFields) -> str:
    """The salt of a request: of one length, whatever the client wrote; "" where it gave neither field."""
    for name in _FIELDS:
        value = fields.raw(name)
        if isinstance(value, str) and value:
            return hashlib.sha256(f"{name} {value}".encode("utf-8", "surrogatepass")).hexdigest()
    return ""


def own_salt() -> str:
    """One that no other request has."""
    return secrets.token_hex()
