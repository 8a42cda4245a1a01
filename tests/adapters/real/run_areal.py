"""AReaL: RLVRWorkflow.arun_episode and its process pool, with a stand-in for the engine.

`PYTHONPATH=. python tests/adapters/real/run_areal.py`
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import torch
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.workflow.rlvr import RLVRWorkflow
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

from polar_ray.adapters.areal import polar_reward

TOKENIZER = tokenizer()


class Engine:
    """Gives one answer, with the token that ends it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def agenerate(self, request: Any) -> Any:
        out = [*TOKENIZER(self.answer)["input_ids"], TOKENIZER.eos_token_id]
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=out,
            output_logprobs=[-1.0] * len(out),
            output_versions=[0] * len(out),
            stop_reason="stop",
            tokenizer=TOKENIZER,
        )


def episode(at: int, **columns: Any) -> float:
    """One row. The settings are columns, as the pool of processes keeps its environment."""
    workflow = RLVRWorkflow(
        "polar_ray.adapters.areal.polar_reward",
        GenerationHyperparameters(max_new_tokens=64),
        TOKENIZER,
    )
    data = {
        "messages": [{"role": "user", "content": PROMPT}],
        "answer": REFERENCE,
        **columns,
    }
    found = asyncio.run(workflow.arun_episode(Engine(ANSWERS[at]), data))
    return float(found["rewards"])


def rewards(**columns: Any) -> list[float]:
    return [episode(at, **columns) for at in range(4)]


def main() -> None:
    logging.disable(logging.CRITICAL)
    use(LIVE)
    expected = wanted()
    # This process has a client, connections and a thread when AReaL forks its own from it.
    here = polar_reward(PROMPT, ANSWERS[0], [], [], answer=REFERENCE)
    report("trap", name="in this process", right=close([here], expected[:1]))
    report("group", right=close(rewards(), expected))
    raised = outcome(lambda: episode(1, answer=None))
    # AReaL's executor rejects an episode that raises, and rolls its group out again.
    report("rejected", reason="null_field" in (raised["raised"] or ""), of=[None] * 4)
    ways = {"polar_address": DYING, "polar_timeout_s": SHORT_S}
    report("before", right=close(rewards(**ways), expected))
    die()
    report("dying", **outcome(lambda: episode(0, **ways)))
    ways = {"polar_address": SILENT, "polar_timeout_s": SHORT_S}
    late = outcome(lambda: episode(0, **ways))
    report("deadline", **late)
    report("trap", name="no TimeoutError, which becomes 0", right=late["returned"] is None)
    group = torch.tensor(expected)
    report("advantages", of=(group - group.mean()).tolist())


if __name__ == "__main__":
    main()
