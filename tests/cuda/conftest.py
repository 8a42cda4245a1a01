"""Checkpoints of published shapes without weights, for a CUDA device that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines.fake_cuda import FakeCuda
from engines.made import config_alone

Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A checkpoint directory of a shape's widths; `num_hidden_layers` is 2 unless said."""
    root = tmp_path_factory.mktemp("shapes")

    def make(shape: str, *, num_hidden_layers: int | None = 2) -> Path:
        changes = {} if num_hidden_layers is None else {"num_hidden_layers": num_hidden_layers}
        return config_alone(root / f"{shape}-{num_hidden_layers}", shape, **changes)

    return make


@pytest.fixture
def device() -> Iterator[FakeCuda]:
    """One like an H200."""
    with FakeCuda() as one:
        yield one
