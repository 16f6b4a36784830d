"""Requests of OpenAI's completions API, which continues a text as it is.

Source: https://platform.openai.com/docs/api-reference/completions/create
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, Tag

from edge_llava.server.openai.chat_request import LimitedRequest
from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.faults import Faults, tag
from edge_llava.server.openai.fields import Refused, Text, by_kind
from edge_llava.server.openai.sampling import TopLogprobs

_N_TOKENS = 16  # OpenAI's default: a text without a template may never end
_ECHO = "'{place}' is not supported: only the continuation is returned"


class TextRequest(LimitedRequest):
    """A text to continue, without the conversation template and without images."""

    _place: ClassVar[str] = "prompt"

    prompt: Annotated[
        Annotated[Text, Tag(tag("string"))]
        | Annotated[list[Text], Field(min_length=1, max_length=1), Tag(tag("array"))],
        by_kind("one text: a string, or an array of one string"),
    ]
    logprobs: TopLogprobs | None = None
    echo: Annotated[Any, Refused((False,), _ECHO)] = None

    def _turns(self) -> list[ChatMessage]:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return [ChatMessage("user", (text,) if text else ())]

    def _token_limits(self) -> tuple[int | None, ...]:
        limits = super()._token_limits()
        return limits if any(limit is not None for limit in limits) else (_N_TOKENS,)

    def _n_logprobs(self, faults: Faults) -> int | None:
        return self.logprobs

    def _is_raw(self) -> bool:
        return True
