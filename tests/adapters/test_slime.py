"""slime: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED
from fake_pool import FakePool

from polar_ray.adapters import slime
from polar_ray.adapters.pool import Unscored


def samples(label: Any = "4") -> list[Any]:
    return [
        SimpleNamespace(prompt=ASKED, response=f"{text}<|im_end|>", label=label, metadata={})
        for text in ANSWERS
    ]


def test_slime_one_by_one_and_in_groups_without_the_end_token(pool: FakePool) -> None:
    async def single() -> list[Any]:
        calls = (slime.polar(Namespace(polar_priority="eval"), one) for one in samples())
        return await asyncio.gather(*calls)

    assert asyncio.run(single()) == WANTED
    assert len(pool.calls) == 1
    assert pool.queries[0]["priority"] == "eval"
    assert asyncio.run(slime.polar(Namespace(rm_url=None), samples())) == WANTED
    assert {row["output"] for row in pool.rows()} == set(ANSWERS)
    assert asyncio.run(slime.polar(Namespace(), [])) == []


def test_slime_stops_at_a_row_without_a_score(pool: FakePool) -> None:
    for given in (samples(None), samples(None)[0]):
        with pytest.raises(Unscored, match="row 0: null_field"):
            asyncio.run(slime.polar(Namespace(), given))
