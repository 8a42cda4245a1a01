"""Bugs planted in a copy of the package, to see that the simulator finds each kind.

`python tests/simulation/planted.py` says after how many schedules. A bug that is not found, or whose
place in the code is gone, fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bug:
    """A change of one file; `before` stands there exactly once."""

    name: str
    file: str
    before: str
    after: str
    scenario: str | None = None


DISPATCHER = "polar_ray/pool/dispatcher.py"
ISOLATION = "polar_ray/pool/isolation.py"
WORK = "polar_ray/pool/work.py"

BUGS = (
    Bug(
        "a slot is released by the attempt's own coroutine, which may be cancelled before it begins",
        DISPATCHER,
        """        attempt.task = asyncio.ensure_future(self._send(attempt))
        # A callback runs whatever becomes of the task, also if it is cancelled before it begins.
        attempt.task.add_done_callback(partial(self._on_done, attempt))
""",
        """        async def flight():
            task = asyncio.ensure_future(self._send(attempt))
            try:
                return await task
            finally:
                asyncio.get_running_loop().call_soon(self._on_done, attempt, attempt.task)
        attempt.task = asyncio.ensure_future(flight())
""",
    ),
    Bug(
        "late work goes to one replica after the other",
        DISPATCHER,
        """        if self._isolation.blame(parcel, attempt.member.name, now):
            self._suspect(parcel)
        elif sum(a.stalled for a in parcel.attempts) == 1:
            self._give_up_on(attempt)
""",
        """        self._give_up_on(attempt)
""",
        "hanging",
    ),
    Bug(
        "a record is convicted by deaths alone, whatever else died",
        ISOLATION,
        """        if self.losses.others(trial.parcel, trial.began - GRACE_S):
            return Verdict.VOID
        if trial.all_witnesses_live():
            return Verdict.LOST
        return Verdict.VOID if now > trial.lost_at + WITNESS_S else None
""",
        """        return Verdict.LOST
""",
    ),
    Bug(
        "what was lost with its neighbours convicts a record",
        ISOLATION,
        "if found is Verdict.LOST and trial.parcel.num_rows == 1:",
        "if found is Verdict.LOST:",
    ),
    Bug(
        "a trial begins at a replica that other routers use",
        "polar_ray/pool/reservation.py",
        "            await self._idle.wait()\n        except",
        "            pass\n        except",
    ),
    Bug(
        "a quarantined row has the provenance of whoever serves now",
        DISPATCHER,
        'call.result(self._provenance.get(call.digest or "", self._served or {}))',
        "call.result(self._served or {})",
    ),
    Bug(
        "rows in another order are delivered",
        WORK,
        "ids.null_count or not np.array_equal(ids.to_numpy(), self._row_ids())",
        "ids.null_count",
    ),
    Bug(
        "a result is not looked at",
        WORK,
        "        check_scores(result, self.num_rows)\n",
        "",
    ),
    Bug(
        "results of two models are merged",
        DISPATCHER,
        "            if item.call.digest == member.digest:\n",
        "            if True:\n",
    ),
    Bug(
        "a row is answered twice",
        WORK,
        "        still = self.open[rows]\n        if not still.all():",
        "        still = self.open[rows]\n        if False:",
    ),
    Bug(
        "repeats have no budget",
        DISPATCHER,
        "        if self._budget.spend(self._clock()):\n",
        "        if True:\n",
        "storm",
    ),
    Bug(
        "what expired stays in the queue",
        DISPATCHER,
        "        self._queue.drop_answered()\n",
        "",
    ),
    Bug(
        "work that Serve cancelled is forgotten",
        DISPATCHER,
        "            if not attempt.cancelled:\n",
        "            if False:\n",
    ),
    Bug(
        "who refused once is never asked again",
        DISPATCHER,
        "        attempt.member.serving = False\n        parcel",
        "        self._members.pop(attempt.member.name, None)\n        parcel",
    ),
    Bug(
        "an error is told to all callers of a parcel",
        DISPATCHER,
        "        if len(parcel.items) > 1 and parcel.failures > 1:\n",
        "        if False:\n",
    ),
    Bug(
        "a silent replica keeps its work",
        DISPATCHER,
        """        for attempt in list(member.attempts):
            self._stall(attempt, now)
""",
        "",
    ),
    Bug(
        "a replica that does not answer is asked once only",
        DISPATCHER,
        "            if not member.available:\n                self._heartbeats.ask(member, now)\n",
        "            pass\n",
    ),
    Bug(
        "postponed repeats are lost",
        DISPATCHER,
        "            self._queue.push(self._postponed.popleft())\n",
        "            self._postponed.popleft()\n",
        "storm",
    ),
    Bug(
        "a reservation that nobody used is never over",
        "polar_ray/pool/reservation.py",
        "        self._open_after(RESERVED_S)\n",
        "",
    ),
)


def find(bug: Bug, schedules: int) -> str | None:
    """What the simulator says of a copy with the bug; None if it finds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / "polar_ray", copy / "polar_ray", ignore=ignored)
        shutil.copytree(ROOT / "tests" / "simulation", copy / "tests" / "simulation")
        path = copy / bug.file
        text = path.read_text()
        if text.count(bug.before) != 1:
            raise SystemExit(f"{bug.name}: its place in {bug.file} is gone")
        path.write_text(text.replace(bug.before, bug.after))
        command = [sys.executable, "tests/simulation", "0", "--schedules", str(schedules)]
        command += ["--scenario", bug.scenario] if bug.scenario else []
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        told = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        return None if told.returncode == 0 else (told.stdout or told.stderr[-500:])


def main() -> int:
    """Exit code 1 where a bug is not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=400, help="for each bug at most")
    parser.add_argument("--only", default="", help="bugs whose names hold this")
    given = parser.parse_args()
    missed = 0
    for bug in BUGS:
        if given.only not in bug.name:
            continue
        told = find(bug, given.schedules)
        missed += told is None
        kind = f" ({bug.scenario})" if bug.scenario else ""
        shown = re.sub(r"\s+", " ", told or f"NOT FOUND in {given.schedules} schedules")
        sys.stdout.write(f"{bug.name}{kind}: {shown[:160]}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
