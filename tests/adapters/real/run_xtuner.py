"""xtuner v1: a judger built from its config, alone, for a batch, and in a pool of judgers.

`PYTHONPATH=.:XTUNER_SOURCE python tests/adapters/real/run_xtuner.py`
"""

from __future__ import annotations

import asyncio
from typing import Any

import torch
import transformers
from case import ANSWERS, LIVE, PROMPT, REFERENCE, close, outcome, report, stops, use, wanted
from xtuner.v1.data_proto.rl_data import RolloutState
from xtuner.v1.rl.advantage.config import GRPOAdvantageConfig
from xtuner.v1.rl.judger.factory import build_judger
from xtuner.v1.rl.judger.native import JudgerPool

from polar_ray.adapters.xtuner import PolarJudger, PolarJudgerConfig

assert transformers


def states(bad: int | None = None) -> list[Any]:
    return [
        RolloutState(
            message=[{"role": "user", "content": PROMPT}],
            response=text + "<|im_end|>",
            reward_model={"ground_truth": None if at == bad else REFERENCE, "style": "polar"},
            data_source="polar",
        )
        for at, text in enumerate(ANSWERS)
    ]


def batch(bad: int | None = None) -> list[float]:
    judger = build_judger(PolarJudgerConfig(judger_name="polar"))
    return [one.reward["score"] for one in asyncio.run(judger.batch_judge(states(bad)))]


def one_by_one(judger: Any, bad: int | None = None) -> list[float]:
    async def main() -> list[float]:
        found = await asyncio.gather(*(judger.judge(state) for state in states(bad)))
        return [one.reward["score"] for one in found]

    return asyncio.run(main())


def main() -> None:
    stops(batch, lambda: batch(bad=1))
    use(LIVE)
    judger = PolarJudger("polar")
    report("trap", name="one by one", right=close(one_by_one(judger), wanted()))
    report("unscored", **outcome(lambda: one_by_one(judger, bad=1)))
    pool = JudgerPool([PolarJudger("a"), PolarJudger("b")], "pool")
    report("trap", name="a pool of judgers", right=close(one_by_one(pool), wanted()))
    given = PolarJudgerConfig(polar={"address": LIVE, "timeout_s": 5})
    use("http://127.0.0.1:9")
    right = close(one_by_one(build_judger(given)), wanted())
    report("trap", name="settings of the config go first", right=right)
    use(LIVE)
    advantages = GRPOAdvantageConfig().build().compute(torch.tensor(batch()), [])
    report("advantages", of=advantages.tolist())


if __name__ == "__main__":
    main()
