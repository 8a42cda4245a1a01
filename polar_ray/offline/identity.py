"""What makes a job this job: a resumed run must agree with it in everything.

Kept in the folder of parts as `_job.json`, before the first part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import orjson
import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns
from polar_ray.data.storage import Place, read_whole
from polar_ray.errors import ConfigError

VERSION = 3
"""Changes with the meaning of parts."""

JOB = "_job.json"
MANIFEST = "_manifest.json"

LOST = {
    JOB: ("whose parts these are", "Give another folder, or take this one away"),
    MANIFEST: ("that the job is done", "Take it away and run this again, which checks all parts"),
}
"""What a damaged file does not say any more, and the way out."""


def identity(
    config: RescoreConfig,
    made_by: Mapping[str, str],
    inputs: Mapping[str, Sequence[Any]],
    schema: pa.Schema,
    columns: Columns,
) -> dict[str, Any]:
    """All that parts depend on: model, template, limits and engine (a pool's as well, by the
    provenance of its results), settings that decide where a row goes, and the input files as they
    are."""
    return {
        "version": VERSION,
        "made_by": dict(made_by),
        "columns": asdict(columns),
        "prefix": config.prefix,
        "rows_per_part": config.rows_per_part,
        "group": config.group,
        "schema": {field.name: str(field.type) for field in schema},
        "inputs": dict(inputs),
    }


def read_json(where: Place, name: str) -> dict[str, Any] | None:
    """A file of this folder's; None where there is none. Raises `ConfigError` if it is damaged."""
    data = read_whole(where, name)
    if data is None:
        return None
    try:
        found: dict[str, Any] = orjson.loads(data)
        return found
    except orjson.JSONDecodeError as error:
        what, way_out = LOST[name]
        raise ConfigError(
            f"{where.within(name)} is damaged ({error}); it says {what}. {way_out}"
        ) from None


def fingerprint(job: Mapping[str, Any]) -> str:
    """Hex sha256 of an identity."""
    return sha256(orjson.dumps(job, option=orjson.OPT_SORT_KEYS)).hexdigest()


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], out: str) -> None:
    """Raises `ConfigError` that names what differs between the job of a folder and this one."""
    if differing := differences(old, new):
        shown = "; ".join(f"{name} was {a!s:.80}, is {b!s:.80}" for name, a, b in differing[:4])
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ConfigError(
            f"{out} holds scores of another job: {shown}{more}. Give another folder, or take this "
            "one away"
        )


def differences(old: Any, new: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Every leaf in which two nested dicts differ, as (path, old, new)."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [(at, old, new)]
    found = []
    for key in sorted({*old, *new}):
        place = f"{at}.{key}" if at else str(key)
        found += differences(old.get(key, "absent"), new.get(key, "absent"), place)
    return found
