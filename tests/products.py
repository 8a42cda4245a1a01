"""Decides trials of matrix products, so that a test does not depend on the machine's speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from polar_ray.model import linear

PRODUCTS = ["torch", "oneDNN"]


@contextmanager
def products_by(name: str) -> Iterator[None]:
    """Every trial within ends in favour of `name`; skips where torch has no oneDNN."""
    if linear.find_onednn() is None:
        pytest.skip("this torch has no oneDNN")
    linear._tried.cache_clear()
    rates = (1.0, 9.0) if name == "oneDNN" else (9.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "trial", lambda *shape: rates)
        patch.setattr(linear, "LEAST_WEIGHTS", 0)
        yield
    linear._tried.cache_clear()
