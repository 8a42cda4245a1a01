"""Results that stand side by side are of one model; a change is named with its row."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from polar_ray.client.same_model import OneModel, check_same_model
from polar_ray.errors import ModelChanged
from polar_ray.records import METADATA_PREFIX, empty_scores

MADE_BY = {"model": "/m", "model_digest": "d1", "template_version": "1", "dtype": "float32"}


def result(rows: int = 0, **changes: str) -> pa.Table:
    made = {f"{METADATA_PREFIX}{k}": v for k, v in {**MADE_BY, **changes}.items()}
    return pa.table({"score": [0.0] * rows}).replace_schema_metadata(made)


@pytest.mark.parametrize("key", ["model_digest", "template_version", "dtype", "engine"])
def test_whatever_makes_scores_differ_is_a_change(key: str) -> None:
    with pytest.raises(ModelChanged, match=f"changed here: /m .{key} .*{key} other"):
        check_same_model(MADE_BY, result(**{key: "other"}), "here")


def test_another_name_of_the_same_weights_is_none() -> None:
    check_same_model(MADE_BY, result(model="/mnt/m"), "here")


def test_the_row_of_the_change_is_named() -> None:
    same = OneModel()
    for rows in (5, 0, 7):
        assert same.check(result(rows)).num_rows == rows
    with pytest.raises(ModelChanged, match=r"at row 12 \(counted from 0\).*d1.*d2") as caught:
        same.check(result(3, model_digest="d2"))
    assert same.num_rows == 12
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_result_that_says_nothing_differs_from_one_that_does() -> None:
    with pytest.raises(ModelChanged, match="unknown"):
        check_same_model(MADE_BY, empty_scores(), "here")
