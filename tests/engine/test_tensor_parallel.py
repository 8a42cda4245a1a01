"""Tensor parallelism on two processes: the same scores, and an end instead of a hang."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from dead_device import Dead
from sample_records import GROUPS

from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.engine.protocol import Pending
from polar_ray.engine.tensor_parallel import TensorParallelEngine
from polar_ray.errors import ConfigError, DeviceLost
from polar_ray.model import load_config, load_model
from polar_ray.model.tensor_parallel import check_divisible, part_of
from polar_ray.planning import Pack
from polar_ray.scorer import Scorer


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", bias=request.param)


@pytest.fixture
def ranked(folder: Path) -> Iterator[Scorer]:
    engine = NativeEngineConfig(device="cpu", tensor_parallel_size=2, num_threads=1)
    one = Scorer(ScorerConfig(model=str(folder), engine=engine, max_tokens=256))
    yield one
    one.close()


def test_two_ranks_give_the_scores_of_one(folder: Path, ranked: Scorer) -> None:
    alone = Scorer(ScorerConfig(model=str(folder)))
    assert isinstance(ranked.engine, TensorParallelEngine)
    found, wanted = (s.score(GROUPS)["score"].to_numpy() for s in (ranked, alone))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert ranked.provenance == alone.provenance


def test_a_rank_that_dies_ends_the_engine(ranked: Scorer) -> None:
    ranked.score(GROUPS[:2])
    assert isinstance(ranked.engine, TensorParallelEngine)
    process = ranked.engine._processes[0]
    process.kill()
    process.join()
    for message in ("has died with code -9", "must be replaced"):
        with pytest.raises(DeviceLost, match=message):
            ranked.score(GROUPS[:2])


def test_a_rank_that_fails_ends_the_engine(ranked: Scorer) -> None:
    ranked.score(GROUPS[:2])
    assert isinstance(ranked.engine, TensorParallelEngine)
    [pipe] = ranked.engine._pipes
    pipe.send("this is no pack")
    ranked.engine._processes[0].join()
    for message in ("a rank failed", "must be replaced"):
        with pytest.raises(DeviceLost, match=message):
            ranked.score(GROUPS[:2])


def test_a_device_that_rank_0_loses_ends_the_engine(ranked: Scorer) -> None:
    ranked.score(GROUPS[:2])
    with Dead(), pytest.raises(DeviceLost, match="cpu is lost"):
        ranked.score(GROUPS[:2])
    with pytest.raises(DeviceLost, match="must be replaced"):
        ranked.score(GROUPS[:2])


def test_a_bug_in_one_rank_ends_the_engine(ranked: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have the pack already: another one would be summed with it."""
    assert isinstance(ranked.engine, TensorParallelEngine)

    def bug(pack: Pack) -> Pending:
        raise IndexError("a bug")

    monkeypatch.setattr(ranked.engine._own, "submit", bug)
    with pytest.raises(DeviceLost, match="a bug"):
        ranked.score(GROUPS[:2])
    monkeypatch.undo()
    with pytest.raises(DeviceLost, match="must be replaced: a bug"):
        ranked.score(GROUPS[:2])


def test_parts_make_up_the_whole(tiny_dir: Path) -> None:
    whole = load_model(tiny_dir).state_dict()
    parts = [load_model(tiny_dir, rank=rank, world_size=2).state_dict() for rank in range(2)]
    for name, tensor in whole.items():
        first, second = (part[name] for part in parts)
        if first.shape == tensor.shape:
            assert torch.equal(first, second), name
            continue
        dim = next(d for d in (0, 1) if first.shape[d] != tensor.shape[d])
        assert torch.equal(torch.cat([first, second], dim), tensor), name


def test_a_bias_of_a_sum_is_added_once() -> None:
    bias = torch.ones(4)
    name = "model.layers.0.attention.wo.bias"
    assert [part_of(name, bias, rank, 3).sum().item() for rank in range(3)] == [4, 0, 0]


def test_what_cannot_be_divided_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size=3 does not divide num_key_value"):
        check_divisible(load_config(tiny_dir), 3)
    engine = NativeEngineConfig(device="cpu", tensor_parallel_size=3)
    with pytest.raises(ConfigError, match="does not divide"):
        TensorParallelEngine(engine, tiny_dir)


def test_more_ranks_than_devices_are_refused(tiny_dir: Path) -> None:
    if torch.cuda.device_count() == 0:
        pytest.skip("needs a CUDA device")
    engine = NativeEngineConfig(device="cuda", tensor_parallel_size=64)
    with pytest.raises(ConfigError, match="torch sees"):
        TensorParallelEngine(engine, tiny_dir)
