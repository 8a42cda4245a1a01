"""AReaL: RLVRWorkflow.arun_episode and its process pool, with a stand-in for the engine.

`PYTHONPATH=. python tests/adapters/real/run_areal.py`
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import torch
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters, NormConfig
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.utils.data import Normalization
from areal.workflow.rlvr import RLVRWorkflow
from case import (
    ANSWERS,
    DYING,
    LIVE,
    PROMPT,
    REFERENCE,
    SILENT,
    close,
    die,
    outcome,
    report,
    tokenizer,
    use,
    wanted,
)

from polar_ray.adapters.areal import PolarRLVRWorkflow, polar_reward

TOKENIZER = tokenizer()


SHORT_S = 1.0  # AReaL tries each row four times, one after the other
FUNCTION = "polar_ray.adapters.areal.polar_reward"


class Engine:
    """Gives the answers of the group in turn, with the token that ends each."""

    def __init__(self) -> None:
        self.answers = itertools.cycle(ANSWERS)

    async def agenerate(self, request: Any) -> Any:
        out = [*TOKENIZER(next(self.answers))["input_ids"], TOKENIZER.eos_token_id]
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=out,
            output_logprobs=[-1.0] * len(out),
            output_versions=[0] * len(out),
            stop_reason="stop",
            tokenizer=TOKENIZER,
        )


def one_row_fails(prompt: str, completions: str, *ids: Any, **columns: Any) -> float:
    """The reward of a data set that lacks a reference for one of the answers."""
    if completions.startswith(ANSWERS[1]):
        columns["answer"] = None
    return polar_reward(prompt, completions, *ids, **columns)


def rewards(reward: str | None = FUNCTION, **columns: Any) -> list[float]:
    """A group, each time in a loop that closes. Settings are columns here: the processes in which
    AReaL scores keep the environment that they began with."""
    sampling = GenerationHyperparameters(max_new_tokens=64)
    if reward is None:
        single = PolarRLVRWorkflow(sampling, TOKENIZER)
    else:
        single = RLVRWorkflow(reward, sampling, TOKENIZER)
    grouped = GroupedRolloutWorkflow(single, 4, logging.getLogger())
    data = {"messages": [{"role": "user", "content": PROMPT}], "answer": REFERENCE, **columns}
    found = asyncio.run(grouped.arun_episode(Engine(), data))
    return [float(one) for one in found["rewards"].flatten()]


def main() -> None:
    logging.disable(logging.CRITICAL)
    use(LIVE)
    expected = wanted()
    # This process has a client, connections and a thread when AReaL forks its own from it.
    here = polar_reward(PROMPT, ANSWERS[0], [], [], answer=REFERENCE)
    report("trap", name="in this process", right=close([here], expected[:1]))
    report("group", right=close(rewards(), expected))
    failed = outcome(lambda: rewards("run_areal.one_row_fails"))
    # What raises in a group ends all of it: AReaL's executor rejects it and rolls out another.
    gone = failed["returned"] is None
    report("rejected", gone=gone, reason="null_field" in (failed["raised"] or ""), of=[None] * 4)
    report("trap", name="PolarRLVRWorkflow", right=close(rewards(None), expected))
    failed = outcome(lambda: rewards(None, answer=None))
    gone = failed["returned"] is None
    report("rejected", gone=gone, reason="null_field" in (failed["raised"] or ""), of=[None] * 4)
    late = outcome(lambda: rewards(None, polar_address=SILENT, polar_timeout_s=SHORT_S))
    report("deadline", **late)
    ways = {"polar_address": DYING, "polar_timeout_s": SHORT_S}
    report("before", right=close(rewards(**ways), expected))
    die()
    report("dying", **outcome(lambda: rewards(**ways)))
    late = outcome(lambda: rewards(polar_address=SILENT, polar_timeout_s=SHORT_S))
    report("deadline", **late)
    report("trap", name="no TimeoutError, which becomes 0", right=late["returned"] is None)
    norm = Normalization(NormConfig(mean_level="group", std_level="group", group_size=4))
    report("advantages", of=norm(torch.tensor(rewards())).tolist())


if __name__ == "__main__":
    main()
