"""prime-rl: traces that verifiers scored, in GRPOAlgorithm.score_group.

`PYTHONPATH=.:PRIME_RL_SOURCES python tests/adapters/real/run_prime_rl.py`
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import verifiers.v1 as vf
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
    report,
    use,
    wanted,
)
from prime_rl.orchestrator.algo.base import iter_trainable_traces
from prime_rl.orchestrator.algo.grpo import GRPOAlgorithm
from prime_rl.orchestrator.algo.routing import scalar_advantage
from run_verifiers import Plugged, task_of
from verifiers.v1.trace import AgentInfo
from verifiers.v1.types import AssistantMessage, UserMessage


def trace_of(task: Any, reply: str) -> Any:
    data = vf.TraceTask(type=type(task).__name__, data=task.data)
    trace = vf.Trace(task=data, agent=AgentInfo(config=vf.AgentConfig()))
    asked = UserMessage(content=PROMPT)
    said = AssistantMessage(content=reply)
    trace.nodes += [
        vf.MessageNode(message=asked, parent=None, sampled=False, token_ids=[1, 2]),
        vf.MessageNode(
            message=said,
            parent=0,
            sampled=True,
            token_ids=[3, 4],
            mask=[True, True],
            logprobs=[-1.0, -1.0],
        ),
    ]
    trace.is_completed = True
    return trace


def group(bad: int | None = None) -> tuple[list[Any], list[Any]]:
    """Traces as verifiers leaves them: what scoring raises is kept in the trace; and advantages."""

    async def one(at: int, reply: str) -> Any:
        task = task_of(Plugged, None if at == bad else REFERENCE)
        trace = trace_of(task, reply)
        try:
            await task.score(trace)
            trace.ok = True  # as verifiers marks a rollout that came to its end
        except Exception as error:
            trace.record_error(error)
        return SimpleNamespace(traces=[trace])

    async def main() -> list[Any]:
        episodes = await asyncio.gather(*(one(at, reply) for at, reply in enumerate(ANSWERS)))
        if list(iter_trainable_traces(episodes)):
            algorithm = object.__new__(GRPOAlgorithm)
            algorithm.length_penalty = None
            await algorithm.score_group(episodes)
        return list(episodes)

    episodes = asyncio.run(main())
    traces = [episode.traces[0] for episode in episodes]
    kept = [trace for _, trace in iter_trainable_traces(episodes)]
    advantages = [
        scalar_advantage(trace) if any(trace is one for one in kept) else None for trace in traces
    ]
    return traces, advantages


def errors(traces: list[Any]) -> str:
    return "\n".join(str(error) for trace in traces for error in trace.errors)


def main() -> None:
    use(LIVE)
    traces, advantages = group()
    found = [trace.reward for trace in traces]
    report("group", right=close(found, wanted()))
    report("advantages", of=advantages)
    traces, advantages = group(bad=1)
    others = [found[at] for at in (0, 2, 3)]
    without = [one - sum(others) / 3 for one in others]
    report(
        "dropped",
        gone=advantages[1] is None,
        reason="null_field" in errors(traces),
        same=close([advantages[at] for at in (0, 2, 3)], without),
        of=advantages,
    )
    use(DYING, SHORT_S)
    report("before", right=close([trace.reward for trace in group()[0]], wanted()))
    die()
    traces, advantages = group()
    report("dying", raised=errors(traces) if advantages == [None] * 4 else None)
    use(SILENT, SHORT_S)
    traces, advantages = group()
    report("deadline", raised=errors(traces) if advantages == [None] * 4 else None)


if __name__ == "__main__":
    main()
