"""Rows of parquet files, from a row group on, whose footers are not believed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.arrow import checked
from polar_ray.data.rows import BATCH_ROWS


def open_parquet(source: Any, row: int = 0) -> tuple[list[int], int, Iterator[pa.RecordBatch]]:
    """First rows of all row groups, that of the group which holds `row`, and rows from there on."""
    file = pq.ParquetFile(source)
    sizes = group_sizes(file.metadata)
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    first = max((i for i, at in enumerate(starts) if at <= row), default=0)
    batches = chain.from_iterable(  # no batch crosses a border: one may be damaged
        _group(file, group, sizes[group]) for group in range(first, len(sizes))
    )
    begin = starts[first] if starts else 0
    return starts, begin, checked(batches, begin)


def group_sizes(metadata: Any) -> list[int]:
    """The rows of each row group. Raises `ValueError` where a footer contradicts itself."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [group.num_rows for group in groups]
    if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
        raise ValueError(
            f"its footer says that it has {metadata.num_rows:,} rows, and of its row groups "
            f"{sum(sizes):,}"
        )
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    flat = [i for i, column in enumerate(columns) if not column.max_repetition_level]
    for number, group in enumerate(groups):
        for values in (group.column(i).num_values for i in flat):
            if values != group.num_rows:
                raise ValueError(
                    f"its footer says that row group {number} has {group.num_rows:,} rows, and of "
                    f"a column in it {values:,}"
                )
    return sizes


def _group(file: Any, group: int, rows: int) -> Iterator[pa.RecordBatch]:
    found = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
        found += batch.num_rows
        yield batch
    if found != rows:
        raise ValueError(f"row group {group} has {found:,} rows; its footer says {rows:,}")
