"""Runs schedules and stops at the first that breaks a promise.

`python tests/simulation 17` replays the one of seed 17, `python tests/simulation 0 --schedules 500`
the 500 from seed 0 on, `--scenario storm` those of one kind. Prints what they had in them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.scenarios import SCENARIOS, run_scenario
from simulation.world import Broken, Report, simulate


def main() -> int:
    """Exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS))
    given = parser.parse_args()
    began, reports = time.monotonic(), list[Report]()
    for seed in range(given.seed, given.seed + given.schedules):
        try:
            found = run_scenario(given.scenario, seed) if given.scenario else simulate(seed)
        except Broken as broken:
            again = f"--scenario {given.scenario} " if given.scenario else ""
            sys.stdout.write(
                f"seed {seed}: {broken}\nagain: python tests/simulation {again}{seed}\n"
            )
            sys.stdout.write(f"found in schedule {len(reports) + 1}\n")
            return 1
        reports.append(found)
        if given.steps is not None and sum(report.turns for report in reports) >= given.steps:
            break
    sys.stdout.write(summary(reports, time.monotonic() - began) + "\n")
    return 0


def again(seed: int, scenario: str | None) -> str:
    """The command that shows a schedule again."""
    kind = f"--scenario {scenario} " if scenario else ""
    return f"again: python tests/simulation {kind}{seed}"


def summary(reports: list[Report], seconds: float) -> str:
    """What many schedules had in them, in one line."""
    turns = sum(report.turns for report in reports)
    counts = {
        name: sum(getattr(report, name) for report in reports)
        for name in ("calls", "answered", "errors", "late", "left", "deaths", "poison")
    }
    trials = sum(report.counters["trials"] for report in reports)
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    worst = max(report.worst_wait_s for report in reports)
    return (
        f"{len(reports)} schedules, {turns} steps in {seconds:.1f} s "
        f"({len(reports) / seconds:.1f} schedules/s, {turns / seconds:.0f} steps/s): {shown}, "
        f"{trials} trials; most deaths {max(report.deaths for report in reports)}"
        + (f"; worst wait {worst:.1f} s" if worst else "")
    )


if __name__ == "__main__":
    sys.exit(main())
