"""What is asked of any server's answer before its bytes are read: that they come as they are.

httpx would unpack an answer on its way, which may become a thousand times as long by that.
"""

from __future__ import annotations

import httpx

AS_IT_IS = {"accept-encoding": "identity"}
"""The header of a request."""


def packed(response: httpx.Response) -> str | None:
    """The coding in which an answer came all the same; None if it came as it is."""
    coding: str = response.headers.get("content-encoding", "identity")
    return None if coding.strip().lower() in ("identity", "") else coding[:40]
