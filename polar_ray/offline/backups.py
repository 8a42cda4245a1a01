"""Backup copies of tasks: which run of calls a task gets next, and when a second task gets the rest
of a run. Pure; time is an argument.

Ray repeats what was lost with a process or a node. It does not tell of a process that is stopped,
or of a node that answers no longer but is not dead yet; those only show in that their tasks report
nothing for far longer than the others did. Calls may be repeated, so the first result counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from polar_ray.data.storage import is_read_from_start
from polar_ray.offline.grouping import BucketSplit
from polar_ray.offline.work import Call

MOST_CALLS = 8
"""Of a run, where the input does not ask for more: they share what was opened and decoded."""

MOST_READINGS = 16
"""Runs for one file that can only be read from its beginning, as each of them does."""

LATE_FACTOR = 2.0
"""A run without a result for so many times the longest that a recent one took is late."""

LEAST_LATE_S = 10.0
FIRST_LATE_S = 600.0
"""The same while there is no result at all to compare with."""

RECENT = 64


@dataclass(slots=True, eq=False)
class Run:
    """Neighbouring calls, which a task does in order."""

    calls: Sequence[Call]
    since_s: float = 0.0
    """When it last had a result, or was given to a task."""

    done: int = 0
    copies: int = 0
    """Tasks that it was given to."""


@dataclass(slots=True, eq=False)
class Copy:
    """A task that does the calls of a run from `at` on."""

    run: Run
    at: int


class Backups:
    """Gives out runs, the late ones more than once."""

    def __init__(self, runs: Iterable[Sequence[Call]]) -> None:
        self._waiting = deque(map(Run, runs))
        self._out: list[Run] = []
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def finished(self) -> bool:
        """All runs are done."""
        return not (self._waiting or self._out)

    def next(self, now_s: float, room: int) -> Copy | None:
        """What a new task is to do while `room` runs may be out; None for nothing at present."""
        if self._waiting and len(self._out) < room:
            run = self._waiting.popleft()
            self._out.append(run)
        else:
            # Where most are late, it is the pool that is: at most a quarter has a backup at once.
            spare = sum(run.copies > 1 for run in self._out) < max(1, room // 4)
            late = (r for r in self._out if self._is_late(r, now_s) and (spare or r.copies > 1))
            if (found := next(late, None)) is None:
                return None
            run = found
        run.copies += 1
        run.since_s = now_s
        return Copy(run, run.done)

    def result(self, copy: Copy, now_s: float) -> Call | None:
        """A task has done its next call; that call, if no other has done it before."""
        run = copy.run
        copy.at += 1
        if copy.at <= run.done:
            return None
        if run.copies == 1:
            self._recent.append(now_s - run.since_s)
        run.done, run.since_s = copy.at, now_s
        if run.done == len(run.calls):
            self._out.remove(run)
        return run.calls[run.done - 1]

    def _is_late(self, run: Run, now_s: float) -> bool:
        longest = max(self._recent, default=FIRST_LATE_S / LATE_FACTOR)
        late_s = max(LEAST_LATE_S, LATE_FACTOR * longest)
        return now_s - run.since_s > late_s * (1 << run.copies - 1)


def runs(calls: Sequence[Call], room: int) -> list[Sequence[Call]]:
    """Calls in runs of neighbours: those of one bucket together, those of one file as many as leave
    enough runs for `room` tasks, and more of one that is read from its start."""
    even = min(MOST_CALLS, max(1, len(calls) // (4 * room)))
    found: list[Sequence[Call]] = []
    for path, group in groupby(calls, _origin):
        same = list(group)
        step = even
        if isinstance(same[0].splits[0], BucketSplit):
            step = len(same)
        elif is_read_from_start(path):
            step = max(even, -(-len(same) // MOST_READINGS))
        found += [same[at : at + step] for at in range(0, len(same), step)]
    return found


def _origin(call: Call) -> str:
    """The file or bucket that a call begins with."""
    first = call.splits[0]
    return str(first.bucket) if isinstance(first, BucketSplit) else first.path
