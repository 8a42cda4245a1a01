"""The kernels between the matrix products, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polar_ray.model import steps

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux on x86-64 alone")

from polar_ray.model.kernels.add_norm import add_norm
from polar_ray.model.kernels.gate import gate
from polar_ray.model.kernels.rope import rope
from polar_ray.model.kernels.round_rows import round_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def near(found: Tensor, wanted: Tensor) -> None:
    """To the last bit or two of the dtype: the interpreter cuts bfloat16 off, and the plain steps
    round more often."""
    most = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}[found.dtype]
    torch.testing.assert_close(found, wanted, rtol=most, atol=most)


def randn(*shape: int, dtype: torch.dtype) -> Tensor:
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=random).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 128), (7, 128), (5, 1), (3, 1500)])
def test_gate(rows: int, width: int, dtype: torch.dtype) -> None:
    both = randn(rows, 2 * width, dtype=dtype)
    halves = both.chunk(2, dim=-1)
    near(gate(*halves), steps.gate(*halves))
    apart = [half.contiguous() for half in halves]
    assert torch.equal(gate(*apart), gate(*halves))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [-100.0, 100.0])
@pytest.mark.filterwarnings(
    "ignore:overflow encountered in exp"
)  # to infinity, and its inverse is 0
def test_a_gate_far_from_zero(size: float, dtype: torch.dtype) -> None:
    x = torch.full((1, 3), size, device=DEVICE, dtype=dtype)
    near(gate(x, torch.ones_like(x)), steps.gate(x, torch.ones_like(x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (9, 64), (4, 100), (2, 1)])
def test_add_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    x, more, weight = (randn(n, width, dtype=dtype) for n in (rows, rows + 1, 1))
    more, weight = more[:rows], weight[0]
    sums = [x.clone(), x.clone()]
    found = add_norm(sums[0], more, weight, 1e-5)
    wanted = steps.add_norm(sums[1], more, weight, 1e-5)
    near(sums[0], sums[1])
    near(found, wanted)


def test_the_norm_is_that_of_the_residual_as_it_is_stored() -> None:
    # float16 rounds every other sum: a norm of the sums before that differs in many numbers.
    x, more = (randn(rows, 256, dtype=torch.float16) for rows in (16, 17))
    weight = torch.ones(256, device=DEVICE, dtype=torch.float16)
    found = add_norm(x, more[:16], weight, 1e-5)
    stored = x.double()
    exact = stored * (stored.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    assert (found == exact.half()).double().mean() > 0.98


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 2, 16), (37, 1, 16), (5, 3, 6)])
def test_rope(tokens: int, heads: int, size: int, queries: int, dtype: torch.dtype) -> None:
    angles = randn(tokens, 1, size // 2, dtype=torch.float32)
    rotation = [torch.cat((x, x), dim=-1).to(dtype) for x in (angles.cos(), angles.sin())]
    qkv = randn(tokens, heads, queries + 2, size, dtype=dtype)
    # Written into the middle of larger buffers, as chunks and known spans ask for.
    outs = []
    for step in (rope, steps.rope):
        q = qkv.new_full((tokens + 3, heads * queries, size), 9) if queries else None
        k, v = qkv.new_full((2, tokens + 3, heads, size), 9)
        step(qkv, *rotation, *(None if x is None else x[1:-2] for x in (q, k, v)))
        outs.append([x for x in (q, k, v) if x is not None])
    for found, wanted in zip(*outs, strict=True):
        near(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (40, 100), (2, 1)])
def test_round_rows(rows: int, width: int, dtype: torch.dtype) -> None:
    # Sizes that float16 has, which is coarse at its small end.
    x = (
        randn(rows, width, dtype=torch.float32)
        * torch.logspace(-3, 3, rows, device=DEVICE)[:, None]
    )
    apart = torch.zeros(rows, width + 5, device=DEVICE, dtype=dtype)[:, :width].copy_(x)
    rounded, scale = round_rows(apart, torch.float32)
    wanted, wanted_scale = steps.round_rows(apart)
    near(scale, wanted_scale)
    near(rounded, apart / wanted_scale)
    if DEVICE == "cuda":
        found = round_rows(apart)[0].float()
        # A number half-way between two may go to either.
        assert (found == wanted.float()).float().mean() > 0.99
        torch.testing.assert_close(found, wanted.float(), rtol=0.13, atol=2**-8)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # infinity by itself
def test_rounding_zeros_and_what_is_no_number() -> None:
    x = torch.zeros(3, 32, device=DEVICE)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    rounded, _ = round_rows(x, torch.float32)
    assert not rounded[0].any()
    assert rounded[1, 3].isnan()
    assert rounded[2, 5].isnan()
