"""In how many ways at once an answer may be read. llama.cpp follows each, at every token: they must stay few.

Alternatives of one place that begin the same are read side by side until the answer tells them apart; inside each,
there may be such places again. Their readings multiply, and where a place is inside itself, they do so without an end:
a limit of time alone would come late, as one token may open two levels ("[[") and a step lasts as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

MAX_STARTS = 512  # how many ways a value may begin before its first character says more
_MAX_READINGS = 2048  # some 3 stacks of llama.cpp each; 0.3 ms a stack and token, of a vocabulary of 128,000
_N_LEVELS = 64  # reckoned with where each level adds readings that go on beside it
_MAX_OPENED = 200_000
_MAX_OPENING = 64
_WHAT_NEXT = "Tell the choices apart sooner: by a first property that is required and a const of its own"
_ENDLESSLY = "is recursive and has two choices at one place that hold that place again, and that both begin with"
_END = "\0"  # of an opening that is a whole value: 1 does not begin 12
_DIGITS = tuple((character, None) for character in "-0123456789")


class TooLarge(ValueError):
    """A grammar that would keep llama.cpp busy rather than the model."""


@dataclass(frozen=True)
class Form:
    """What a rule writes, as far as it matters here.

    Attributes:
        starts: How it may begin: a text, and the rule that follows; None where that says nothing more.
        inside: The rules of what is inside.
        is_choice: It is one of the rules of `starts`, whose texts are empty.
        n_texts: How many choices it offers at its place.
        n_own: How many readings it has at once, whatever is inside.
        height: Of the values that its own primitives hold.
    """

    starts: tuple[tuple[str, str | None], ...]
    inside: tuple[str, ...] = ()
    is_choice: bool = False
    n_texts: int = 1
    n_own: int = 1
    height: int = 0

    @classmethod
    def choice(cls, names: Iterable[str]) -> Form:
        """One of several rules."""
        return cls(tuple(("", name) for name in names), is_choice=True)

    @classmethod
    def literals(cls, texts: Iterable[str]) -> Form:
        """One of several texts of JSON."""
        starts = [(text[0] if text[0] in "[{" else text + _END, None) for text in texts]
        return cls(tuple(starts), n_texts=len(starts), n_own=len(starts))

    @classmethod
    def number(cls, n_alternatives: int) -> Form:
        """A number whose rule has so many alternatives."""
        return cls(_DIGITS, n_own=n_alternatives)

    @classmethod
    def array(cls, items: Iterable[str]) -> Form:
        """An array that begins with the first of these items, if it has one."""
        inside = tuple(items)
        return cls((("[", inside[0]),) if inside else (("[]" + _END, None),), inside)

    @classmethod
    def object(cls, members: Iterable[tuple[str, str]], inside: Iterable[str]) -> Form:
        """Of the members (key as JSON, value) that it may begin with; the empty object ends too soon to matter."""
        starts = tuple((f"{{{key}:", value) for key, value in members) or (("{}" + _END, None),)
        return cls(starts, tuple(inside), n_own=len(starts))

    @classmethod
    def mapping(cls, value: str) -> Form:
        """An object of any keys."""
        return cls((("{", None),), (value,))


TEXT = Form((('"', None),))
_ANY = (("[", None), ("{", None), ('"', None), *_DIGITS, ("true", None), ("false", None), ("null", None))
PRIMITIVES = {
    "string": TEXT,
    "number": Form.number(2),
    "integer": Form.number(2),
    "boolean": Form.literals(("true", "false")),
    "null": Form.literals(("null",)),
    "object": Form((("{", None),), n_own=4, height=_N_LEVELS),
    "array": Form((("[", None),), n_own=4, height=_N_LEVELS),
    "value": Form(_ANY, n_own=4, height=_N_LEVELS),
}


class GrammarReadings:
    """Of the rules of one grammar."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        self._forms = forms
        self._alternatives: dict[str, tuple[str, ...]] = {}  # of choices: what is chosen at last
        self._opened: dict[str, set[str]] = {}
        self._n_opened = 0
        self._counted: dict[str, int] = {}
        self._heights: dict[str, int] = {}

    def check(self) -> None:
        """
        Raises:
            TooLarge: If a value begins with itself, or may begin or be read in too many ways.
        """
        self._flatten_choices()
        for cycle in _cycles({name: self._below(name) for name in self._forms}):
            self._count(cycle)

    def _below(self, name: str) -> tuple[str, ...]:
        form = self._forms[name]
        return tuple(start for _, start in form.starts if start) + form.inside

    def _flatten_choices(self) -> None:
        """Choices of choices, from the innermost on."""
        choices = {name: self._below(name) for name, form in self._forms.items() if form.is_choice}
        n_starts = {name: form.n_texts for name, form in self._forms.items()}
        try:
            order = list(TopologicalSorter(choices).static_order())
        except CycleError as error:
            raise TooLarge("has a value that begins with itself") from error
        for name in order:
            if name in choices:
                n_starts[name] = sum(n_starts[other] for other in choices[name])
                flat = [last for other in choices[name] for last in self._alternatives.get(other, (other,))]
                self._alternatives[name] = tuple(dict.fromkeys(flat))
            if n_starts[name] > MAX_STARTS:
                break
        if max(n_starts.values()) > MAX_STARTS:
            raise TooLarge(f"offers more than {MAX_STARTS} choices at one place")

    def _count(self, cycle: set[str]) -> None:
        """Of rules that are inside each other, or of one that is not; those below have been counted.

        A choice of two that hold the choice again doubles at every level. Of one that does, each level leaves the
        others open, for as many levels as these go down.
        """
        below = {other for name in cycle for other in self._below(name)}
        outside = below - cycle
        is_recursive = bool(below & cycle)
        n_most = max([self._n_own(name) for name in cycle] + [self._counted[name] for name in outside])
        n_beside = 0  # of readings that one level leaves open for the levels below it
        for group, opening in {group: opening for name in cycle for group, opening in self._groups(name)}.items():
            others = group - cycle
            n_others = sum(self._counted[other] for other in others)
            if len(others) < len(group) - 1:
                raise TooLarge(f"{_ENDLESSLY} {opening!r}. {_WHAT_NEXT}")
            if others == group:
                n_most = max(n_most, n_others)
            else:
                n_beside += n_others * max([1, *(self._heights[other] for other in others)])
        if n_most + n_beside > _MAX_READINGS:
            raise TooLarge(f"can be read in more than {_MAX_READINGS} ways at once. {_WHAT_NEXT}")
        height = max([self._forms[name].height for name in cycle] + [self._heights[name] for name in outside])
        height += not all(self._forms[name].is_choice for name in cycle)
        self._counted.update(dict.fromkeys(cycle, n_most + n_beside))
        self._heights.update(dict.fromkeys(cycle, _N_LEVELS if is_recursive else min(height, _N_LEVELS)))

    def _n_own(self, name: str) -> int:
        return sum(self._forms[last].n_own for last in self._alternatives.get(name, (name,)))

    def _groups(self, name: str) -> list[tuple[frozenset[str], str]]:
        """The alternatives of a choice that begin the same, and how; none that stands alone."""
        openings = sorted(
            (opening, last) for last in self._alternatives.get(name, ()) for opening in self._openings(last)
        )
        group_of = {last: [last] for _, last in openings}
        shared: dict[str, str] = {}
        base, owner = "", ""
        for opening, last in openings:
            if not owner or not opening.startswith(base):
                base, owner = opening, last  # sorted: what begins with it comes next
                continue
            group, other = group_of[owner], group_of[last]
            if group is not other:
                group += other
                group_of.update(dict.fromkeys(other, group))
                shared[group[0]] = base
        groups = {group[0]: group for group in group_of.values() if len(group) > 1}
        return [(frozenset(group), shared[first]) for first, group in groups.items()]

    def _openings(self, name: str) -> set[str]:
        """How a value begins, without white space: as much as tells it from others before it goes deeper."""
        if name not in self._opened:
            self._opened[name] = found = set()
            for text, start in self._forms[name].starts:
                found |= {(text + more)[:_MAX_OPENING] for more in self._first_texts(start)}
            self._n_opened += len(found)
            if self._n_opened > _MAX_OPENED:
                raise TooLarge("has too many choices that begin in too many ways")
        return self._opened[name]

    def _first_texts(self, name: str | None) -> set[str]:
        """How the first thing inside begins: a literal wholly, an array or object with its bracket."""
        if name is None:
            return {""}
        starts = [pair for last in self._alternatives.get(name, (name,)) for pair in self._forms[last].starts]
        return {text if start is None else text[0] for text, start in starts}


def _cycles(below: Mapping[str, tuple[str, ...]]) -> list[set[str]]:
    """Rules that are inside each other, together; those below first.

    Source: Tarjan, Depth-first search and linear graph algorithms, 1972; without recursion, for chains are long.
    """
    found: list[set[str]] = []
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    done: set[str] = set()
    for root in below:
        if root in index:
            continue
        index[root] = lowest[root] = len(index)
        open_.append(root)
        path = [(root, iter(below[root]))]
        while path:
            name, others = path[-1]
            for other in others:
                if other not in index:
                    index[other] = lowest[other] = len(index)
                    open_.append(other)
                    path.append((other, iter(below[other])))
                    break
                if other not in done:
                    lowest[name] = min(lowest[name], index[other])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == index[name]:
                    start = open_.index(name)
                    cycle = set(open_[start:])
                    del open_[start:]
                    done |= cycle
                    found.append(cycle)
    return found
