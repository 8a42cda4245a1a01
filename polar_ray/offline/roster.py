"""Roster: which worker does what next, and what becomes of a call whose worker died.

Pure decisions; `offline.cluster` acts on them. A call that lost a worker goes on alone, so that the
next death is its own. A unit that loses two is scored in pieces, which are cut until the record
that ends its workers is alone: that one is given up (`poison` in its row), and the unit's part is
written from the pieces. One such record among 4096 costs five workers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from polar_ray.errors import JobStopped
from polar_ray.offline.crew import Call
from polar_ray.offline.work import Problem
from polar_ray.planning.bisect import cut, is_guilty

logger = logging.getLogger(__name__)

LOSSES_WHOLE = 2
"""Workers that died under a unit, the second with nothing else in hand, before it is cut."""

MOST_LOSSES = 32
"""Workers that one unit may cost before the job stops: ten records that end them, or ill workers
which no record is to blame for."""

MOST_REPEATS = 4
"""Workers that may die under a call that is not cut: it reads, and reading the same kills again."""


@dataclass(slots=True, eq=False)
class Case:
    """A call of the job, and the pieces in which it is done if it is cut."""

    call: Call
    losses: int = 0
    closed: bool = False
    num_open: int = 0
    """Pieces without a result."""

    scores: dict[int, pa.Table | None] = field(default_factory=dict)
    """Results of pieces by their first row; None for a record that is given up."""


@dataclass(slots=True, eq=False)
class Task:
    """What a worker has in hand: a call of the job, or one towards it."""

    case: Case
    call: Call
    rows: range | None = None
    """Of a piece, within its unit."""

    losses: int = 0

    @property
    def alone(self) -> bool:
        """It must have a worker for itself."""
        return self.case.losses > 0


class Roster:
    """Tasks of `num_workers` workers, numbered from 0, `in_flight` at once for each."""

    def __init__(self, calls: Iterable[Call], num_workers: int, in_flight: int) -> None:
        self._waiting = iter(calls)
        self._upcoming = next(self._waiting, None)
        self._suspects: deque[Task] = deque()
        self._in_flight = in_flight
        self._held: list[list[Task]] = [[] for _ in range(num_workers)]
        self._away: set[int] = set()
        self._gone: set[int] = set()

    @property
    def finished(self) -> bool:
        """Nothing is in hand and nothing waits."""
        return not (any(self._held) or self._suspects or self._upcoming)

    def next(self) -> tuple[Task, int] | None:
        """A task and the worker that is to do it now; None while all have enough."""
        held = self._held
        here = [i for i in range(len(held)) if i not in self._away]
        fewest = min(here, key=lambda i: len(held[i]), default=None)
        if fewest is None:
            return None
        if self._suspects:
            if not held[fewest]:
                return self._give(self._suspects.popleft(), fewest)
            # It gets nothing more until it is empty; the others go on.
            here.remove(fewest)
        free = [
            i for i in here if len(held[i]) < self._in_flight and not any(t.alone for t in held[i])
        ]
        call = self._upcoming
        if call is None or not free:
            return None
        self._upcoming = next(self._waiting, None)
        return self._give(Task(Case(call), call), min(free, key=lambda i: len(held[i])))

    def _give(self, task: Task, worker: int) -> tuple[Task, int]:
        self._held[worker].append(task)
        return task, worker

    def away(self, worker: int) -> bool:
        """A worker is on its way back and gets nothing. False where that was known."""
        known = worker in self._away
        self._away.add(worker)
        return not known

    def back(self, worker: int) -> None:
        """A worker is there again."""
        self._away.discard(worker)

    def gone(self, worker: int, why: str) -> None:
        """A worker does not come back. Raises `JobStopped` where it was the last."""
        self._gone.add(worker)
        logger.warning("a worker does not come back: %s", why)
        if len(self._gone) == len(self._held):
            raise JobStopped(f"no worker is left: {why}")

    def done(self, task: Task, result: Any) -> tuple[Call, Any] | None:
        """Takes a task's result; the call of the job and its result where that ends it."""
        self._release(task)
        case = task.case
        if case.closed:
            return None
        if task.rows is not None and not isinstance(result, Problem):
            self._score(case, task.rows, result)
        elif task.call.method == "count" and not isinstance(result, Problem):
            self._try(case, range(result))
        else:
            case.closed = True
            return case.call, result
        return None

    def lost(self, task: Task, why: str) -> None:
        """A worker died with this task in hand. Raises `JobStopped` when that happened too often.

        A worker that is cut off counts as dead; Ray does not tell one from the other. Nobody is
        convicted by that alone, since a record must lose five workers one after the other.
        """
        self._release(task)
        case, rows = task.case, task.rows
        case.losses += 1
        task.losses += 1
        if case.closed:
            return
        what = case.call.arguments[0]
        if case.losses >= MOST_LOSSES:
            raise JobStopped(
                f"{what} lost its worker {case.losses} times: either many of its records end "
                f"whoever scores them, or the workers are ill; the last time: {why}"
            )
        if rows is not None and is_guilty(case.losses, len(rows)):
            logger.warning("row %d of %s ends its workers and is given up", rows.start, what)
            self._score(case, rows, None)
        elif rows is not None:
            case.num_open -= 1
            self._try(case, rows)
        elif task.call.method == "score" and case.losses >= LOSSES_WHOLE:
            self._suspects.append(Task(case, Call("count", case.call.arguments)))
        elif task.losses >= MOST_REPEATS:
            raise JobStopped(f"{what} lost its worker {task.losses} times: {why}")
        else:
            self._suspects.append(task)

    def _release(self, task: Task) -> None:
        for held in self._held:
            if task in held:
                held.remove(task)

    def _try(self, case: Case, rows: range) -> None:
        """Has rows scored in pieces."""
        pieces = cut(rows)
        case.num_open += len(pieces)
        for piece in pieces:
            call = Call("score_rows", (*case.call.arguments, piece.start, piece.stop))
            self._suspects.append(Task(case, call, piece))
        self._join(case)

    def _score(self, case: Case, rows: range, scores: pa.Table | None) -> None:
        case.scores[rows.start] = scores
        case.num_open -= 1
        self._join(case)

    def _join(self, case: Case) -> None:
        if case.num_open == 0:
            pieces = tuple(case.scores[first] for first in sorted(case.scores))
            self._suspects.append(Task(case, Call("join", (*case.call.arguments, pieces))))
