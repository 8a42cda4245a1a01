"""The measurements for a lent GPU, on a CPU: every step runs, and none can spoil another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import pytest
from engines.steps import Report


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("command", gpu.COMMANDS)
def test_every_step_runs_on_a_cpu(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"gpu.py {command} --device cpu --shapes tiny --quick --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    assert gpu.main() == 0
    steps = read(tmp_path / f"{command}.json")
    assert len(steps) >= 7
    assert all("found" in step for step in steps.values()), steps


def test_a_step_that_fails_leaves_its_error_and_stops_no_other(tmp_path: Path) -> None:
    report = Report(tmp_path / "deep" / "report.json", seconds=60)
    report.step("first", lambda: {"a": 1})
    report.step("second", lambda: 1 / 0)
    after_two = read(report.path)
    report.step("third", lambda: [3])
    assert after_two["first"]["found"] == {"a": 1}
    assert after_two["second"]["error"] == "ZeroDivisionError: division by zero"
    assert read(report.path)["third"]["found"] == [3]
    assert report.failed == ["second"]


def test_no_step_begins_when_time_is_over(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", seconds=-1)
    report.step("late", lambda: pytest.fail("it began"))
    assert read(report.path)["late"]["left out"] == "-1 s were over"
    assert not report.failed


def test_wheels_are_those_of_the_machine_with_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "wheels", "--python", "3.12"])
    assert gpu.main() == 0
    [command] = ran
    assert command[-len(gpu.WHEELS) :] == gpu.WHEELS
    assert command[command.index("--python-version") + 1] == "3.12"
    assert "manylinux2014_x86_64" in command


def test_nothing_is_imported_that_does_not_travel() -> None:
    """But for torch, transformers in its own step, and what these bring."""
    code = (
        "import sys; import torch; before = set(sys.modules); "
        "import gpu, engines.gpu_checks, engines.gpu_rates, engines.made, engines.steps; "
        "new = {n.split('.')[0] for n in set(sys.modules) - before} - {'torch', 'triton'}; "
        "print(sorted(n for n in new if 'site-packages' in "
        "str(getattr(sys.modules[n], '__file__', ''))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(gpu.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    travels = {name.replace("-", "_") for name in gpu.WHEELS}
    assert set(json.loads(done.stdout.replace("'", '"'))) <= travels
