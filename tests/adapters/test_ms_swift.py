"""ms-swift: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED, stand_in
from fake_pool import FakePool

from polar_ray.adapters import ms_swift
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import ConfigError


def swift_columns(bad: int | None = None) -> dict[str, Any]:
    return {
        "messages": [[*ASKED, {"role": "assistant", "content": text}] for text in ANSWERS],
        "reference": [None if at == bad else "4" for at in range(4)],
        "request_id": ["a", "b", "c", "d"],
        "trainer_state": object(),
    }


def test_ms_swift_gets_all_or_nothing(pool: FakePool) -> None:
    plain, awaited = ms_swift.PolarReward(args=object()), ms_swift.PolarRewardAsync()
    assert plain(ANSWERS, **swift_columns()) == WANTED
    for _ in range(2):
        assert asyncio.run(awaited(ANSWERS, **swift_columns())) == WANTED
    with pytest.raises(Unscored, match="row 1: null_field"):
        plain(ANSWERS, **swift_columns(bad=1))
    with pytest.raises(Unscored, match="row 1: null_field"):
        asyncio.run(awaited(ANSWERS, **swift_columns(bad=1)))
    columns = swift_columns()
    columns["messages"][1] = ["2+2="]
    with pytest.raises(Unscored, match="row 1: "):
        plain(ANSWERS, **columns)


def test_ms_swift_knows_the_rewards_once_they_are_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orms: dict[str, Any] = {"accuracy": object}
    stand_in(monkeypatch, "swift.rewards", orms=orms)
    ms_swift.register()
    assert set(orms) == {"accuracy", "polar", "polar_async"}
    assert asyncio.iscoroutinefunction(orms["polar_async"].__call__)


def test_ms_swift_must_not_load_the_adapter_as_a_plugin() -> None:
    """It would put the folder of all adapters, one of which is called trl, before trl's own."""
    path = str(Path(ms_swift.__file__))
    spec = importlib.util.spec_from_file_location("_swift_external_1f", path)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ConfigError, match="must not be this file"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
