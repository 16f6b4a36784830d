"""Translates errors of the engine to errors for the client."""

from __future__ import annotations

from edge_llava.device.memory import is_out_of_memory
from edge_llava.errors import ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.language.grammar import GrammarFault
from edge_llava.server.http.errors import RequestError, internal_error, no_memory, unavailable


def engine_error(error: BaseException) -> RequestError:
    """Chooses the status of an error, and the field of the request that it concerns."""
    if isinstance(error, ContextOverflow):
        return RequestError(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, ImageError):
        return RequestError(400, str(error), code="invalid_image", param="messages")
    if isinstance(error, GrammarFault):
        return RequestError(400, str(error), code="invalid_json_schema", param="response_format")
    if isinstance(error, ValueError):
        return RequestError(400, str(error), code="invalid_value", param="messages")
    if type(error) is EdgeLlavaError:  # the engine is closed, or has failed permanently
        return unavailable(str(error))
    if is_out_of_memory(error):
        return no_memory()
    if isinstance(error, EdgeLlavaError):
        return RequestError(500, str(error), code="engine_error")
    return internal_error()
