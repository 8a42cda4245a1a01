"""The law of a job: the rows of its input are the rows of its parts and those listed as skipped,
each once. A job that does not keep it does not say that it is done. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polar_ray.data.splits import Split
from polar_ray.errors import JobStopped


@dataclass(frozen=True, slots=True)
class Problem:
    """A split, or a whole file, that cannot be read."""

    what: str
    reason: str
    rows: int | None = None
    """How many it has, where that is known without reading it."""


def check_conserved(
    splits: Mapping[str, Split],
    parts: Mapping[str, int],
    skipped: Iterable[Problem],
    rows: int | None,
) -> None:
    """Raises `JobStopped` unless every row is in one part or listed.

    `splits` by the names of their parts, `parts` with the rows of each, `rows` of the input, None
    where it is not known how many were skipped.
    """
    wrong: list[str] = []
    listed = {problem.what: problem.rows or 0 for problem in skipped}
    for name, split in splits.items():
        if (name in parts) == (str(split) in listed):
            wrong.append(f"{split}: {'in a part and skipped' if name in parts else 'in no part'}")
        elif name in parts and split.rows not in (None, parts[name]):
            wrong.append(f"{split}: {name} has {parts[name]} rows")
    total = sum(parts.values()) + sum(listed.values())
    if rows not in (None, total):
        wrong.append(f"{rows} rows in, {total} out or listed")
    if wrong:
        raise JobStopped(
            f"{len(wrong)} accounts of rows do not agree, such as {wrong[0]}. The job is not done; "
            "run this again"
        )
