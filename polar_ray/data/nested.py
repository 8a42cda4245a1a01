"""Arrow columns with other leaves: what lists, structs and maps hold is changed, they stay.

Arrow's own casts (26) lack types, crash at views with nonsense in the place of a null, and leave
the offsets of views of lists without their end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = "pa.Array | pa.ChunkedArray"

VIEWS_OF_LISTS = {pa.types.is_list_view: pa.list_, pa.types.is_large_list_view: pa.large_list}
LISTS = {pa.types.is_list: pa.list_, pa.types.is_large_list: pa.large_list, **VIEWS_OF_LISTS}


def retyped(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with other leaves. Dictionaries are what they hold, views of lists are lists."""
    if pa.types.is_dictionary(kind):
        return retyped(kind.value_type, leaf)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(retyped(field.type, leaf)) for field in kind])
    if pa.types.is_map(kind):
        inner = [f.with_type(retyped(f.type, leaf)) for f in (kind.key_field, kind.item_field)]
        return pa.map_(*inner, kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        field = kind.value_field
        return pa.list_(field.with_type(retyped(field.type, leaf)), kind.list_size)
    for of, make in LISTS.items():
        if of(kind):
            return make(kind.value_field.with_type(retyped(kind.value_type, leaf)))
    return leaf(kind)


def rebuilt(
    column: Column, wanted: pa.DataType, leaf: Callable[[pa.Array, pa.DataType], pa.Array]
) -> Column:
    """The values of a column in the type that `retyped` made of its own; `leaf` gives those of
    leaves whose type is another now."""
    kind = column.type
    if kind == wanted:
        return column
    if isinstance(column, pa.ChunkedArray):
        chunks = [rebuilt(chunk, wanted, leaf) for chunk in column.chunks]
        return pa.chunked_array(chunks, wanted)
    if not len(column):
        return pa.nulls(0, wanted)
    if pa.types.is_dictionary(kind):
        return rebuilt(column.dictionary_decode(), wanted, leaf)
    nulls = column.is_null()
    if pa.types.is_struct(kind):
        inner = [rebuilt(column.field(i), field.type, leaf) for i, field in enumerate(wanted)]
        return pa.StructArray.from_arrays(inner, fields=list(wanted), mask=nulls)
    if pa.types.is_fixed_size_list(kind):
        if not (size := kind.list_size):
            return pa.array(column.to_pylist(), wanted)
        values = column.values.slice(column.offset * size, len(column) * size)
        values = rebuilt(values, wanted.value_type, leaf)
        return pa.FixedSizeListArray.from_arrays(values, type=wanted, mask=nulls)
    if any(of(kind) for of in VIEWS_OF_LISTS):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        values = rebuilt(column.flatten(), wanted.value_type, leaf)
        return _lists(wanted, np.cumsum([0, *lengths]), [values], nulls)
    if pa.types.is_map(kind) or any(of(kind) for of in LISTS):
        offsets = column.offsets.to_numpy()
        first, size = offsets[0], offsets[-1] - offsets[0]
        parts = (
            [(column.keys, wanted.key_type), (column.items, wanted.item_type)]
            if pa.types.is_map(kind)
            else [(column.values, wanted.value_type)]
        )
        inner = [rebuilt(part.slice(first, size), of, leaf) for part, of in parts]
        return _lists(wanted, offsets - first, inner, nulls)
    return leaf(column, wanted)


def _lists(
    wanted: pa.DataType, offsets: np.ndarray, inner: list[pa.Array], nulls: pa.Array
) -> pa.Array:
    if pa.types.is_map(wanted):
        make = pa.MapArray
    else:
        make = pa.LargeListArray if pa.types.is_large_list(wanted) else pa.ListArray
    ends = pa.array(offsets, pa.int64() if pa.types.is_large_list(wanted) else pa.int32())
    return make.from_arrays(ends, *inner, type=wanted, mask=nulls)
