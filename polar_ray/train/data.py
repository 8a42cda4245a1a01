"""Training data: comparisons, where they are read from, and the steps that are made of them.

A comparison is one prompt and reference with several outputs of known order. Its outputs share one
prefix, which stands in the pack once. Knows nothing of where comparisons come from, nor of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from polar_ray.data.columns import texts, wrappers
from polar_ray.data.rows import Objects
from polar_ray.data.source import Source
from polar_ray.encoding import Encoder
from polar_ray.errors import RecordError
from polar_ray.planning import Pack, build_pack
from polar_ray.planning.trie import common_prefix
from polar_ray.records import WRAPPERS, bad_wrapper, null_field

PREFERENCE_FIELDS = ("prompt", "reference", "chosen", "rejected")

Ids = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Outputs for one prompt and reference; an output of a higher grade is better."""

    prompt: str
    reference: str
    outputs: tuple[str, ...]
    grades: tuple[float, ...]
    wrapper: str = "sft"
    family: str = ""
    """Where it comes from, for reports."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step learns from: a pack, and which of its records must score above which."""

    pack: Pack
    better: Rows
    """int64 [P], the place in `pack.ends` of the better output of each pair."""

    worse: Rows
    """int64 [P]"""

    weights: npt.NDArray[np.float32]
    """float32 [P], 1 over the pairs of the pair's comparison: every comparison counts alike."""

    families: tuple[str, ...]
    """[P], the family of each pair."""


@dataclass(slots=True)
class Drops:
    """Counts what never reached the model."""

    too_long: int = 0
    without_pairs: int = 0
    kept: int = 0


@dataclass(slots=True)
class _Open:
    """A step that is being filled."""

    pieces: list[Ids] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    better: list[int] = field(default_factory=list)
    worse: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    num_tokens: int = 0


def read_preferences(path: str | Path) -> Iterator[Comparison]:
    """POLAR's fine-tuning rows, "prompt", "reference", "chosen" and "rejected", of whatever
    `polar_ray.data` reads: jsonl, parquet and others; a file, a glob, a folder, a URI.

    A field is a string or a list of messages; "wrapper" is optional. Raises `RecordError` that
    names the row and the field.
    """
    at = 0
    for rows in Source(str(path)).chunks():
        fields = {name: texts(rows, name, name) for name in PREFERENCE_FIELDS}
        kinds, odd = wrappers(rows, "wrapper")
        errors = {**odd, **{i: why for _, bad in fields.values() for i, why in bad.items()}}
        errors |= rows.errors
        columns = [column.to_pylist() for column, _ in fields.values()]
        for index, (*values, kind) in enumerate(zip(*columns, kinds.to_pylist(), strict=True)):
            where = rows.places[index] if isinstance(rows, Objects) else f"row {at + 1} of {path}"
            if index in errors:
                raise RecordError(f"{where}: {errors[index]}")
            yield _comparison(dict(zip(PREFERENCE_FIELDS, values, strict=True)), kind, where)
            at += 1


def _comparison(texts: Mapping[str, str | None], wrapper: str | None, where: str) -> Comparison:
    for name, text in texts.items():
        if text is None:
            raise RecordError(f"{where}: {null_field(name)}")
    if wrapper not in (None, *WRAPPERS):
        raise RecordError(f"{where}: {bad_wrapper(wrapper)}")
    return Comparison(
        prompt=str(texts["prompt"]),
        reference=str(texts["reference"]),
        outputs=(str(texts["chosen"]), str(texts["rejected"])),
        grades=(1.0, 0.0),
        wrapper=wrapper or "sft",
        family="preferences",
    )


def pack_steps(
    comparisons: Iterable[Comparison],
    encoder: Encoder,
    *,
    max_tokens: int,
    drops: Drops | None = None,
) -> Iterator[Step]:
    """Steps of at most `max_tokens` tokens each, in the order of the comparisons.

    A comparison that is longer by itself, or that the encoder would cut, is dropped and counted in
    `drops`, and so is one whose grades are all equal.
    """
    drops = Drops() if drops is None else drops
    step = _Open()
    for comparison in comparisons:
        if len(set(comparison.grades)) < 2:
            drops.without_pairs += 1
            continue
        pieces = _pieces(comparison, encoder)
        size = sum(map(len, pieces)) if pieces else 0
        if not pieces or size > max_tokens:
            drops.too_long += 1
            continue
        drops.kept += 1
        if step.num_tokens + size > max_tokens:
            yield _close(step)
            step = _Open()
        _add(step, comparison, pieces)
    if step.pieces:
        yield _close(step)


def _pieces(comparison: Comparison, encoder: Encoder) -> list[Ids]:
    """What all outputs share, then what each has of its own; nothing where a text would be cut."""
    count = len(comparison.outputs)
    table = pa.table(
        {
            "prompt": [comparison.prompt] * count,
            "reference": [comparison.reference] * count,
            "output": list(comparison.outputs),
            "wrapper": [comparison.wrapper] * count,
        }
    )
    encoded = encoder.encode(table)
    if any(row.error or row.truncated for row in encoded):
        return []
    ids = [row.ids for row in encoded]
    # Every row keeps a token of its own.
    shared = min(min(common_prefix(ids[0], row), len(row) - 1) for row in ids)
    return [ids[0][:shared], *(row[shared:] for row in ids)]


def _add(step: _Open, comparison: Comparison, pieces: list[Ids]) -> None:
    root, first = len(step.pieces), len(step.leaves)
    step.pieces += pieces
    step.parents += [-1] + [root] * (len(pieces) - 1)
    step.leaves += range(root + 1, root + len(pieces))
    grades = comparison.grades
    numbers = range(len(grades))
    pairs = [(i, j) for i in numbers for j in numbers if grades[i] > grades[j]]
    step.better += [first + i for i, _ in pairs]
    step.worse += [first + j for _, j in pairs]
    step.weights += [1.0 / len(pairs)] * len(pairs)
    step.families += [comparison.family] * len(pairs)
    step.num_tokens += sum(map(len, pieces))


def _close(step: _Open) -> Step:
    return Step(
        build_pack(step.pieces, step.parents, step.leaves),
        np.asarray(step.better, dtype=np.int64),
        np.asarray(step.worse, dtype=np.int64),
        np.asarray(step.weights, dtype=np.float32),
        tuple(step.families),
    )
