"""The rows of the benchmark, which nobody has scored before, and how many are in flight.

Pure: no pool, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Row = dict[str, str]

GROUP = 8
"""Candidates of one prompt and reference."""

VOCABULARY = (
    "river stone lamp garden bridge market letter window engine harvest signal morning "
    "winter castle basket copper meadow ladder village thunder pocket ribbon saddle velvet"
)
THINGS = VOCABULARY.split()


@dataclass(frozen=True, slots=True)
class Stage:
    """So many rows in flight, from so many processes."""

    in_flight: int
    processes: int

    @property
    def each(self) -> int:
        """Rows in flight of one process."""
        return self.in_flight // self.processes

    def __str__(self) -> str:
        return f"{self.in_flight}:{self.processes}"


def read_stages(text: str) -> list[Stage]:
    """ "64:1,512:8" -> stages; `ValueError` where one has no whole group for each process."""
    stages = []
    for part in text.split(","):
        rows, _, processes = part.partition(":")
        stage = Stage(int(rows), int(processes or "1"))
        if stage.processes < 1 or stage.in_flight % (stage.processes * GROUP):
            raise ValueError(f"{part!r}: rows in flight come in groups of {GROUP} a process")
        stages.append(stage)
    return stages


def rows(first: int, count: int) -> list[Row]:
    """`count` rows in whole groups, the first of which has the number `first`."""
    return [row for number in range(first, first + count // GROUP) for row in _group(number)]


def _group(number: int) -> list[Row]:
    """Rows that share a prompt and a reference, which those of other numbers do not."""
    chance = Random(number)
    prompt = f"{_sentence(chance, 5)} Describe place {number}."
    reference = _sentence(chance, 40)
    outputs = (_sentence(chance, chance.randrange(20, 50)) for _ in range(GROUP))
    return [{"prompt": prompt, "reference": reference, "output": output} for output in outputs]


def dealt(first: int, stage: Stage, total: int) -> list[tuple[int, int]]:
    """For each process the number of its first group and how many rows it has of `total`, which is
    rounded to whole groups and to what is in flight at the least."""
    each = max(stage.each, total // stage.processes // GROUP * GROUP)
    groups = each // GROUP
    return [(first + groups * process, each) for process in range(stage.processes)]


def batches(found: Sequence[Row], size: int) -> list[list[Row]]:
    """The rows in batches of whole groups."""
    size = max(GROUP, size // GROUP * GROUP)
    return [list(found[at : at + size]) for at in range(0, len(found), size)]


def _sentence(chance: Random, words: int) -> str:
    return " ".join(chance.choice(THINGS) for _ in range(words)).capitalize() + "."
