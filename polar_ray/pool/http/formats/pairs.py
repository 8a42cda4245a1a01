"""Two trajectories as one row: what `/v1/score` and `/v1/rerank` compare. Each is a prompt, a line
break and a response, so that both begin with the same line."""

from __future__ import annotations

from polar_ray.encoding.ready_made import same_prompt
from polar_ray.errors import row_error
from polar_ray.pool.http.formats.wire import Row
from polar_ray.records import Trajectories, Unread


def pair(reference: object, candidate: object) -> Row:
    """The row of a reference's trajectory and a candidate's, or why it is none."""
    for text in (reference, candidate):
        if isinstance(text, Unread):
            return text
    if not (isinstance(reference, str) and isinstance(candidate, str)):
        return _bad("texts are compared; token ids are made by the pool itself")
    if not same_prompt(reference, candidate):
        return _bad("the two texts do not begin with the same line")
    return Trajectories(reference, candidate)


def _bad(what: str) -> Unread:
    expected = "send prompt + '\\n' + reference for one, and prompt + '\\n' + output for the other"
    return Unread(row_error("bad_template", f"{what}; {expected}"))
