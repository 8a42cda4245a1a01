"""ROLL: RewardScheduler.compute_rewards over an actor of the worker, and reward_norm.

`PYTHONPATH=.:ROLL_SOURCE python tests/adapters/real/run_roll.py`
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
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
    tokenizer,
    use,
    wanted,
)
from roll.distributed.scheduler.protocol import DataProto
from roll.distributed.scheduler.reward_scheduler import RewardScheduler
from roll.utils.functionals import reward_norm

from polar_ray.adapters.roll import PolarRewardWorker

torch.set_num_threads(1)
TOKENIZER = tokenizer()


class Worker(PolarRewardWorker):
    """Without the parts of ROLL's cluster that a worker finds when it starts."""

    def __init__(self, address: str, timeout_s: float) -> None:
        use(address, timeout_s)
        self.tokenizer, self.worker_name = TOKENIZER, "polar"


class Cluster:
    """A worker's group, of one."""

    def __init__(self, address: str, timeout_s: float = 60) -> None:
        self.worker = ray.remote(Worker).options(num_cpus=0.5).remote(address, timeout_s)

    def compute_rewards(self, data: Any, blocking: bool = False) -> list[Any]:
        return [SimpleNamespace(obj_ref=self.worker.compute_rewards.remote(data))]


def objects(values: list[Any]) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def batch(bad: int | None = None) -> Any:
    ids = [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id] for text in ANSWERS]
    longest = max(map(len, ids))
    responses = torch.tensor(
        [[*one, *[TOKENIZER.pad_token_id] * (longest - len(one))] for one in ids]
    )
    prompts = torch.tensor([TOKENIZER(PROMPT)["input_ids"]] * 4)
    columns = {
        "ground_truth": objects([None if at == bad else np.str_(REFERENCE) for at in range(4)]),
        "domain": objects(["polar"] * 4),
        "id": objects(list(range(4))),
    }
    return DataProto.from_dict(
        tensors={"prompts": prompts, "responses": responses}, non_tensors=columns
    )


def scored(cluster: Cluster, bad: int | None = None) -> Any:
    kind = getattr(RewardScheduler, "__ray_metadata__", None)
    kind = kind.modified_class if kind is not None else RewardScheduler
    return asyncio.run(kind().compute_rewards(batch(bad), {"polar": cluster}, None)).batch


def rewards(cluster: Cluster, bad: int | None = None) -> list[float]:
    return list(scored(cluster, bad)["response_level_rewards"].tolist())


def main() -> None:
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level="ERROR",
    )
    live = Cluster(LIVE)
    report("group", right=close(rewards(live), wanted()))
    report("unscored", **outcome(lambda: rewards(live, bad=1)))
    full = scored(live)["response_level_rewards"].dtype == torch.float32
    report("trap", name="scores are float32", right=full)
    dies = Cluster(DYING, SHORT_S)
    report("before", right=close(rewards(dies), wanted()))
    die()
    report("dying", **outcome(lambda: rewards(dies)))
    report("deadline", **outcome(lambda: rewards(Cluster(SILENT, SHORT_S))))
    normed = reward_norm(
        torch.tensor(rewards(live)),
        n_sample=4,
        running_ctrl={},
        norm_mean_type="group",
        norm_std_type="group",
    )
    report("advantages", of=normed.tolist())
    ray.shutdown()


if __name__ == "__main__":
    main()
