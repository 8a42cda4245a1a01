"""Result tables: one row for each record, with a finite score or an error that says why not.

Never both, never neither, never a NaN, in request order. The metadata say what made the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.errors import row_error

SCORE_SCHEMA = pa.schema(
    [
        pa.field("score", pa.float32()),
        pa.field("error", pa.string()),
        pa.field("truncated", pa.bool_()),
        pa.field("num_tokens", pa.int32()),
        pa.field("control_text", pa.bool_()),
    ]
)
"""One row per request row, in order. An `id` column stands first where the request had one.

`control_text` is true where a field spelled a control token (a reward hack, or an accident): the
text was scored as plain text.
"""

METADATA_PREFIX = "polar_ray."

BATCHING_TOLERANCE = 1e-5
"""How far a record's score may move in float32 with what it was batched with: sums are taken in
another order. Scores that are no further apart say nothing about which record is better."""


def score_table(
    scores: npt.NDArray[np.float32],
    errors: Sequence[str | None],
    *,
    truncated: Sequence[bool],
    num_tokens: Sequence[int],
    control_text: Sequence[bool],
    ids: pa.ChunkedArray | None = None,
    provenance: Mapping[str, str] | None = None,
) -> pa.Table:
    """The result table of one batch; every argument is one value per row.

    A score that is not finite becomes a `nonfinite_score` error: no NaN leaves this function.
    """
    finite = np.isfinite(scores)
    texts = [
        error
        if error is not None or ok
        else row_error("nonfinite_score", f"the model returned {value}")
        for error, ok, value in zip(errors, finite, scores, strict=True)
    ]
    unscored = np.array([text is not None for text in texts], dtype=bool)
    columns = {
        "score": pa.array(scores, pa.float32(), mask=unscored),
        "error": pa.array(texts, pa.string()),
        "truncated": pa.array(truncated, pa.bool_()),
        "num_tokens": pa.array(num_tokens, pa.int32()),
        "control_text": pa.array(control_text, pa.bool_()),
    }
    table = pa.table(columns, schema=SCORE_SCHEMA)
    if ids is not None:
        table = table.add_column(0, "id", ids)
    metadata = {f"{METADATA_PREFIX}{key}": value for key, value in (provenance or {}).items()}
    return table.replace_schema_metadata(metadata)


def empty_scores(provenance: Mapping[str, str] | None = None) -> pa.Table:
    """The result table of a batch without records."""
    none = np.empty(0, dtype=np.float32)
    return score_table(
        none, [], truncated=[], num_tokens=[], control_text=[], provenance=provenance
    )


def poisoned_scores(provenance: Mapping[str, str], num_rows: int = 1) -> pa.Table:
    """The result of records that end every process that scores them; `provenance` is that of the
    results around them."""
    sentence = "processes died whenever they scored this record; drop it"
    return score_table(
        np.full(num_rows, np.nan, np.float32),
        [row_error("poison", sentence)] * num_rows,
        truncated=[False] * num_rows,
        num_tokens=[0] * num_rows,
        control_text=[False] * num_rows,
        provenance=provenance,
    )


def with_row_errors(scores: pa.Table, errors: Mapping[int, str]) -> pa.Table:
    """The same result with the reasons of `Batch.errors` in place of the replica's own."""
    if not errors:
        return scores
    rows = sorted(errors)
    replaced = np.zeros(scores.num_rows, np.bool_)
    replaced[rows] = True
    texts = pc.replace_with_mask(
        scores["error"].combine_chunks(), replaced, pa.array([errors[i] for i in rows], pa.string())
    )
    at = scores.column_names.index("error")
    return scores.set_column(at, SCORE_SCHEMA.field("error"), texts)


def check_scores(table: pa.Table, num_rows: int) -> pa.Table:
    """`table` itself, if it keeps the contract of a result for `num_rows` rows.

    Raises `ValueError` otherwise: a result that breaks the contract is a bug of its maker.
    """
    bare = table.drop_columns(["id"]) if "id" in table.column_names else table
    if not bare.schema.equals(SCORE_SCHEMA):
        raise ValueError(f"result columns are {table.schema.names}, not {SCORE_SCHEMA.names}")
    if table.num_rows != num_rows:
        raise ValueError(f"{table.num_rows} result rows for {num_rows} records")
    scored = pc.is_valid(table["score"])
    if not pc.all(pc.xor(scored, pc.is_valid(table["error"])), min_count=0).as_py():
        raise ValueError("a result row must have either a score or an error")
    if not pc.all(pc.is_finite(table["score"]), min_count=0).as_py():
        raise ValueError("a score is not finite")
    return table


def provenance(table: pa.Table) -> dict[str, str]:
    """What scored this table (model digest, template version, engine, dtype), from its metadata."""
    pairs = ((k.decode(), v.decode()) for k, v in (table.schema.metadata or {}).items())
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in pairs
        if key.startswith(METADATA_PREFIX)
    }
