"""ROLL: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED, Bytes, ids_of, objects
from fake_pool import FakePool

from polar_ray.adapters import roll
from polar_ray.adapters.pool import Unscored


class Columns:
    """All that ROLL's own batches have of a mapping."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns

    def keys(self) -> set[str]:
        return set(self._columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Any:
        raise NotImplementedError


def roll_batch(**columns: Any) -> Any:
    given = {"ground_truth": objects(*["4"] * 4), "domain": objects(*["polar"] * 4), **columns}
    tensors = {"responses": ids_of(ANSWERS), "prompts": ids_of(["2+2="] * 4)}
    return SimpleNamespace(batch=tensors, non_tensor_batch=Columns(given))


def test_roll_scores_a_shard(pool: FakePool) -> None:
    assert roll.rewards_of(roll_batch(), Bytes()) == WANTED
    assert roll.rewards_of(roll_batch(messages=objects(*[ASKED] * 4)), Bytes()) == WANTED
    assert len(pool.calls) == 2
    with pytest.raises(Unscored, match="row 0: null_field"):
        roll.rewards_of(roll_batch(ground_truth=objects(None, "4", "4", "4")), Bytes())
