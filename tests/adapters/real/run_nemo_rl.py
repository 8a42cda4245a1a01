"""NeMo RL: create_env and calculate_rewards over the environment's actor.

`PYTHONPATH=.:NEMO_RL_SOURCE python tests/adapters/real/run_nemo_rl.py`
"""

from __future__ import annotations

import os
from typing import Any

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import ray
import torch
from case import (
    ANSWERS,
    DYING,
    LIVE,
    PROMPT,
    REFERENCE,
    SHORT_S,
    SILENT,
    close,
    die,
    outcome,
    report,
    use,
    wanted,
)
from nemo_rl.algorithms.utils import calculate_baseline_and_std_per_prompt
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.environments.utils import create_env
from nemo_rl.experience.rollouts import calculate_rewards

from polar_ray.adapters.nemo_rl import register

torch.set_num_threads(1)


def rewards(env: Any, bad: int | None = None) -> list[float]:
    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text, "token_ids": torch.tensor([1])}

    infos = [{"reference": None if at == bad else REFERENCE} for at in range(4)]
    batch = BatchedDataDict(
        {
            "message_log": [
                [message("user", PROMPT), message("assistant", text)] for text in ANSWERS
            ],
            "task_name": ["polar"] * 4,
            "extra_env_info": infos,
        }
    )
    return [float(one) for one in calculate_rewards(batch, {"polar": env}).rewards]


def main() -> None:
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level="ERROR",
    )
    register()
    use(LIVE)
    env = create_env("polar", {})
    found = rewards(env)
    report("group", right=close(found, wanted()))
    report("unscored", **outcome(lambda: rewards(env, bad=1)))
    ray.kill(env)
    env = create_env("polar", {"address": DYING, "timeout_s": SHORT_S, "num_workers": 1})
    report("before", right=close(rewards(env), wanted()))
    die()
    report("dying", **outcome(lambda: rewards(env)))
    ray.kill(env)
    env = create_env("polar", {"address": SILENT, "timeout_s": SHORT_S})
    report("deadline", **outcome(lambda: rewards(env)))
    group = torch.tensor(found)
    baseline, _ = calculate_baseline_and_std_per_prompt(
        torch.ones(4, 1), group, torch.ones(4), leave_one_out_baseline=False
    )
    report("advantages", of=(group - baseline).tolist())
    ray.shutdown()


if __name__ == "__main__":
    main()
