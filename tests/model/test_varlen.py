"""Path attention by variable-length calls: equal to blocked attention, to FlexAttention, and tried
before it is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from forests import forests
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from varlen_plain import plain

from polar_ray.model import varlen as model_varlen
from polar_ray.model.attention import (
    BlockedAttention,
    PathAttention,
    Recall,
    SpanTuple,
    lineages,
)
from polar_ray.model.flash import TRIAL_ENDS, TRIAL_SPANS, find_varlen
from polar_ray.model.paths import by_varlen
from polar_ray.model.transfer import send
from polar_ray.model.varlen import Varlen, split_runs

N, K, H = 4, 2, 8


trees = partial(forests, most_tokens=9, most_spans=7)


def varlen(
    spans: Sequence[SpanTuple], ends: Sequence[int], recall: Recall, by: Varlen = plain
) -> PathAttention:
    arrays, attention = by_varlen(by)(spans, ends, recall)
    return attention(send(arrays, "cpu"))


def qkv(total: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(total)
    q, k, v = (torch.randn(total, heads, H, generator=random) for heads in (N, K, K))
    return q, k, v


@given(trees())
def test_one_call_equals_many(tree: tuple[list[SpanTuple], list[int]]) -> None:
    spans, ends = tree
    q, k, v = qkv(spans[-1][1])
    fast, slow = varlen(spans, ends, Recall()), BlockedAttention(spans, ends)
    torch.testing.assert_close(fast.attend(q, k, v, 0), slow.attend(q, k, v, 0))
    found, wanted = (one.attend_ends(q[ends], k, v, 0) for one in (fast, slow))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(wanted, slow.attend(q, k, v, 0)[ends])


@given(trees(), st.integers(1, 40))
def test_keys_are_gathered_within_bounds(
    tree: tuple[list[SpanTuple], list[int]], most: int
) -> None:
    spans, ends = tree
    q, k, v = qkv(spans[-1][1])
    gathered = []

    def counted(q_XNH: Tensor, k_CKH: Tensor, *rest: Any) -> Tensor:
        gathered.append(len(k_CKH))
        return plain(q_XNH, k_CKH, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_varlen, "GATHERED_KEYS", most)
        fast = varlen(spans, ends, Recall(), counted)
    slow = BlockedAttention(spans, ends)
    torch.testing.assert_close(fast.attend(q, k, v, 0), slow.attend(q, k, v, 0))
    torch.testing.assert_close(
        fast.attend_ends(q[ends], k, v, 0), slow.attend_ends(q[ends], k, v, 0)
    )
    longest = max(sum(spans[i][1] - spans[i][0] for i in line) for line in lineages(spans))
    assert max(gathered) <= max(most, longest)


@pytest.mark.parametrize(
    ("sizes", "most", "parts"),
    [
        ([3, 4], 7, [0, 2]),
        ([3, 5], 7, [0, 1, 2]),
        ([9], 7, [0, 1]),
        ([1, 9, 1, 1], 7, [0, 1, 2, 4]),
        ([9, 9], 7, [0, 1, 2]),
    ],
)
def test_runs_are_split_where_they_are_too_many(
    sizes: list[int], most: int, parts: list[int]
) -> None:
    assert split_runs(np.cumsum([0, *sizes]), most) == parts


@given(trees())
def test_what_was_kept_stands_in_for_its_tokens(tree: tuple[list[SpanTuple], list[int]]) -> None:
    spans, ends = tree
    q, k, v = qkv(spans[-1][1])
    first = slice(*spans[0][:2])
    for make in (varlen, BlockedAttention):
        recall = Recall(keep={0: first})
        whole = make(spans, ends, recall).attend(q, k, v, 0)
        assert torch.equal(recall.kept[0][0].k_SKH, k[first])
        size = first.stop
        rest = [(0, 0, -1), *((a - size, b - size, p) for a, b, p in spans[1:])]
        later = [end - size for end in ends if end >= size]
        if len(spans) == 1 or not later:
            continue
        known = Recall(known={0: recall.kept[0]})
        again = make(rest, later, known)
        rest_k, rest_v = (
            torch.cat([x[size:], x.new_full((again.room, K, H), torch.nan)]) for x in (k, v)
        )
        out = again.attend(q[size:], rest_k, rest_v, 0)
        torch.testing.assert_close(out, whole[size:])
        ends_out = again.attend_ends(q[size:][later], rest_k, rest_v, 0)
        torch.testing.assert_close(ends_out, whole[size:][later])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees() -> None:
    # An implementation that we did not write, with the rule "a key on my path, not after me".
    spans, ends = list(TRIAL_SPANS), list(TRIAL_ENDS)
    total = spans[-1][1]
    q, k, v = qkv(total)
    seen = torch.zeros(total, total, dtype=torch.bool)
    for (start, stop, _), line in zip(spans, lineages(spans), strict=True):
        for number in line:
            seen[start:stop, slice(*spans[number][:2])] = True
    seen &= torch.ones(total, total, dtype=torch.bool).tril()

    def rule(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[query, key]

    mask = create_block_mask(rule, None, None, total, total, device="cpu")
    wide = [x.transpose(0, 1)[None] for x in (q, k, v)]
    wanted = flex_attention(*wide, block_mask=mask, enable_gqa=True)[0].transpose(0, 1)
    torch.testing.assert_close(BlockedAttention(spans, ends).attend(q, k, v, 0), wanted)
    torch.testing.assert_close(varlen(spans, ends, Recall()).attend(q, k, v, 0), wanted)


def absent(*args: object) -> Tensor:
    raise RuntimeError("no kernel image is available")


def top_left(q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int) -> Tensor:
    """Causal from the wrong corner: what some kernels mean by it."""
    return plain(q, k, v, cq, ck, mq, mk).flip(0)


def test_only_what_computes_rightly_is_chosen() -> None:
    def find(*candidates: object) -> object:
        return find_varlen(
            "cpu", torch.float32, num_heads=N, num_kv_heads=K, head_dim=H, candidates=candidates
        )

    assert find(absent, top_left, plain) is plain
    assert find(absent, top_left) is None


def test_torchs_own_kernels_are_refused_where_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert find_varlen("cpu", torch.float32, num_heads=N, num_kv_heads=K, head_dim=H) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(16, 8, 128), (32, 8, 128), (4, 4, 64)])
def test_a_kernel_is_found_on_cuda(heads: int, kv_heads: int, size: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = find_varlen(
        "cuda", torch.bfloat16, num_heads=heads, num_kv_heads=kv_heads, head_dim=size
    )
    assert found is not None


def test_arrays_travel_in_one_buffer() -> None:
    arrays = [np.arange(3), np.array([], dtype=np.int64), np.arange(5, dtype=np.int32)]
    sent = send(arrays, "cpu")
    assert [one.tolist() for one in sent] == [one.tolist() for one in arrays]
    assert len({one.untyped_storage().data_ptr() for one in sent}) == 1
    assert all(one.dtype is torch.int32 for one in sent)
