"""What the chaos suites share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.load import stub_pool


@pytest.fixture
def model(tiny_dir: Path) -> str:
    return str(tiny_dir)


@pytest.fixture
def url(request: pytest.FixtureRequest, cluster: None, model: str) -> Iterator[str]:
    """The address of a pool of three stub replicas, under the name that its suite gives it."""
    with stub_pool(request.module.NAME, model) as address:
        yield address
