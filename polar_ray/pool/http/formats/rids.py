"""`rid`: the names that a client of sglang may give to its texts, which come back with the scores.
Source: sglang 0.5.23, `srt/managers/io_struct.py`."""

from __future__ import annotations

import uuid

from polar_ray.errors import RecordError
from polar_ray.pool.http.formats.ready_texts import is_one
from polar_ray.pool.http.object_body import JsonObject


def rids_of(body: JsonObject, texts: str) -> list[str]:
    """The name of each text under the key `texts`, made here where the client gives none. Raises
    `RecordError` for names that do not fit the texts."""
    alone = is_one(body, texts)
    count = 1 if alone else body.count(texts)
    found = body.value("rid") if "rid" in body.values else None
    if found is None:
        return [uuid.uuid4().hex for _ in range(count)]
    names = [found] if alone else found
    fits = isinstance(names, list) and len(names) == count
    if not (fits and all(isinstance(name, str) for name in names)):
        raise RecordError(
            f"'rid' does not fit {texts!r}; send as many names as texts: a list of strings for a "
            "list, one string for one text"
        )
    return names
