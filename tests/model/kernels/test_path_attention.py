"""The path kernel on trees of all forms, against blocked attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polar_ray.model.attention import BlockedAttention, PathAttention, Recall, SpanTuple
from polar_ray.model.paths import TiledKernel, by_tiles
from polar_ray.model.transfer import send

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux on x86-64 alone")

from polar_ray.model.kernels.path_attention import Tiling, path_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILING, ENDS = Tiling(32, 32, 4, 2), Tiling(16, 32, 4, 2)
MOST = {torch.float32: 2e-6, torch.bfloat16: 0.02, torch.float16: 2e-3}
"""Of outputs of size 1. The interpreter cuts bfloat16 off where a GPU rounds."""

HEADS = {"gqa": (4, 2, 16), "mha": (4, 4, 16), "mqa": (4, 1, 16), "group of 3": (6, 2, 24)}
"""Query heads, key/value heads, head dim; those of the golden models first."""


def tiled(
    spans: Sequence[SpanTuple],
    ends: Sequence[int],
    recall: Recall,
    group: int,
    tiling: Tiling = TILING,
) -> PathAttention:
    kernels = (TiledKernel(partial(path_attention, tiling=t), t.rows) for t in (tiling, ENDS))
    arrays, attention = by_tiles(*kernels, group)(spans, ends, recall)
    return attention(send(arrays, DEVICE))


def qkv(total: int, heads: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(total)
    queries, keys, size = HEADS[heads]
    return tuple(
        torch.randn(total, n, size, generator=random).to(DEVICE, dtype)
        for n in (queries, keys, keys)
    )


def check(spans: list[SpanTuple], ends: list[int], heads: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(spans[-1][1], heads, dtype)
    fast = tiled(spans, ends, Recall(), q.shape[1] // k.shape[1])
    slow = BlockedAttention(spans, ends)
    found, found_ends = fast.attend(q, k, v, 0), fast.attend_ends(q[ends], k, v, 0)
    q, k, v = (x.float() for x in (q, k, v))
    assert (found.float() - slow.attend(q, k, v, 0)).abs().max() < MOST[dtype]
    assert (found_ends.float() - slow.attend_ends(q[ends], k, v, 0)).abs().max() < MOST[dtype]


TREES: dict[str, list[SpanTuple]] = {
    "one token": [(0, 1, -1)],
    "a tile and one": [(0, 17, -1)],
    "whole blocks": [(0, 32, -1), (32, 64, 0)],
    "single rows": [(0, 33, -1), (33, 34, 0), (34, 35, 1), (35, 36, -1)],
    "deep": [(n * 9, n * 9 + 9, n - 1) for n in range(7)],
    "a group": [(0, 40, -1), *((40 + n * 11, 51 + n * 11, 0) for n in range(3))],
}


@pytest.mark.parametrize("heads", list(HEADS))
@pytest.mark.parametrize("tree", list(TREES))
def test_trees(tree: str, heads: str) -> None:
    spans = TREES[tree]
    check(spans, [stop - 1 for _, stop, _ in spans[-2:]], heads, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", list(HEADS))
def test_in_16_bits(heads: str, dtype: torch.dtype) -> None:
    check(TREES["a group"], [50, 61], heads, dtype)


any_forest = given(
    forests(most_tokens=40, most_spans=6), st.sampled_from(list(HEADS)), st.sampled_from(list(MOST))
)


@settings(max_examples=6)
@any_forest
def test_any_forest(
    forest: tuple[list[SpanTuple], list[int]], heads: str, dtype: torch.dtype
) -> None:
    check(*forest, heads, dtype)


@pytest.mark.slow
@settings(max_examples=400)
@any_forest
def test_many_forests(
    forest: tuple[list[SpanTuple], list[int]], heads: str, dtype: torch.dtype
) -> None:
    check(*forest, heads, dtype)


@pytest.mark.parametrize("tree", ["single rows", "a group"])
def test_spans_that_are_known_are_read_behind_the_stream(tree: str) -> None:
    spans = TREES[tree]
    ends = [stop - 1 for _, stop, _ in spans[1:]]
    size = spans[0][1]
    rest = [(0, 0, -1), *((a - size, b - size, p) for a, b, p in spans[1:])]
    later = [end - size for end in ends]
    q, k, v = qkv(spans[-1][1], "gqa")
    keep = Recall(keep={0: slice(0, size)})
    whole = tiled(spans, ends, keep, 2).attend(q, k, v, 0)
    again = tiled(rest, later, Recall(known={0: keep.kept[0]}), 2)
    assert again.room == size
    k, v = (torch.cat([x[size:], x.new_full(x[:size].shape, torch.nan)]) for x in (k, v))
    torch.testing.assert_close(again.attend(q[size:], k, v, 0), whole[size:])
    found = again.attend_ends(q[size:][later], k, v, 0)
    torch.testing.assert_close(found, whole[size:][later])


@pytest.mark.parametrize("tiling", [Tiling(16, 16, 4, 2), Tiling(64, 128, 8, 3)])
def test_the_tiling_changes_nothing_but_speed(tiling: Tiling) -> None:
    spans, ends = TREES["a group"], [50]
    q, k, v = qkv(spans[-1][1], "gqa")
    found, wanted = (
        tiled(spans, ends, Recall(), 2, one).attend(q, k, v, 0) for one in (tiling, TILING)
    )
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6)


def test_a_key_that_a_row_must_not_see_does_not_count() -> None:
    spans, ends = TREES["a group"], [50]
    q, k, v = qkv(spans[-1][1], "gqa")
    whole = tiled(spans, ends, Recall(), 2).attend(q, k, v, 0)
    # A sibling's keys, and those after a row.
    k[51:62] = 1e4
    v[51:62] = torch.nan
    again = tiled(spans, ends, Recall(), 2).attend(q, k, v, 0)
    assert torch.equal(again[:51], whole[:51])
    assert torch.equal(again[62:], whole[62:])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_own_record(value: float) -> None:
    spans = [(0, 5, -1), (5, 25, -1), (25, 60, -1)]
    q, k, v = qkv(60, "gqa")
    v[0] = value
    fast = tiled(spans, [4, 24, 59], Recall(), 2)
    assert torch.isfinite(fast.attend(q, k, v, 0)).flatten(1).all(dim=1).tolist() == (
        [False] * 5 + [True] * 55
    )
    ends = fast.attend_ends(q[[4, 24, 59]], k, v, 0)
    assert torch.isfinite(ends).flatten(1).all(dim=1).tolist() == [False, True, True]
