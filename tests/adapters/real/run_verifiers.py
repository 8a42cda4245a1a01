"""verifiers: vf.Task.score with the reward named in a TaskConfig, and in a method of a task.

`PYTHONPATH=. python tests/adapters/real/run_verifiers.py`
"""

from __future__ import annotations

import asyncio
from typing import Any

import verifiers.v1 as vf
from case import ANSWERS, LIVE, PROMPT, REFERENCE, close, outcome, report, stops, use, wanted
from verifiers.v1.trace import AgentInfo
from verifiers.v1.types import AssistantMessage, UserMessage

from polar_ray.adapters.verifiers import polar

CONFIG = {"polar": {"fn": "polar_ray.adapters.verifiers:polar", "weight": 1.0}}


class Data(vf.TaskData):
    answer: str | None = None


class Plugged(vf.Task[Data, vf.State]):
    pass


class Written(vf.Task[Data, vf.State]):
    @vf.reward(weight=1.0)
    async def agrees(self, trace: Any) -> float:
        return await polar(self.data, trace)


def trace_of(task: Any, reply: str) -> Any:
    data = vf.TraceTask(type=type(task).__name__, data=task.data)
    made = vf.Trace(task=data, agent=AgentInfo(config=vf.AgentConfig()))
    asked = vf.MessageNode(message=UserMessage(content=PROMPT), parent=None, sampled=False)
    said = vf.MessageNode(message=AssistantMessage(content=reply), parent=0, sampled=True)
    made.nodes.extend([asked, said])
    return made


def task_of(kind: Any, answer: str | None, prompt: Any = PROMPT) -> Any:
    config = vf.TaskConfig(rewards=CONFIG) if kind is Plugged else vf.TaskConfig()
    return kind(Data(prompt=prompt, answer=answer), config)


def rewards(kind: Any = Plugged, bad: int | None = None, prompt: Any = PROMPT) -> list[float]:
    async def one(at: int, reply: str) -> float:
        task = task_of(kind, None if at == bad else REFERENCE, prompt)
        trace = trace_of(task, reply)
        await task.score(trace)
        return float(trace.reward)

    async def main() -> list[float]:
        return await asyncio.gather(*(one(at, reply) for at, reply in enumerate(ANSWERS)))

    return asyncio.run(main())


def main() -> None:
    stops(rewards, lambda: rewards(bad=1))
    use(LIVE)
    report("trap", name="a method of the task", right=close(rewards(Written), wanted()))
    messages = [UserMessage(content=PROMPT)]
    found = rewards(prompt=messages)
    report("trap", name="messages as prompt", right=close(found, wanted()))
    report("unscored", **outcome(lambda: rewards(Written, bad=1)))
    mean = sum(found) / 4
    report("advantages", of=[one - mean for one in found])


if __name__ == "__main__":
    main()
