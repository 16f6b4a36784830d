"""Response headers that are specific to this server."""

from __future__ import annotations

IGNORED = "x-edge-llava-ignored"
"""Names the fields of the request that have no effect."""
TRUNCATED = "x-edge-llava-truncated-images"
"""Lists the images of the request whose files are truncated, counted from 1."""
DROPPED = "x-edge-llava-dropped-turns"
"""How many earlier questions were dropped because the context was full."""
