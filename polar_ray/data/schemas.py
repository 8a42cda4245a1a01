"""The columns of several files together, in types in which no value changes. Knows no values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import pyarrow as pa

from polar_ray.data.json_columns import is_json, json_field, why_not_json
from polar_ray.data.kinds import MOST_TEXT_DEPTH, Kinds
from polar_ray.errors import ConfigError

Held: TypeAlias = "pa.Schema | Kinds"
"""What is known of the columns of a file: of Arrow's types, or as JSON."""


def together(found: Sequence[tuple[str, Held]], *, likely: bool = False) -> pa.Schema:
    """The columns of files, each with its name: those in which every value stays as it is or, if
    `likely`, those in which a record's are to be found. Raises `ConfigError` where there is no such
    type for a column."""
    kinds = Kinds()
    for where, one in found:
        if isinstance(one, Kinds):
            if not likely and one.too_deep is not None:
                raise ConfigError(
                    f"column {one.too_deep!r:.80} of {where} has more than {MOST_TEXT_DEPTH} lists "
                    "and objects within each other; leave it out"
                )
            kinds.merge(one)
    json = kinds.likely() if likely else kinds.schema()
    named = [(name, json if isinstance(one, Kinds) else one) for name, one in found]
    for name, schema in named:
        _check_names(name, schema)
    texts = {field.name for _, schema in named for field in schema if is_json(field)}
    try:
        try:
            whole = _unified(named, texts)
        except pa.ArrowException:
            if not likely:
                raise
            whole = _unified(named, texts | _of_several_kinds(named))
    except pa.ArrowException as error:
        names = ", ".join(name for name, _ in found[:3])
        raise ConfigError(
            f"the files differ in their columns ({names}): {error}; read them one by one"
        ) from None
    if not likely:
        _check_lossless(named, whole)
    fields = [
        f.with_type(pa.string()) if f.type == pa.null() and f.name in kinds.columns else f
        for f in whole
    ]
    # A row that another file has, or that cannot be read, is null in every column.
    return pa.schema([field.with_nullable(True) for field in fields])


def refusal(field: pa.Field, why: str, files: Sequence[tuple[str, Held]]) -> ConfigError:
    """The error for a column that would not leave as it came: its name, the first of the `files`
    that has it, its type, and what to do."""
    owner = next((f" of {name}" for name, held in files if field.name in _names_of(held)), "")
    return ConfigError(
        f"column {field.name!r:.80}{owner} is {field.type!s:.80}, {why}; cast it to another type "
        "or leave it out there, or write another format"
    )


def _names_of(held: Held) -> Collection[str]:
    """The columns that a file has."""
    found: Collection[str] = held.names if isinstance(held, pa.Schema) else held.columns
    return found


def _unified(named: Sequence[tuple[str, pa.Schema]], texts: Collection[str]) -> pa.Schema:
    schemas = [
        pa.schema([json_field(f.name) if f.name in texts else f for f in schema])
        for _, schema in named
    ]
    return pa.unify_schemas(schemas, promote_options="permissive")


def _of_several_kinds(named: Sequence[tuple[str, pa.Schema]]) -> set[str]:
    """Columns that have no type for all files, but JSON text for each."""
    found: dict[str, list[pa.Field]] = {}
    for _, schema in named:
        for field in schema:
            found.setdefault(field.name, []).append(field)
    return {
        name
        for name, fields in found.items()
        if not _unify(fields) and all(why_not_json(field.type) is None for field in fields)
    }


def _unify(fields: Sequence[pa.Field]) -> bool:
    try:
        pa.unify_schemas([pa.schema([field]) for field in fields], promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def _check_names(where: str, schema: pa.Schema) -> None:
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where} has {len(twice)} column(s) twice, such as {twice[0]!r:.80}")


def _check_lossless(named: Sequence[tuple[str, pa.Schema]], whole: pa.Schema) -> None:
    for where, schema in named:
        for field in schema:
            kind = whole.field(field.name).type
            if is_json(whole.field(field.name)):
                if not is_json(field) and (reason := why_not_json(field.type)) is not None:
                    why = f"and elsewhere of several kinds, which only JSON text holds ({reason})"
                    raise refusal(field, why, [(where, schema)])
            elif not _always_fits(field.type, kind):
                raise ConfigError(
                    f"the files differ in their columns: {field.name!r:.80} is {field.type!s:.80} "
                    f"in {where} and elsewhere of a type with which it would become {kind!s:.80}; "
                    "read them one by one"
                )


def _always_fits(kind: pa.DataType, wider: pa.DataType) -> bool:
    """Whether every value of a type is one of the wider type as well."""
    if kind == wider or pa.types.is_null(kind):
        return True
    if pa.types.is_struct(kind):
        return all(_always_fits(f.type, wider.field(f.name).type) for f in kind)
    if pa.types.is_nested(kind):
        inner = [(kind.field(i), wider.field(i)) for i in range(kind.num_fields)]
        return all(_always_fits(one.type, other.type) for one, other in inner)
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        bits = kind.bit_width
        signed = not pa.types.is_unsigned_integer(kind)
        ends = (-(1 << bits - 1) + 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        numbers = pa.array(ends, getattr(pa, f"{'' if signed else 'u'}int{bits}")())
        try:
            numbers.view(kind).cast(wider)
        except pa.ArrowException:
            return False
        return True
    return any(of(kind) and of(wider) for of in WIDENED)


WIDENED = (
    pa.types.is_floating,
    pa.types.is_decimal,
    lambda kind: kind in (pa.string(), pa.large_string()),
    lambda kind: kind in (pa.binary(), pa.large_binary()),
)
"""Types of which Arrow makes only wider ones of their own."""
