"""The built-in model: small, complete, and better than chance on texts that it never saw."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from sample_records import GROUPS

from polar_ray.assets import builtin_model_dir
from polar_ray.config import ScorerConfig
from polar_ray.demo import RECORDS
from polar_ray.records import Record
from polar_ray.scorer import Scorer
from polar_ray.train.recipe.synthetic import held_out_comparisons


@pytest.fixture(scope="module")
def builtin() -> Scorer:
    return Scorer(ScorerConfig())


def test_it_is_small_and_carries_its_card() -> None:
    folder = builtin_model_dir()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000_000
    assert "Apache-2.0" in (Path(folder) / "README.md").read_text(encoding="utf-8")


def test_the_reference_itself_scores_highest(builtin: Scorer) -> None:
    for group in {(record.prompt, record.reference) for record in RECORDS}:
        members = [r for r in RECORDS if (r.prompt, r.reference) == group]
        own = Record(group[0], group[1], group[1])
        first, *rest = builtin.score([own, *members])["score"].to_pylist()
        assert max(rest) <= first + 1e-5


def test_it_tells_policies_apart_on_held_out_tasks(builtin: Scorer) -> None:
    comparisons = list(held_out_comparisons(5, each=10))
    rows = [
        {"prompt": one.prompt, "reference": one.reference, "output": output}
        for one in comparisons
        for output in one.outputs
    ]
    scores = builtin.score(rows)["score"].to_pylist()
    assert mean(a > b for a, b in zip(scores[::2], scores[1::2], strict=True)) > 0.8


def test_it_does_not_depend_on_the_batch(builtin: Scorer) -> None:
    together = builtin.score(GROUPS)["score"].to_pylist()
    alone = [builtin.score([record])["score"][0].as_py() for record in GROUPS]
    assert together == pytest.approx(alone, abs=1e-5)
