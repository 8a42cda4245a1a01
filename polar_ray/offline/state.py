"""What a job keeps of itself: `_job.json` from its beginning on, and `_manifest.json` at its end.

`_job.json` decides which rows belong to which part, so it carries a digest: where somebody has
edited it, no part is measured by it. The manifest decides nothing. It is written anew where it does
not say what the parts hold, and what is taken from it of a grouped job is proved by their seals.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any

import orjson
from pyarrow.fs import FileType
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polar_ray.config_base import explain
from polar_ray.data.storage import Place, read_whole, write_whole
from polar_ray.errors import ConfigError
from polar_ray.offline.conservation import Problem

VERSION = 4
"""Changes with the meaning of parts."""

JOB = "_job.json"
MANIFEST = "_manifest.json"

Count = Annotated[int, Field(ge=0)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Opened(_File):
    """What the files of the input hold, which takes reading JSON to its end."""

    lengths: list[tuple[Count, Count]]
    """Of each file in order: its rows, or for jsonl its (unpacked) bytes; and its lines."""

    columns: str
    likely_columns: str
    """Schemas of `schemas.together`, as Arrow writes them, in base64."""


class Identity(_File):
    """What `identity` says of a job."""

    version: int
    settings: dict[str, str | int | bool | None]
    columns: dict[str, str]
    inputs: dict[str, tuple[Count, str, str]]
    made_by: dict[str, str]


class JobFile(_File):
    """Whose parts a folder holds."""

    identity: Identity
    num_buckets: Count
    opened: Opened | None
    sha256: str
    """Of all the rest."""


class Account(_File):
    """What a manifest says of how the work of a grouped job was cut."""

    buckets: list[Count]
    skipped: list[Problem]


def read_job(where: Place) -> JobFile | None:
    """The job of a folder; None where there is none. Raises `ConfigError` for a file that is not as
    it was written."""
    for name in (JOB, MANIFEST):
        kind = where.filesystem.get_file_info(where.within(name)).type
        if kind not in (FileType.File, FileType.NotFound):
            what = "a folder" if kind == FileType.Directory else "no plain file"
            raise ConfigError(
                f"{where.within(name)} is {what}, where a job keeps a file; take it away"
            )
    data = read_whole(where, JOB)
    if data is None:
        return None
    path, version = where.within(JOB), _version(data)
    if version not in (None, VERSION):
        raise ConfigError(
            f"{path} is of another version of polar_ray (its format is {version!r:.20}, here it is "
            f"{VERSION}), whose parts are not gone on with here; give another folder"
        )
    try:
        found = JobFile.model_validate_json(data)
        if _digest(orjson.loads(data)) == found.sha256:
            return found
        reason = "somebody has edited it"
    except ValidationError as error:
        reason = str(explain(error))
    raise ConfigError(
        f"{path} is damaged ({reason}); it says whose parts these are. Put it back as it was, or "
        "give another folder, or take this one away"
    )


def _version(data: bytes) -> Any:
    try:
        return orjson.loads(data)["identity"]["version"]
    except (ValueError, KeyError, TypeError):
        return None


def write_job(
    where: Place, identity: Mapping[str, Any], num_buckets: int, opened: Opened | None
) -> None:
    """Makes a folder that of a job."""
    kept = None if opened is None else opened.model_dump()
    said = {"identity": identity, "num_buckets": num_buckets, "opened": kept}
    data = {**said, "sha256": _digest(said)}
    write_whole(where, JOB, orjson.dumps(data, option=orjson.OPT_INDENT_2))


def read_account(where: Place) -> Account | None:
    """How a finished job was cut, by its manifest; None where that does not say it."""
    data = read_whole(where, MANIFEST)
    try:
        return None if data is None else Account.model_validate_json(data)
    except ValidationError:
        return None


def write_manifest(where: Place, manifest: Mapping[str, Any]) -> None:
    """Says that a job is done."""
    write_whole(where, MANIFEST, manifest_bytes(manifest))


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written."""
    return orjson.dumps(manifest, option=orjson.OPT_INDENT_2)


def _digest(said: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in said.items() if name != "sha256"}
    return sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()
