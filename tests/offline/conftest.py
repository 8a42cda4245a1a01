"""Fixtures of small rescoring jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rescoring import TABLE, Config

from polar_ray.config import RescoreConfig


@pytest.fixture
def config(tiny_dir: Path) -> Config:
    def make(**changes: Any) -> RescoreConfig:
        given = {"model": str(tiny_dir), "engine": {"type": "stub"}, "rows_per_part": 10}
        return RescoreConfig.model_validate({**given, "group": "never", **changes})

    return make


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name, part in (("a", TABLE.slice(0, 35)), ("b", TABLE.slice(35))):
        pq.write_table(part, tmp_path / "in" / f"{name}.parquet", row_group_size=8)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
