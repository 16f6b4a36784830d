"""The rules of a GBNF grammar, each written once, and how they are joined to JSON."""

from __future__ import annotations

from collections.abc import Sequence

from edge_llava.runtime.language.grammar_readings import MAX_STARTS, PRIMITIVES, TEXT, Form, GrammarReadings, TooLarge

MAX_BYTES = 256 * 1024
_SPACE = "space"
# A bounded white space: a model cannot lose itself in it.
_PRIMITIVES = {
    _SPACE: r'| " " | "\n" " "{0,16}',
    "char": r'[^"\\\x7F\x00-\x1F] | [\\] (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex | [dD] [0-7]) hex hex)',
    "hex": "[0-9a-fA-F]",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? "0"? [0-9]{1,2})?',
    "string": r'"\"" char* "\""',
    "value": "object | array | string | number | boolean | null",
    "array": '"[" space (value (space "," space value)* space)? "]"',
    "object": '"{" space (member (space "," space member)* space)? "}"',
    "member": 'string space ":" space value',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [1-2] [0-9] | "3" [0-1])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
_NEEDS = {
    "string": ("char", "hex"),
    "char": ("hex",),
    "uuid": ("hex",),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "array": (_SPACE, "value"),
    "object": (_SPACE, "member"),
    "member": (_SPACE, "string", "value"),
}
_QUOTED = {"date": ("date",), "time": ("time",), "date-time": ("date", "time"), "uuid": ("uuid",)}
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class GrammarRules:
    """Rules by name. Rules of the same body share a name, so that no choice is offered twice.

    Every value is followed by white space inside objects and arrays, and never otherwise.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._forms: dict[str, Form] = {}
        self._members: dict[str, tuple[str, str]] = {}  # of pairs: key and value
        self._n_reserved = 0
        self._need(_SPACE)

    def write(self, root: str) -> str:
        """The grammar whose answers `root` describes; white space may come before it.

        Raises:
            TooLarge: If it is too long, or a value begins with itself, or may begin or be read in too many ways.
        """
        GrammarReadings(self._forms).check()
        lines = [f"root ::= {_SPACE} {root}", *(f"{name} ::= {body}" for name, body in self._bodies.items())]
        text = "\n".join(lines) + "\n"
        if len(text.encode()) > MAX_BYTES:
            raise TooLarge(f"makes a grammar of {len(text.encode())} bytes; the limit is {MAX_BYTES}")
        return text

    def primitive(self, name: str) -> str:
        """A type or a string format of JSON."""
        if name not in _QUOTED:
            return self._need(name)
        parts = [self._need(part) for part in _QUOTED[name]]
        return self._add('"\\"" ' + ' "T" '.join(parts) + ' "\\""', TEXT)

    def number(self, body: str) -> str:
        """A number, of a body of its own."""
        return self._add(body, Form.number(1 + body.count("|")))

    def reserve(self) -> str:
        """A name whose rule is defined later."""
        self._n_reserved += 1
        return f"ref{self._n_reserved}"

    def define(self, name: str, other: str) -> None:
        """Defines a reserved name as another rule."""
        self._bodies[name], self._forms[name] = other, Form.choice((other,))

    def choice(self, names: Sequence[str]) -> str:
        """One of several rules."""
        distinct = tuple(dict.fromkeys(names))
        if len(distinct) == 1:
            return distinct[0]
        return self._add(" | ".join(distinct), Form.choice(distinct))

    def literals(self, texts: Sequence[str]) -> str:
        """One of several texts."""
        distinct = tuple(dict.fromkeys(texts))
        return self._add(" | ".join(map(_quote, distinct)), Form.literals(distinct))

    def pair(self, key: str, value: str) -> str:
        """A member of an object; the key is JSON."""
        name = self._add(f'{_quote(key)} {_SPACE} ":" {_SPACE} {value} {_SPACE}')
        self._members[name] = key, value
        return name

    def fields(self, pairs: Sequence[str], required: Sequence[bool]) -> str:
        """An object of these members in this order, those that are not required there or not."""
        if len(pairs) > MAX_STARTS:
            raise TooLarge(f"has an object of {len(pairs)} properties; the limit is {MAX_STARTS}")
        after = ""  # what may follow once a member is written
        starts: list[str] = []  # how the object may begin with a member
        for pair, is_required in zip(reversed(pairs), reversed(required), strict=True):
            begin, step = f"{pair} {after}".strip(), f'"," {_SPACE} {pair}'
            starts = [begin] if is_required else [begin, *starts]
            after = self._add(f"{step} {after}".strip() if is_required else f"({step})? {after}".strip())
        members = f"({' | '.join(starts)}){'' if any(required) else '?'}" if starts else ""
        first = next((n + 1 for n, is_required in enumerate(required) if is_required), len(pairs))
        values = [self._members[pair] for pair in pairs]
        form = Form.object(values[:first], (value for _, value in values))
        return self._add(f'"{{" {_SPACE} {members} "}}"', form)

    def mapping(self, value: str) -> str:
        """An object of any keys with values of one kind."""
        member = self._add(f'{self._need("string")} {_SPACE} ":" {_SPACE} {value} {_SPACE}')
        return self._add(f'"{{" {_SPACE} ({member} ("," {_SPACE} {member})*)? "}}"', Form.mapping(value))

    def items(self, item: str, low: int, high: int | None) -> str:
        """An array of low to high items."""
        if high == 0:
            return self.tuple(())
        more = f"{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        items = f'{item} {_SPACE} ("," {_SPACE} {item} {_SPACE}){more}'
        return self._add(f'"[" {_SPACE} ({items}){"" if low else "?"} "]"', Form.array((item,)))

    def tuple(self, items: Sequence[str]) -> str:
        """An array of these items."""
        inside = f' "," {_SPACE} '.join(f"{item} {_SPACE}" for item in items)
        return self._add(f'"[" {_SPACE} {inside} "]"', Form.array(items))

    def string(self, low: int, high: int | None) -> str:
        """A string of low to high characters."""
        if not low and high is None:
            return self._need("string")
        most = "" if high is None else high
        return self._add(f'"\\"" {self._need("char")}{{{low},{most}}} "\\""', TEXT)

    def _add(self, body: str, form: Form | None = None) -> str:
        """A rule with a body of its own; parts of values have no form."""
        if body not in self._names:
            name = self._names[body] = f"r{len(self._names)}"
            self._bodies[name] = body
        if form:
            self._forms[self._names[body]] = form
        return self._names[body]

    def _need(self, name: str) -> str:
        if name not in self._bodies:
            self._bodies[name] = _PRIMITIVES[name]
            if name in PRIMITIVES:
                self._forms[name] = PRIMITIVES[name]
            for other in _NEEDS.get(name, ()):
                self._need(other)
        return name


def _quote(text: str) -> str:
    """A text as a literal of GBNF."""
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'
