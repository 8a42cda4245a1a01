"""Reinforcement fine-tuning on Ray with a pool of POLAR judges: rollouts, rewards, learning.

    python examples/rft.py run --kill-at 12 --swap-at 25
    python examples/rft.py run --freely          # it may write what the judge falls for

Rollout workers and the learner are Ray actors. Candidates go from a worker to the pool, and weights
from the learner to the workers, as references: the loop itself never holds either. It stays as it
is with a large policy and model=internlm/POLAR-7B; the toy is in `sums.py`, figures and the picture
in `measures.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import pyarrow as pa
import ray
import torch
import typer
from measures import Step, draw, measure
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
from ray.util import list_named_actors
from sums import NUMBERS, QUESTIONS, Policy, answer, to_records, train_judges
from torch import Tensor

from polar_ray.pool.app import wait_until_running
from polar_ray.pool.local import cluster
from polar_ray.records import provenance

POOL = "rft"
CANDIDATES = 12
MOST_LATER = 500
"""Steps after the last one that the exchange of the model is waited for."""

TIMEOUT_S = 120.0
"""Of each call of the pool; a replica that dies costs seconds of it."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    steps: int = 50
    words: tuple[str, ...] = NUMBERS
    length: int = 1
    kill_at: int | None = None
    swap_at: int | None = None
    questions: int = len(QUESTIONS)
    learning_rate: float = 0.2
    workers: int = 2
    replicas: int = 2


@ray.remote
class Worker:
    """Writes candidates with the weights that it is given."""

    def __init__(self, plan: Plan, seed: int) -> None:
        torch.manual_seed(seed)
        self._chance = Random(seed)
        self._policy = Policy(plan.words, plan.length)

    def write(self, weights: dict[str, Tensor], questions: list[int]) -> tuple[Tensor, pa.Table]:
        """[Q, G, L] words for the learner, and records for the pool: the candidates of each
        question and its yardsticks, the reference and an answer by chance."""
        self._policy.load_state_dict(weights)
        words_QGL = self._policy.write(questions, CANDIDATES)
        groups = [
            [*candidates, answer(question), self._chance.choice(NUMBERS)]
            for question, candidates in zip(questions, self._policy.read(words_QGL), strict=True)
        ]
        return words_QGL, to_records(questions, groups)


@ray.remote
class Learner:
    """Holds the policy, and makes what scored above its group's mean more likely."""

    def __init__(self, plan: Plan) -> None:
        self._policy = Policy(plan.words, plan.length)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=plan.learning_rate)

    def weights(self) -> dict[str, Tensor]:
        """The policy's."""
        return self._policy.state_dict()

    def learn(
        self, questions: list[int], results: list[pa.Table], *words: Tensor
    ) -> tuple[dict[str, Tensor], Step]:
        """One step, from the pool's result tables and what the workers kept of their rollouts."""
        words_QGL = torch.cat(words)
        # A row without a score is null, here NaN. It must not become 0.0, which is a good reward:
        # it has no advantage, and its group's mean goes without it.
        column = pa.concat_tables(results)["score"].to_numpy()
        scores = torch.from_numpy(column.astype(np.float64)).unflatten(0, (len(questions), -1))
        scores_QG, yardsticks_Q2 = scores.split([CANDIDATES, 2], dim=1)
        distance_QG = scores_QG - scores_QG.nanmean(1, keepdim=True)
        spread_Q1 = distance_QG.square().nanmean(1, keepdim=True).sqrt()
        advantage_QG = (distance_QG / (spread_Q1 + 0.1)).nan_to_num()

        loss = -(advantage_QG * self._policy.likelihoods(questions, words_QGL)).mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

        outputs = self._policy.read(words_QGL)
        right = [o == answer(q) for q, group in zip(questions, outputs, strict=True) for o in group]
        models = [provenance(result)["model_digest"] for result in results]
        step = measure(scores_QG.numpy(), yardsticks_Q2.numpy(), right, models)
        return self.weights(), step


def train(
    plan: Plan, judges: tuple[Path, Path], tell: Callable[[int, Step], None] = lambda *_: None
) -> tuple[list[Step], dict[str, float]]:
    """Starts a pool and trains; the figures of each step, and what the pool counted. Needs a Ray
    cluster with Serve, and takes the pool down at the end."""
    deploy(plan, judges[0])
    wait_until_running(POOL, 300)
    try:
        pool = serve.get_app_handle(POOL)
        parts = [list(range(n, plan.questions, plan.workers)) for n in range(plan.workers)]
        questions = [question for part in parts for question in part]
        workers = [Worker.remote(plan, seed) for seed in range(plan.workers)]
        learner = Learner.remote(plan)
        weights = learner.weights.remote()
        steps: list[Step] = []
        while not is_over(plan, steps):
            number = len(steps)
            rollouts = [
                worker.write.options(num_returns=2).remote(weights, part)
                for worker, part in zip(workers, parts, strict=True)
            ]
            # The pool's router takes the records from where the worker has left them.
            calls = [pool.score.remote(records, timeout_s=TIMEOUT_S) for _, records in rollouts]
            if number == plan.kill_at:
                kill_replica()
            if number == plan.swap_at:
                deploy(plan, judges[1])
            results = [call.result() for call in calls]
            weights, step = learner.learn.options(num_returns=2).remote(
                questions, results, *(words for words, _ in rollouts)
            )
            steps.append(ray.get(step))
            tell(number, steps[-1])
        return steps, pool.stats.remote().result()
    finally:
        serve.delete(POOL)


