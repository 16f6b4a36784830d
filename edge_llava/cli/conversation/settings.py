"""What `/set` changes: how answers are sampled, and what happens when the context is full."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

from edge_llava.errors import EdgeLlavaError

if TYPE_CHECKING:
    from edge_llava.runtime.session import Session

_FIELDS: dict[str, tuple[str, type[float | int]]] = {
    "temp": ("temperature", float),
    "top-p": ("top_p", float),
    "top-k": ("top_k", int),
    "min-p": ("min_p", float),
    "repeat-penalty": ("repeat_penalty", float),
    "seed": ("seed", int),
    "max-tokens": ("max_new_tokens", int),
}
_ON_FULL = "on-full"
NAMES = (*_FIELDS, _ON_FULL, "system")


def change_setting(session: Session, argument: str) -> str:
    """Changes one setting for the next answers.

    Args:
        session: The conversation.
        argument: "temp 0.7". Names may be written as Ollama's: "parameter temperature 0.7".

    Returns:
        The settings by now, for people.

    Raises:
        EdgeLlavaError: If there is no such setting, or the value is not possible.
    """
    name, _, value = argument.removeprefix("parameter ").strip().partition(" ")
    if name:
        _change(session, _normalize(name), value.strip())
    return describe_settings(session)


def describe_settings(session: Session) -> str:
    """The settings in one line."""
    values = [f"{name} {_describe(getattr(session.options, field))}" for name, (field, _) in _FIELDS.items()]
    return ", ".join([*values, f"{_ON_FULL} {session.on_full}"])


def _change(session: Session, name: str, value: str) -> None:
    from edge_llava.runtime.dialogue.past_turns import OnFull

    if name == _ON_FULL:
        for choice in get_args(OnFull):
            if value == choice:
                session.on_full = choice
                return
        raise EdgeLlavaError(f"{_ON_FULL} is one of {', '.join(get_args(OnFull))}, not {value!r}.")
    if name not in _FIELDS:
        raise EdgeLlavaError(f"there is no setting {name!r}. Settings: {', '.join(NAMES)}.")
    field, kind = _FIELDS[name]
    try:
        number: Any = None if field == "seed" and value == "random" else kind(value)
        session.options = dataclasses.replace(session.options, **{field: number})
    except ValueError as error:
        reason = str(error) if str(error).startswith(field) else f"{value!r} is not a number"
        raise EdgeLlavaError(f"{name} stays as it is: {reason}.") from error


def _normalize(name: str) -> str:
    given = name.lower().replace("_", "-")
    return {"temperature": "temp", "num-predict": "max-tokens"}.get(given, given)


def _describe(value: float | None) -> str:
    if value is None:
        return "random"
    return str(value) if isinstance(value, int) else f"{value:.15g}"
