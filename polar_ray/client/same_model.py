"""One job, one model: whether results of several calls may stand side by side.

Each result of a pool is of one model. A job that makes several calls has to look itself, as the
pool may be updated between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from polar_ray.errors import ModelChanged
from polar_ray.scores import provenance

NAME = "model"
"""What a model is called where it was loaded; the digest says which it is."""


def check_same_model(made_by: Mapping[str, str], result: pa.Table, where: str) -> None:
    """Raises `ModelChanged` if a result's scores do not compare with those of `made_by`: another
    model, template, encoding, engine or dtype. `where` says which result this is."""
    now = provenance(result)
    changed = [
        key
        for key in sorted({*made_by, *now} - {NAME})
        if made_by.get(key, "unknown") != now.get(key, "unknown")
    ]
    if changed:
        raise ModelChanged(
            f"the pool's model changed {where}: {_shown(made_by, changed)} became "
            f"{_shown(now, changed)}"
        )


class OneModel:
    """Passes on results that are of the model of the first; for rows in order."""

    def __init__(self) -> None:
        self._made_by: dict[str, str] | None = None
        self.num_rows = 0
        """Of the results that have been passed on."""

    def check(self, result: pa.Table) -> pa.Table:
        """The same result; raises `ModelChanged`, which names the row and both models."""
        if self._made_by is None:
            self._made_by = provenance(result)
        check_same_model(self._made_by, result, f"at row {self.num_rows} (counted from 0)")
        self.num_rows += result.num_rows
        return result


def _shown(made_by: Mapping[str, str], changed: list[str]) -> str:
    facts = [f"{key} {made_by.get(key, 'unknown')}" for key in changed]
    return f"{made_by.get(NAME, 'unknown')} ({', '.join(facts)})"
