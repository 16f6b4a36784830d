"""What is wrong with a JSON schema, and where."""

from __future__ import annotations

Path = tuple[str, ...]


class JsonSchemaError(ValueError):
    """A schema that answers cannot be held to.

    Attributes:
        path: Keys that lead to the place, from the root of the schema.
        problem: What is wrong there, without the place.
    """

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{'.'.join(path)[:200]} {problem}" if path else f"the schema {problem}")
