"""NeMo RL: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from adapters.recorded import ANSWERS, ASKED, WANTED, stand_in
from fake_pool import FakePool

from polar_ray.adapters import nemo_rl
from polar_ray.adapters.pool import Unscored


def test_nemo_rls_environment(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace
    stand_in(monkeypatch, "nemo_rl.environments.interfaces", EnvironmentReturn=made)
    logs = [
        [{**ASKED[0], "token_ids": torch.tensor([1])}, {"role": "assistant", "content": text}]
        for text in ANSWERS
    ]
    env = nemo_rl.OneTurnBatch({"priority": "eval", "num_workers": 2})
    found = env.step(logs, [{"reference": "4"}] * 4)
    assert torch.equal(found.rewards, torch.tensor(WANTED))
    assert found.terminateds.tolist() == [1.0] * 4
    assert len(found.observations) == len(found.next_stop_strings) == 4
    assert (len(pool.calls), pool.queries[0]["priority"]) == (1, "eval")
    with pytest.raises(Unscored, match="row 3: null_field"):
        env.step(logs, [*[{"reference": "4"}] * 3, {"reference": None}])
    assert env.global_post_process_and_metrics("batch") == ("batch", {})
