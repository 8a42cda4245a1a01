"""Errors cross processes and HTTP without losing what they say."""

from __future__ import annotations

import pickle

import pytest

from polar_ray.errors import BY_NAME, HTTP_STATUS, Overloaded, PolarRayError, ScoreError


def instance(kind: type[PolarRayError]) -> PolarRayError:
    return kind({3: "null_field: no"}) if kind is ScoreError else kind("what to do")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", HTTP_STATUS, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind: type[PolarRayError]) -> None:
    before = instance(kind)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert str(after) == str(before)
    assert vars(after) == vars(before)


def test_overloaded_keeps_its_hint() -> None:
    assert pickle.loads(pickle.dumps(Overloaded("full", 2.5))).retry_after_s == 2.5


def test_every_error_has_a_status_and_a_name() -> None:
    def tree(kind: type[PolarRayError]) -> set[type[PolarRayError]]:
        # Others are made of these in the parts that they do not leave, such as `data`.
        children = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]
        return {kind}.union(*map(tree, children))

    assert tree(PolarRayError) == set(HTTP_STATUS) == set(BY_NAME.values())


def test_score_error_names_rows_but_not_thousands_of_them() -> None:
    error = ScoreError({row: f"null_field: {row}" for row in range(1000)})
    assert "row 0: null_field: 0" in str(error)
    assert "997 more" in str(error)
    assert len(error.rows) == 1000
