"""Graphs of small packs are tried before they are used: those that read what is wrong are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from graph_recorder import record
from torch import Tensor
from varlen_plain import plain

from polar_ray.config import NativeEngineConfig
from polar_ray.engine import graphs
from polar_ray.engine.graphs import Graphs, try_graphs
from polar_ray.engine.native import NativeEngine
from polar_ray.model import load_config
from polar_ray.model.attention import Recall
from polar_ray.model.paths import by_varlen

GOLDEN = Path(__file__).parents[1] / "golden/model"


def tried(name: str) -> Graphs | None:
    config = load_config(GOLDEN / name)
    engine = NativeEngine(NativeEngineConfig(device="cpu", dtype="float32"), GOLDEN / name)
    engine._prepare = by_varlen(plain)
    make = partial(
        Graphs,
        engine.model,
        engine._prepare,
        config,
        "cpu",
        torch.float32,
        num_known=60,
        token_counts=[64, 128],
        record=record,
    )
    return try_graphs(make, engine._compute, config)


@pytest.mark.parametrize("name", ["gqa", "mha_bias"])
def test_those_that_are_right_are_used(name: str) -> None:
    assert tried(name) is not None


real_stage, real_run = Graphs._stage, graphs._Graph.run


def shifted(self: Graphs, recall: Recall) -> None:
    real_stage(self, recall)
    self._staged.copy_(self._staged.roll(1, 2))


def one_for_all(self: Graphs, recall: Recall) -> None:
    for number, layers in recall.known.items():
        real_stage(self, Recall(known={number: layers}))


def stale_in_the_larger(self: graphs._Graph, planned: Tensor) -> Tensor:
    return self._out if self.num_tokens == 128 else real_run(self, planned)


@pytest.mark.parametrize(
    ("where", "method", "fault"),
    [
        (Graphs, "_stage", lambda self, recall: None),
        (Graphs, "_stage", shifted),
        (Graphs, "_stage", one_for_all),
        (graphs._Graph, "run", stale_in_the_larger),
    ],
    ids=["nothing staged", "staged a row too far", "the second over the first", "not replayed"],
)
def test_those_that_are_wrong_are_not(
    where: type,
    method: str,
    fault: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(where, method, fault)
    assert tried("gqa") is None
    assert "small packs do without graphs, which are off by" in caplog.text
