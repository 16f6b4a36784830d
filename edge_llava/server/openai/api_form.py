"""How an API words requests and answers; the plain form is OpenAI's chat API, in which the chat endpoint works."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from edge_llava.server.http.event_stream import BEAT, DONE, event
from edge_llava.server.openai.errors import RequestFault
from edge_llava.server.openai.translation import Json

_STEP = re.compile(r"[.\[]?\w+\]?")  # ".content", "[0]"
_PLACE = re.compile(r"('?)\b([A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])*)")


class ApiForm:
    """One request, and its answer, in the words of OpenAI's chat API; other APIs translate to and from it.

    Attributes:
        media_type: Of a streamed answer.
        beat: What a stream sends when nothing comes for long; readers pass over it.
        takes_any_type: Whether a body may come without 'Content-Type: application/json' from what is not a web page.
        is_raw: Whether the text of the only message is continued as it is, without the conversation template.
        places: Where a field of the translated request stood in the client's request: {"max_tokens": "num_predict"}.
        ignored: Fields of the client's request that have no effect here.
        reply: The answer to a request that asks nothing of the model; None where it must answer.
    """

    media_type = "text/event-stream"
    beat = BEAT
    takes_any_type = False

    def __init__(self) -> None:
        self.is_raw = False
        self.places: dict[str, str] = {}
        self.ignored: list[str] = []
        self.reply: Json | None = None

    def read(self, data: Json) -> Json | None:
        """The request as one of OpenAI's chat API; None if `reply` answers it.

        Raises:
            RequestFault: If it asks for what that cannot say.
        """
        return data

    def whole(self, completion: Json) -> Json:
        """A chat completion as this API's answer."""
        return completion

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """Chunks of a chat completion as this API's stream.

        Args:
            batches: Chunks that came at the same time; where the answer fails, the last one is an error object.
        """
        async for chunks in batches:
            yield b"".join(map(event, chunks))
            if "error" in chunks[-1]:
                return
        yield DONE

    def renamed(self, fault: RequestFault) -> RequestFault:
        """A fault of the translated request, with the places of the client's own request."""
        if not self.places:
            return fault
        error = fault.body["error"]
        param = None if error["param"] is None else rename(f"'{error['param']}'", self.places).strip("'")
        message = rename(error["message"], self.places)
        return RequestFault(fault.status, message, code=error["code"], param=param, headers=fault.headers)


def rename(text: str, places: Mapping[str, str]) -> str:
    """A message in which every place is called as its sender calls it. A place of one word counts in quotes alone."""

    def replace(found: re.Match[str]) -> str:
        steps = _STEP.findall(found[2])
        for n in range(len(steps), 0, -1):
            place = "".join(steps[:n])
            if place in places and (n > 1 or found[1]):
                return f"{found[1]}{places[place]}{''.join(steps[n:])}"
        return found[0]

    return _PLACE.sub(replace, text)
