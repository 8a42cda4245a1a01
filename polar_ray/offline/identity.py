"""What makes a job this job: a run that goes on with it must agree with it in everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import orjson
import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns
from polar_ray.errors import ConfigError
from polar_ray.offline.inputs import Content
from polar_ray.offline.state import VERSION

NAMES = {
    "model_digest": "the model's weights (sha256)",
    "template_version": "the template's version",
    "engine": "engine.type",
    "dtype": "engine.dtype",
}
"""How a person says what stands in the provenance of scores, where that is called otherwise."""


def asked(
    config: RescoreConfig,
    inputs: Mapping[str, Content],
    schema: pa.Schema,
    columns: Columns,
) -> dict[str, Any]:
    """All that parts depend on, but for who scores: settings that decide where a row goes, and the
    input files as they are."""
    own = {name: getattr(config, name) for name in ("rows_per_part", "group", "prefix")}
    return {
        "version": VERSION,
        "settings": {**own, **asdict(columns)},
        "columns": {field.name: str(field.type) for field in schema},
        "inputs": dict(inputs),
    }


def identity(asked: Mapping[str, Any], made_by: Mapping[str, str]) -> dict[str, Any]:
    """The same, with model, template, limits and engine (a pool's as well, by the provenance of its
    results)."""
    return {**asked, "made_by": dict(made_by)}


def fingerprint(job: Mapping[str, Any]) -> str:
    """Hex sha256 of an identity."""
    return sha256(orjson.dumps(job, option=orjson.OPT_SORT_KEYS)).hexdigest()


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], out: str) -> None:
    """Raises `ConfigError` that names what differs between the job of a folder and this one, in
    what this one says; it need not say everything yet."""
    if differing := list(differences(old, new)):
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ConfigError(
            f"{out} holds scores of another job: {'; '.join(differing[:4])}{more}. Give another "
            "folder, or take this one away"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Every difference as a sentence, by the names that settings have for those who give them."""
    for group in ("made_by", "settings", "columns", "inputs"):
        if group not in new:
            continue
        one, other = old.get(group, {}), new[group]
        for name in sorted(name for name in {*one, *other} if one.get(name) != other.get(name)):
            was, now = one.get(name), other.get(name)
            if group == "inputs":
                yield f"input file {name} {_file(was, now)}"
            elif group == "columns":
                yield f"column {name!r:.80} was {was or 'absent'!s:.80}, is {now or 'absent'!s:.80}"
            else:
                yield f"{NAMES.get(name, name)} was {_value(was)}, is {_value(now)}"


def _value(value: Any) -> str:
    return "none" if value is None else f"{value!r:.80}" if value == "" else f"{value!s:.80}"


def _file(was: Content | None, now: Content | None) -> str:
    if was is None or now is None:
        return "is new" if was is None else "is gone"
    (size, modified, _), (size_now, modified_now, _) = was, now
    if size != size_now:
        return f"had {size:,} bytes, has {size_now:,}"
    if modified != modified_now:
        return f"was of {_time(modified)}, is of {_time(modified_now)}"
    return "has other content than it had, of the same size and time"


def _time(ns: str) -> str:
    if not ns:
        return "no time"
    return datetime.fromtimestamp(int(ns) / 1e9, timezone.utc).isoformat(timespec="microseconds")
