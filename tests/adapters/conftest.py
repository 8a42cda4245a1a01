"""A pool for adapters: its scores are hashes, so that each can be compared with the right one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_pool import FakePool, fake_pool

from polar_ray.adapters.settings import PREFIX, AdapterConfig


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    """A fake pool that the environment names."""
    for name in AdapterConfig.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    with fake_pool() as pool:
        monkeypatch.setenv("POLAR_RAY_ADDRESS", pool.address)
        yield pool
