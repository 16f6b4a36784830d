"""The table of outcomes, after the tests."""

from __future__ import annotations

from collections import Counter

import pytest

OUTCOMES = pytest.StashKey[dict[str, Counter[str]]]()


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> dict[str, Counter[str]]:
    """Outcomes by kind of file, to be added to."""
    return pytestconfig.stash.setdefault(OUTCOMES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Draws it."""
    table = config.stash.get(OUTCOMES, {})
    if not table:
        return
    terminalreporter.section("damaged files by kind and outcome")
    for kind, counts in sorted(table.items()):
        row = ", ".join(f"{outcome} {n:,}" for outcome, n in counts.most_common())
        terminalreporter.line(f"{kind:<20} {sum(counts.values()):>7,}  {row}")
