"""Bugs planted in a copy of the package, to see that the simulator finds each kind.

`python tests/simulation/planted.py` says after how many schedules. A bug that is not found, or
whose place in the code is gone, fails.
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


Edit = tuple[str, str, str]
"""A file, what stands there exactly once, and what takes its place."""


@dataclass(frozen=True)
class Bug:
    """Edits of the package, and the kind of schedules that is to find it."""

    name: str
    edits: tuple[Edit, ...]
    scenario: str | None = None


def bug(name: str, file: str, before: str, after: str, scenario: str | None = None) -> Bug:
    """A bug of one edit."""
    return Bug(name, ((f"polar_ray/pool/{file}", before, after),), scenario)


BUGS = (
    bug(
        "a slot is released by the attempt's own coroutine, which may be cancelled before it runs",
        "router/dispatcher.py",
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
    bug(
        "late work goes to one replica after the other",
        "router/recovery.py",
        """            if not suspected and sum(other.stalled for other in parcel.attempts) == 1:
                self._give_up_on(attempt)
""",
        """            parcel.superseded = False
            self._give_up_on(attempt)
""",
        "hanging",
    ),
    bug(
        "late work is never repeated",
        "router/recovery.py",
        "        self._find_overdue(list(attempts), now)\n",
        "",
        "hanging",
    ),
    Bug(
        "records are reported for deaths alone, whatever else died",
        (
            (
                "polar_ray/pool/router/losses.py",
                """        return sum(
            loss.at >= since and not loss.explained and parcel.family not in loss.families
            for loss in self._losses
        )
""",
                """        return 0
""",
            ),
            (
                "polar_ray/pool/router/isolation.py",
                "return all(witness.heard_at > self.lost_at for witness in self.witnesses)",
                "return True",
            ),
        ),
        "storm",
    ),
    bug(
        "a record is reported for what was lost with its neighbours",
        "router/isolation.py",
        "        if found is TrialResult.LOST and trial.parcel.num_rows == 1:\n",
        "        if found is TrialResult.LOST:\n",
        "weather",
    ),
    bug(
        "a trial begins at a replica where other routers have work",
        "replica/reservation.py",
        "            await self._idle.wait()\n            await drained()\n",
        "            pass\n",
        "weather",
    ),
    Bug(
        "a quarantined row has the provenance of whoever serves now, and is merged first",
        (
            (
                "polar_ray/pool/router/dispatcher.py",
                "self._membership.provenance(call.digest)",
                "self._membership.provenance(None)",
            ),
            (
                "polar_ray/pool/router/call.py",
                "answers.append((rows, poisoned_scores(served, len(rows))))",
                "answers.insert(0, (rows, poisoned_scores(served, len(rows))))",
            ),
        ),
        "updates",
    ),
    bug(
        "rows in another order are delivered",
        "router/work.py",
        "ids.null_count or not np.array_equal(ids.to_numpy(), self._row_ids())",
        "ids.null_count",
    ),
    bug(
        "a result is not looked at",
        "router/work.py",
        "        check_scores(result, self.num_rows)\n",
        "",
    ),
    bug(
        "results of two models are merged",
        "router/dispatcher.py",
        "            if item.call.digest == member.digest:\n",
        "            if True:\n",
    ),
    bug(
        "postponed repeats are lost",
        "router/retries.py",
        "            self._queue.push(self._postponed.popleft())\n",
        "            self._postponed.popleft()\n",
        "storm",
    ),
    bug(
        "work that Serve cancelled is forgotten",
        "router/dispatcher.py",
        "            if attempt.cancelled:\n",
        "            if True:\n",
    ),
    bug(
        "who refused once is never asked again",
        "router/recovery.py",
        "        attempt.member.serving = False\n",
        "        self.membership.members.pop(attempt.member.name, None)\n",
    ),
    bug(
        "an error is told to all callers of a parcel",
        "router/recovery.py",
        "        if len(parcel.items) > 1 and parcel.failures > 1:\n",
        "        if False:\n",
        "failing",
    ),
    bug(
        "a replica that once did not answer is never asked again",
        "router/membership.py",
        """            if member.available:
                member.available_at = now
            else:
                self._heartbeats.ask(member, now)
""",
        """            member.available_at = now
""",
    ),
    bug(
        "who leaves takes along what was known of the record",
        "router/dispatcher.py",
        "                attempt.member.abandoned.append(attempt)\n",
        "                pass\n",
        "impatient",
    ),
    bug(
        "a swapped model is not noticed",
        "router/membership.py",
        '        member.digest = served.get("model_digest", "")\n',
        '        member.digest = member.digest or served.get("model_digest", "")\n',
    ),
)


def find(planted: Bug, schedules: int) -> str | None:
    """What the simulator says of a copy with the bug; None if it finds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / "polar_ray", copy / "polar_ray", ignore=ignored)
        shutil.copytree(ROOT / "tests" / "simulation", copy / "tests" / "simulation")
        shutil.copy(ROOT / "tests" / "parcels.py", copy / "tests")
        for file, before, after in planted.edits:
            text = (copy / file).read_text()
            if text.count(before) != 1:
                raise SystemExit(f"{planted.name}: its place in {file} is gone")
            (copy / file).write_text(text.replace(before, after))
        command = [sys.executable, "tests/simulation", "0", "--schedules", str(schedules)]
        command += ["--scenario", planted.scenario] if planted.scenario else []
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
    for planted in BUGS:
        if given.only not in planted.name:
            continue
        told = find(planted, given.schedules)
        missed += told is None
        kind = f" ({planted.scenario})" if planted.scenario else ""
        shown = re.sub(r"\s+", " ", told or f"NOT FOUND in {given.schedules} schedules")
        sys.stdout.write(f"{planted.name}{kind}: {shown[:160]}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
