"""The chaos suites run only when they are asked for, and say at the end what they saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in FIGURES:
        terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a line for the end of the run."""
    return lambda line: FIGURES.append(f"{request.node.name}: {line}")


@pytest.fixture
def model(tiny_dir: Path) -> str:
    return str(tiny_dir)