def is_over(plan: Plan, steps: list[Step]) -> bool:
    """Whether all steps are done, and the exchange of the model, which takes some seconds."""
    if len(steps) < plan.steps:
        return False
    if plan.swap_at is None or set(steps[-1].models).isdisjoint(steps[0].models):
        return True
    if len(steps) >= plan.steps + MOST_LATER:
        raise RuntimeError(
            f"{MOST_LATER} steps later the pool still has its first model; see why "
            "in the logs of its replicas"
        )
    return False


def deploy(plan: Plan, judge: Path) -> None:
    """What `serve deploy FILE` does with the same as YAML. Done again with another judge, it is
    exchanged in the running replicas: `user_config` is all that may differ for that."""
    args = {
        "num_replicas": plan.replicas,
        "num_cpus": 0.5,
        "engine": {"type": "native", "num_threads": 1},
    }
    pool = {
        "name": POOL,
        "import_path": "polar_ray:app",
        "route_prefix": f"/{POOL}",
        "args": args,
        "deployments": [{"name": "Replica", "user_config": {"model": str(judge.resolve())}}],
    }
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[pool]), _blocking=False)


def kill_replica() -> None:
    """Ends the process of one of the pool's replicas, with whatever it has in hand."""
    prefix = f"SERVE_REPLICA::{POOL}#Replica#"
    found = [a for a in list_named_actors(all_namespaces=True) if a["name"].startswith(prefix)]
    ray.kill(ray.get_actor(found[0]["name"], namespace=found[0]["namespace"]))


@app.command()
def judges(
    work: Annotated[Path, typer.Option()] = Path("rft"),
    steps: Annotated[int, typer.Option(min=1)] = 40,
) -> None:
    """Trains the judges only."""
    torch.set_num_threads(1)
    train_judges(work, steps)


@app.command()
def run(
    steps: Annotated[int, typer.Option(min=1)] = 50,
    kill_at: Annotated[int | None, typer.Option(min=0, help="Kill a replica in this step.")] = None,
    swap_at: Annotated[int | None, typer.Option(min=1, help="Exchange the pool's model.")] = None,
    freely: Annotated[bool, typer.Option(help="Up to three numbers for an answer.")] = False,
    judge_steps: Annotated[int, typer.Option(min=1, help="Of the judge's training.")] = 40,
    work: Annotated[Path, typer.Option(help="For judges, figures, the picture.")] = Path("rft"),
) -> None:
    """Trains the judges, if they are not there yet, then the policy."""
    for name, at in (("--kill-at", kill_at), ("--swap-at", swap_at)):
        if at is not None and at >= steps:
            raise typer.BadParameter(f"{name} {at}: the last of {steps} steps is {steps - 1}")
    torch.set_num_threads(1)
    began = time.monotonic()
    checkpoints = train_judges(work, judge_steps)
    sys.stdout.write(f"judges in {work}: {time.monotonic() - began:.0f} s\n")
    words, length = (("", *NUMBERS), 3) if freely else (NUMBERS, 1)
    plan = Plan(steps, words, length, kill_at, swap_at)
    title = f"at most {length} number(s) in an answer, {CANDIDATES} candidates"

    def tell(number: int, step: Step) -> None:
        if number % 5 == 0 or number == steps - 1:
            sys.stdout.write(f"step {number:3}: {step}\n")

    with cluster():
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        began = time.monotonic()
        done, counted = train(plan, checkpoints, tell)
        seconds = time.monotonic() - began
    name = "freely" if freely else "sums"
    (work / f"{name}.jsonl").write_text("".join(json.dumps(asdict(s)) + "\n" for s in done))
    events = {"a replica is killed": kill_at, "the model is exchanged": swap_at}
    marked = {event: step for event, step in events.items() if step is not None}
    draw(done, work / f"{name}.png", marked, title)
    summary = {
        "seconds": round(seconds, 1),
        "rows": sum(step.rows for step in done),
        "unscored": sum(step.unscored for step in done),
        "models": len({model for step in done for model in step.models}),
        "deaths": counted["deaths"],
        "repeats": counted["repeats"],
        "picture": str(work / f"{name}.png"),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    app()
