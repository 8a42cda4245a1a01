"""Length rules as arithmetic: upstream's numbers, and no silent wrong cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.config import EncodingConfig
from polar_ray.encoding.truncate import (
    Lengths,
    Limits,
    cut_prompt,
    cut_response,
    keep,
    limits,
)
from polar_ray.errors import ConfigError

lengths = st.builds(Lengths, *[st.integers(1, 20_000)] * 3)
budgets = st.tuples(st.integers(2, 5_000), st.integers(0, 30_000)).map(
    lambda pair: Limits(2 * pair[0] + 6 + pair[1], pair[0])
)


@given(lengths, budgets)
def test_what_is_kept_fits_and_never_grows(before: Lengths, limit: Limits) -> None:
    kept = keep(before, limit)
    assert all(1 <= after <= length for after, length in zip(kept, before, strict=True))
    assert 2 * kept.prompt + kept.reference + kept.output + 4 <= limit.max_length
    if 2 * before.prompt + before.reference + before.output + 5 <= limit.max_length and (
        max(before.reference, before.output) <= limit.max_response_length
    ):
        assert kept == before


def test_the_default_budget_is_upstreams() -> None:
    default = limits(EncodingConfig(), None)
    assert (default.max_length, default.max_response_length) == (16384, 4096)
    assert keep(Lengths(20_000, 5_000, 5_000), default) == Lengths(4094, 4096, 4096)


def test_sides_of_a_cut() -> None:
    ids = [1, 2, 3, 4]
    assert cut_prompt(ids, 2) == [3, 4]
    assert cut_response(ids, 2, "right") == [1, 2]
    assert cut_response(ids, 2, "left") == [3, 4]
    assert cut_prompt(ids, 4) == ids


@pytest.mark.parametrize(("length", "response"), [(100, 48), (100, 50), (16, 4096)])
def test_a_budget_without_room_for_a_prompt_is_refused(length: int, response: int) -> None:
    with pytest.raises(ConfigError, match="leaves no token for the prompt"):
        Limits(length, response)


def test_a_small_model_gets_a_small_budget() -> None:
    assert limits(EncodingConfig(), 2048) == Limits(2048, 512, window=2048)


def test_a_length_over_the_models_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_length=4096 is over the model's window of 2048"):
        limits(EncodingConfig(max_length=4096), 2048)
