"""A pool for adapters: its scores are hashes, so that each can be compared with the right one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_pool import FakePool, fake_pool

from polar_ray.adapters import areal, nemo_gym, nemo_rl, roll, skyrl, verl, xtuner
from polar_ray.adapters.settings import PREFIX, AdapterConfig


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    """A fake pool that the environment names."""
    for name in AdapterConfig.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    with fake_pool() as pool:
        monkeypatch.setenv("POLAR_RAY_ADDRESS", pool.address)
        yield pool


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that are made on demand are made anew in each test."""
    made = {
        areal: ["PolarRLVRWorkflow"],
        verl: ["PolarRewardManager"],
        skyrl: ["PolarEnv"],
        xtuner: ["PolarJudger", "PolarJudgerConfig"],
        nemo_rl: ["PolarEnvironment"],
        nemo_gym: ["PolarResourcesServer"],
        roll: ["PolarRewardWorker"],
    }
    for module, names in made.items():
        for name in names:
            # Noted as absent, so that the test's end takes away what the test put there.
            monkeypatch.setitem(module.__dict__, name, None)
            monkeypatch.delitem(module.__dict__, name)
