"""The stub engine: a pure function of the ids, another one with another salt."""

from __future__ import annotations

from pathlib import Path

from examples import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.records import provenance
from polar_ray.scorer import Scorer


def test_a_salt_stands_for_another_model(tiny_dir: Path) -> None:
    first, again, other = (
        Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig(salt=salt))).score(GROUPS)
        for salt in (0, 0, 1)
    )
    assert first.equals(again)
    pairs = zip(first["score"].to_pylist(), other["score"].to_pylist(), strict=True)
    assert all(one != two for one, two in pairs)
    assert provenance(first)["model_digest"] != provenance(other)["model_digest"]
