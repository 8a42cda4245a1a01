"""Hostile checkpoints: each is refused by a `ConfigError`, or loads and scores; in little time and
memory, and no process dies of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz import hostile_checkpoints as hostile

SEED = 20261122
CASES = int(os.environ.get("FUZZ_CHECKPOINTS", "10000"))
TESTS = Path(__file__).parents[1]


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """What `hostile_checkpoints.py` says at its end, in a process of its own."""
    hostile.make_bases(folder)
    script = [sys.executable, hostile.__file__, str(folder), *map(str, arguments)]
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(script, capture_output=True, text=True, env=env)
    *_, last = done.stdout.splitlines() or ["nothing"]
    assert done.returncode == 0, f"in case {last}: exit {done.returncode}\n{done.stderr[-3000:]}"
    return dict(json.loads(last))


def check(seen: dict[str, Any], count: int) -> None:
    refused = sum(n for name, n in seen.items() if name.endswith("refused"))
    works = sum(n for name, n in seen.items() if name.endswith("works"))
    assert refused + works == count
    assert refused > count / 3 > 0 < works
    assert seen["longest message"] < 2000


def test_some_hundred_hostile_checkpoints(tmp_path: Path) -> None:
    check(run(tmp_path, SEED, 0, 250), 250)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_hostile_checkpoints(tmp_path: Path, figure: Callable[[str], None]) -> None:
    each = max(1, CASES // 4)
    for first in range(0, CASES, each):
        seen = run(tmp_path / str(first), SEED, first, each)
        check(seen, each)
        figure(str(seen))


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.GIANTS)
def test_a_giant_is_refused(tmp_path: Path, name: str, figure: Callable[[str], None]) -> None:
    figure(f"{name}: {run(tmp_path, name)}")
