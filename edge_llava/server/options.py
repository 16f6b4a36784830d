"""Where a server listens, who may use it, and what it allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_llava.server.http.limits import Limits


@dataclass(frozen=True)
class ServerOptions:
    """What a server is told at its start.

    Attributes:
        api_key: What clients must show; None asks for none.
        aliases: Names of the model beside the bundle's; answers bear the first.
        cors_origins: Origins of web pages that may use the API from elsewhere: "https://app.example".
        allowed_hosts: Names that a Host header may say beside loopback ones; None does not look at it.
        remote_images: Whether pictures are fetched from the web.
        private_cache: Whether requests that give neither `prompt_cache_key` nor `user` share nothing that was computed.
        strict: Whether fields of a request that have no effect are refused.
        limits: Caps of requests.
    """

    api_key: str | None = None
    aliases: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = ()
    remote_images: bool = False
    private_cache: bool = False
    strict: bool = False
    limits: Limits = field(default_factory=Limits)
