"""Where a server listens, who may use it, and what it allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_llava.server.http.limits import Limits


@dataclass(frozen=True)
class ServerOptions:
    """The options of a server.

    Attributes:
        api_key: The key that clients must send; None requires none.
        aliases: Names of the model in addition to the bundle's; answers contain the first.
        cors_origins: Other origins whose web pages may use the API: "https://app.example".
        allowed_hosts: Names that the Host header may contain besides loopback ones; None allows any.
        remote_images: Whether images are fetched from the web.
        private_cache: Whether requests without `prompt_cache_key` and `user` share no cached prompts.
        strict: Whether fields of a request that have no effect are refused.
        limits: Limits of requests.
    """

    api_key: str | None = None
    aliases: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] | None = ()
    remote_images: bool = False
    private_cache: bool = False
    strict: bool = False
    limits: Limits = field(default_factory=Limits)
