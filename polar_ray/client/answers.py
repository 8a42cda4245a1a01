"""What is asked of an answer: that its bytes come as they are, that its rows are those of the call.

httpx would unpack an answer on its way, which may become a thousand times as long by that. And what
stands between a client and its pool may give one call's answer to another.
"""

from __future__ import annotations

import httpx
import pyarrow as pa

AS_IT_IS = {"accept-encoding": "identity"}
"""The header of a request."""


def packed(response: httpx.Response) -> str | None:
    """The coding in which an answer came all the same; None if it came as it is."""
    coding: str = response.headers.get("content-encoding", "identity")
    return None if coding.strip().lower() in ("identity", "") else coding[:40]


def has_ids_of(result: pa.Table, batch: pa.Table) -> bool:
    """Whether the rows of a result are a batch's, in its order, as far as ids tell: where none were
    sent, nobody can say."""
    if "id" not in batch.column_names or not batch.num_rows:
        return True
    if "id" not in result.column_names:
        return False
    sent, came = batch["id"], result["id"]
    # A type may be another that holds the same: large strings, integers of fewer bits.
    return bool(sent.equals(came)) or sent.to_pylist() == came.to_pylist()
