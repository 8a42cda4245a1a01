"""A file of known answers: read if it is whole, written whole."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson
from pydantic import BaseModel, FiniteFloat, NonNegativeInt

from polar_ray.data.storage import place, write_whole
from polar_ray.engine.answers import Answered, KnownAnswers
from polar_ray.errors import ConfigError
from polar_ray.json_object import parse, read_object

logger = logging.getLogger(__name__)

FILE_BYTES = 1 << 24
"""Of the largest that is read."""


class _KeptAnswered(BaseModel):
    """See `Answered`."""

    ids: list[list[NonNegativeInt]]
    scores: list[FiniteFloat]


class _Kept(_KeptAnswered):
    """A file of known answers."""

    altered: dict[str, list[FiniteFloat]]
    vocabulary: _KeptAnswered
    long: _KeptAnswered
    seal: str
    """sha256 of all else: a file that lost a byte must not refuse a sound server."""

    def sealed(self) -> str:
        """What `seal` must be."""
        content = self.model_dump(exclude={"seal"})
        return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read(path: Path) -> KnownAnswers | None:
    """None, and a warning, where there are none that are whole."""
    if not path.is_file():
        return None
    try:
        kept = parse(_Kept, read_object(path, FILE_BYTES), path)
    except ConfigError as error:
        logger.warning("known answers are computed anew: %s", error)
        return None
    if kept.seal != kept.sealed():
        logger.warning("known answers are computed anew: %s is damaged", path)
        return None
    first = _unpack(kept)
    return KnownAnswers(
        first.ids,
        first.scores,
        {name: np.array(row, dtype=np.float32) for name, row in kept.altered.items()},
        _unpack(kept.vocabulary),
        _unpack(kept.long),
    )


def write(path: Path, answers: KnownAnswers) -> None:
    """Appears whole or not at all. Without a place to keep it, it is computed the next time."""
    kept = _Kept(
        **dict(_pack(Answered(answers.ids, answers.scores))),
        altered={name: row.tolist() for name, row in answers.altered.items()},
        vocabulary=_pack(answers.vocabulary),
        long=_pack(answers.long),
        seal="",
    )
    data = orjson.dumps({**kept.model_dump(exclude={"seal"}), "seal": kept.sealed()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place(str(path.parent)), path.name, data)
    except OSError as error:
        logger.warning("known answers cannot be kept in %s: %s", path.parent, error)


def _unpack(kept: _KeptAnswered) -> Answered:
    ids = [np.array(row, dtype=np.int32) for row in kept.ids]
    return Answered(ids, np.array(kept.scores, dtype=np.float32))


def _pack(answered: Answered) -> _KeptAnswered:
    ids = [row.tolist() for row in answered.ids]
    return _KeptAnswered(ids=ids, scores=answered.scores.tolist())
