"""A client of one model behind an OpenAI-compatible endpoint: it asks again where that may help, else gives up."""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_llava.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import httpx

NO_REPLY, JUNK, CUT_OFF = "no reply", "junk", "cut off"  # kinds of faults

_log = logging.getLogger(__name__)
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", re.ASCII)
_MAX_BYTES = 1 << 24  # a larger response is not a reply
_MAX_PORT = 65535
_MAX_SHOWN = 300  # characters of a server's message
_AGAIN = {408, 409, 425, 429}  # like every 5xx: ask again later
_THIS_ONE = {400, 413, 422}  # the server refuses this request, but may accept another
_ADVICE = {
    401: "Is the key correct? It is read from the environment, see --key-env.",
    403: "May this key use this model?",
    404: "Is the address correct? It is the part before /chat/completions, and --model names a model served there.",
}


@dataclass(frozen=True)
class ChatOptions:
    """How to reach a model, and how often and how long to wait for it.

    Attributes:
        url: The part before /chat/completions: "https://api.openai.com/v1". Contains no secret.
        model: The model's name on the server.
        key: Sent as bearer token; None for servers that need none. Never shown or written.
        timeout_s: For one reply, from asking to its last byte.
        n_tries: How often a question is asked before giving up.
        first_wait_s: Wait before the second try; doubled for each try, with random jitter of up to half.
        max_wait_s: The longest wait, even if the server asks for more in Retry-After.
    """

    url: str
    model: str
    key: str | None = None
    timeout_s: float = 120.0
    n_tries: int = 6
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0


@dataclass(frozen=True)
class Fault:
    """Why a reply cannot be used.

    Attributes:
        kind: A few words that are the same for all replies of this kind, since they are counted.
        detail: What is wrong with this reply in particular.
    """

    kind: str
    detail: str


@dataclass(frozen=True)
class ChatReply:
    """A model's reply.

    Attributes:
        text: Its text, or what was received instead; "" if nothing was.
        fault: Why it cannot be used, whatever its text; None for a complete reply.
        prompt_tokens, completion_tokens: What it cost; 0 if it was not counted.
    """

    text: str
    fault: Fault | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def is_said(self) -> bool:
        """Whether the text is what the model said, complete or cut off."""
        return self.fault is None or self.fault.kind == CUT_OFF


class ChatClient:
    """POST {url}/chat/completions. May be shared by threads; `with` closes its connections."""

    def __init__(self, options: ChatOptions) -> None:
        """
        Raises:
            DataError: If the address or the key cannot be used.
            MissingExtra: If httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise MissingExtra("remote", "asking a model on a server", "httpx") from error
        try:
            address = httpx.URL(options.url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if not _URL.fullmatch(options.url) or not address.host or (address.port or 0) > _MAX_PORT:
            raise DataError(
                f"{_without_user(options.url)!r} is not the address of a server: http(s)://HOST[:PORT][/PATH], "
                "without name, password or query. The key is read from the environment."
            )
        if options.key is not None and not re.fullmatch(r"[!-~]+", options.key):
            raise DataError("the server's key is empty or contains invalid characters. Check the environment.")
        self._options = options
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        self._client = httpx.Client(headers=headers, timeout=options.timeout_s)

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self._options.model} at {self._options.url}"

    def ask(
        self, messages: Sequence[dict[str, str]], *, temperature: float | None = None, max_tokens: int | None = None
    ) -> ChatReply:
        """Asks until there is a reply or the tries are spent.

        Args:
            messages: The conversation: each with its role and its content.
            temperature: None leaves it to the server.
            max_tokens: Of the reply; None leaves it to the server.

        Raises:
            DataError: If the server refuses in a way that no other request would change, such as a wrong key.
        """
        limits = {"temperature": temperature, "max_tokens": max_tokens}
        given = {name: value for name, value in limits.items() if value is not None}
        return self._ask({"model": self._options.model, "messages": list(messages)} | given)

    def _ask(self, body: dict[str, Any]) -> ChatReply:
        import httpx

        trouble = ""
        tries = "1 try" if self._options.n_tries == 1 else f"{self._options.n_tries} tries"
        for n_tried in range(1, self._options.n_tries + 1):
            retry_after = None
            try:
                status, headers, text = self._post(body)
            except httpx.TimeoutException:
                trouble = f"no reply within {self._options.timeout_s:g} s"
            except httpx.HTTPError as error:
                trouble = f"no connection: {error}"
            else:
                if 200 <= status < 300:
                    return _parse(text)
                trouble = f"status {status}: {self._shown(text)}"
                if status in _THIS_ONE:
                    return ChatReply("", Fault(NO_REPLY, trouble))
                if status not in _AGAIN and status < 500:
                    raise DataError(f"{self._options.url} refuses, {trouble}. {_ADVICE.get(status, '')}".rstrip())
                retry_after = headers.get("Retry-After")
            if n_tried < self._options.n_tries:
                wait_s = self._wait_s(n_tried, retry_after)
                _log.info("%s; again in %.1f s", trouble, wait_s)
                time.sleep(wait_s)
        return ChatReply("", Fault(NO_REPLY, f"{trouble} ({tries})"))

    def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, str]:
        import httpx

        # httpx's own timeout is for one read: a server that sends a byte now and then would never exceed it
        deadline = time.monotonic() + self._options.timeout_s
        content = bytearray()
        url = f"{self._options.url.rstrip('/')}/chat/completions"
        sent = json.dumps(body).encode()  # ASCII: texts of files may not be Unicode
        headers = {"Content-Type": "application/json"}
        with self._client.stream("POST", url, content=sent, headers=headers) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the reply has no end")
                if len(content) > _MAX_BYTES:
                    break
        return response.status_code, response.headers, content[:_MAX_BYTES].decode("utf-8", "replace")

    def _wait_s(self, n_tried: int, retry_after: str | None) -> float:
        own = self._options.first_wait_s * 2.0 ** (n_tried - 1) * random.uniform(0.5, 1.5)
        return min(self._options.max_wait_s, max(own, _seconds(retry_after)))

    def _shown(self, text: str) -> str:
        """Formats a server's message in one line, without the key, which some servers repeat."""
        try:
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # not OpenAI's form: shown unchanged
        if self._options.key:
            text = text.replace(self._options.key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text[:_MAX_SHOWN] or "no message"


def _seconds(retry_after: str | None) -> float:
    """Returns the seconds that Retry-After asks for, as a number or a date; 0 if it cannot be parsed."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        parsed = email.utils.parsedate_tz(retry_after)
    return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else 0.0


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//***@", url)


def _parse(text: str) -> ChatReply:
    """Returns the reply in a chat completion; anything else is junk, and kept unchanged."""
    try:
        completion = json.loads(text)
        choice = completion["choices"][0]
        content, finish_reason = choice["message"]["content"], choice.get("finish_reason")
        usage = completion.get("usage") or {}
        n_prompt, n_completion = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ChatReply(text, Fault(JUNK, "not a chat completion"))
    if not isinstance(content, str):
        return ChatReply(text, Fault(JUNK, "no text in it"), n_prompt, n_completion)
    fault = Fault(CUT_OFF, "it reached the limit of tokens") if finish_reason == "length" else None
    return ChatReply(content, fault, n_prompt, n_completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
