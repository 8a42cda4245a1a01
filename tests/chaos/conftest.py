"""What the chaos suites share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_dir: Path) -> str:
    return str(tiny_dir)
