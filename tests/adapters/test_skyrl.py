"""SkyRL: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

from typing import Any

import pytest
from adapters.recorded import ASKED, WANTED, stand_in
from fake_pool import FakePool

from polar_ray.adapters import skyrl
from polar_ray.adapters.pool import Unscored
from polar_ray.errors import ConfigError


class BaseTextEnv:
    def __init__(self) -> None:
        self.turns = 0


def test_skyrls_environment(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "skyrl_gym.envs.base_text_env", BaseTextEnv=BaseTextEnv)
    kind = skyrl.PolarEnv
    assert skyrl.PolarEnv is kind, "made once"
    assert kind.__module__ == "polar_ray.adapters.skyrl"

    def step(truth: Any) -> Any:
        extras = {"reward_spec": {"method": "reward_model", "ground_truth": truth}, "max_turns": 1}
        env = kind(env_config={}, extras=extras)
        assert env.turns == 0
        assert env.init(ASKED) == (ASKED, {})
        return env.step("four")

    found = step("4")
    assert (found["reward"], found["done"], found["observations"]) == (WANTED[0], True, [])
    with pytest.raises(Unscored, match="null_field"):
        step(None)
    with pytest.raises(ConfigError, match="no column ground_truth"):
        kind(env_config={}, extras={}).step("four")
