"""The example of reinforcement fine-tuning: it learns, and a killed replica and another model cost
it nothing. `examples/README.md` shows whole runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measures
import numpy as np
import pytest
import rft
import sums
import torch
from measures import Step, measure
from rft import CANDIDATES, MOST_LATER, Plan, is_over, train
from sums import SURELY, WORTH, Policy, answer, prompt, ratings, to_records
from typer.testing import CliRunner

from polar_ray.assets import builtin_model_dir
from polar_ray.model import load_model, save_model

ROOT = Path(__file__).parents[1]


def test_questions_and_their_references() -> None:
    assert (prompt(0), answer(0)) == ("What is 1 plus 1?", "2")
    assert (prompt(143), answer(143)) == ("What is 12 plus 12?", "24")


def test_groups_become_records_side_by_side() -> None:
    table = to_records([0, 13], [["2", "3"], ["4", "5"]])
    assert table["reference"].to_pylist() == ["2", "2", "4", "4"]
    assert table["output"].to_pylist() == ["2", "3", "4", "5"]


def test_likelihoods_are_those_of_the_words_that_were_written() -> None:
    policy = Policy(("a", "b"), length=2)
    with torch.no_grad():
        policy.table[3] = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    [[found]] = policy.likelihoods([3], torch.tensor([[[1, 0]]])).tolist()
    assert found == pytest.approx(np.log(0.5))
    assert policy.read(torch.tensor([[[1, 0]]])) == [["b a"]]
    assert Policy(("", "b"), length=3).read(torch.tensor([[[0, 1, 0]]])) == [["b"]]
    assert {text[2:] for text in policy.read(policy.write([3], 20))[0]} == {"a"}


def test_raters_take_assurance_for_nearness() -> None:
    comparison = next(ratings(seed=1))
    for output, grade in zip(comparison.outputs, comparison.grades, strict=True):
        number = output.removesuffix(SURELY)
        off = abs(int(number) - int(comparison.reference))
        assert grade == WORTH * (number != output) - off


def test_figures_of_a_step() -> None:
    scores = np.array([[-9.0, -5.0], [-1.0, np.nan]])
    yardsticks = np.array([[-4.0, -8.0], [-2.0, -10.0]])  # means: -3 is 1, -9 is 0
    step = measure(scores, yardsticks, [True, False, True, False], ["b", "a", "b"])
    assert step.reward == pytest.approx((0 + 4 / 6 + 8 / 6) / 3)
    assert (step.accuracy, step.above) == (0.5, 0.25)  # only -1 is above its own reference
    assert (step.rows, step.unscored, step.models) == (8, 1, ("a", "b"))


def scored_by(*models: str) -> Step:
    return Step(0.0, 0.0, 0.0, 0.0, 0.0, 8, 0, models)


def test_a_run_is_over_when_its_steps_and_its_exchange_are() -> None:
    old, new = scored_by("a"), scored_by("b")
    assert not is_over(Plan(steps=1), [])
    assert is_over(Plan(steps=2), [old, old])
    swapped = Plan(steps=2, swap_at=1)
    assert not is_over(swapped, [old, old, scored_by("a", "b")])
    assert is_over(swapped, [old, old, new])
    assert not is_over(Plan(steps=4, swap_at=1), [old, new, new])
    with pytest.raises(RuntimeError, match="still has its first model"):
        is_over(swapped, [old] * (2 + MOST_LATER))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "2", "--swap-at", "-1"], "--swap-at"),
        (["--steps", "2", "--swap-at", "2"], "--swap-at 2: the last of 2 steps is 1"),
        (["--steps", "2", "--kill-at", "5"], "--kill-at 5"),
        (["--judge-steps", "0"], "--judge-steps"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused(words: list[str], named: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(rft.app, ["run", "--work", str(tmp_path / "rft"), *words])
    assert refused.exit_code == 2
    assert named in refused.output
    assert not (tmp_path / "rft").exists()


def assert_nothing_was_lost(steps: list[Step], counted: dict[str, Any], rows: int) -> None:
    assert counted["deaths"] >= 1, "no replica was killed: the run shows nothing"
    assert [step.rows for step in steps] == [rows] * len(steps)
    assert not any(step.unscored for step in steps)
    first, last = steps[0].models, steps[-1].models
    assert len(first) == len(last) == 1
    assert first != last, "the pool's model was not exchanged"


@pytest.fixture
def judges(tmp_path: Path) -> tuple[Path, Path]:
    """The built-in model, and one whose scores are twice as large."""
    folder = tmp_path / "doubled"
    model = load_model(builtin_model_dir(), dtype=torch.float32, device="cpu")
    with torch.no_grad():
        model.v_head.weight *= 2
    save_model(model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin_model_dir() / name, folder)
    return builtin_model_dir(), folder


@pytest.fixture
def shipped() -> Iterator[None]:
    """Ray's processes get the example's modules by value: they do not have them on their path, as
    they do where `rft.py` is the program."""
    from ray import cloudpickle

    modules = (rft, sums, measures)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.ray
def test_the_reward_rises_while_a_replica_dies_and_the_model_is_exchanged(
    cluster: None, shipped: None, judges: tuple[Path, Path]
) -> None:
    plan = Plan(steps=12, kill_at=2, swap_at=4, questions=24, learning_rate=0.8)
    steps, counted = train(plan, judges)
    assert_nothing_was_lost(steps, counted, 24 * (CANDIDATES + 2))
    assert steps[-1].reward > steps[0].reward + 0.4
    assert steps[-1].accuracy > steps[0].accuracy + 0.2


def run(work: Path, *options: str) -> tuple[list[Step], dict[str, Any]]:
    """A whole run of the example, by its own command."""
    command = [sys.executable, str(ROOT / "examples" / "rft.py"), "run", "--work", str(work)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    picture = Path(summary["picture"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = picture.with_suffix(".jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    return [Step(**{**one, "models": tuple(one["models"])}) for one in figures], summary


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whole_runs(tmp_path: Path, figure: Callable[[str], None]) -> None:
    steps, summary = run(tmp_path, "--kill-at", "12", "--swap-at", "25")
    figure(f"sums: {summary}; first {steps[0]}; last {steps[-1]}")
    assert_nothing_was_lost(steps, summary, 144 * (CANDIDATES + 2))
    assert steps[0].accuracy < 0.1
    assert steps[-1].reward > 0.9
    assert steps[-1].accuracy > 0.9
    assert steps[-1].above < 0.01

    # It may write three numbers now: the judge likes what is longer better than what is right.
    steps, summary = run(tmp_path, "--freely")
    figure(f"freely: {summary}; first {steps[0]}; last {steps[-1]}")
    assert steps[-1].reward > 1.2
    assert steps[-1].above > 0.5
    assert steps[-1].accuracy < 0.5
    assert steps[-1].above > steps[0].above
