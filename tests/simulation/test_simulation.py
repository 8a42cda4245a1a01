"""Whole pools in virtual time, from seeds. What fails is replayed by the command that it prints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from simulation.__main__ import again, summary
from simulation.scenarios import SCENARIOS, run_scenario
from simulation.world import Broken, Report, simulate

Figure = Callable[[str], None]


def one(seed: int, scenario: str | None = None) -> Report:
    """A schedule, and how to see it again where it breaks a promise."""
    try:
        return run_scenario(scenario, seed) if scenario else simulate(seed)
    except Broken as broken:
        pytest.fail(f"{broken}\n{again(seed, scenario)}")


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_schedules_keep_every_promise(first: int) -> None:
    for seed in range(first, first + 10):
        one(seed)


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_a_scenario_keeps_its_promise(scenario: str) -> None:
    one(0, scenario)


def test_the_same_seed_takes_the_same_course() -> None:
    assert simulate(3) == simulate(3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_steps(figure: Figure) -> None:
    """SIMULATION_SEED is where they begin: another number, other schedules."""
    steps = int(os.environ.get("SIMULATION_STEPS", "1000000"))
    seed = int(os.environ.get("SIMULATION_SEED", "1000"))
    began, reports = time.monotonic(), list[Report]()
    while sum(report.turns for report in reports) < steps:
        reports.append(one(seed + len(reports)))
    figure(summary(reports, time.monotonic() - began))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_a_hundred_of_each_scenario(scenario: str, figure: Figure) -> None:
    began = time.monotonic()
    reports = [one(seed, scenario) for seed in range(int(os.environ.get("SCENARIOS", "100")))]
    figure(summary(reports, time.monotonic() - began))
