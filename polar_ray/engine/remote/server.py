"""One server as the engine sees it: whether it is believed, how fast it is, what it has in hand.

State and the decisions that need nothing else; time is given. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Hashable

import httpx

from polar_ray.client.servers import ServerType

REQUEST_TOKENS = 32
"""What a request costs beside its tokens, in tokens."""

SPEED_WINDOW = 50_000.0
"""Tokens over which the speed is averaged."""

UNMEASURED = 1_000.0
"""Tokens a second of a server that has not done anything yet."""

FORGOTTEN_S = 30.0
"""A server that had nothing to do for so long may have become faster: it is tried again."""

SILENT_S = 2.0
SILENT_TIMES = 4.0
"""A server is silent if it has finished nothing for so long, and for so many times what its speed
explains."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
"""Between two checks of a server that is put aside; each is twice as long as the one before."""

QUESTIONS_S = 60.0
QUESTIONS_SHARE = 0.01
"""A server in use is asked all known answers again after so long, and for at most that share of the
time, as most of what may be wrong with it the short witnesses do not show."""


class Server:
    """A server. It begins put aside: nobody has asked it yet."""

    def __init__(self, kind: ServerType, address: str) -> None:
        self.kind, self.address = kind, address
        self.name = str(httpx.URL(address).copy_with(userinfo=b""))
        """Without a password, which an address may hold."""

        self.aside: str | None = "it has not been asked yet"
        """Why it gets no work; None: it is believed."""

        self._silent = False
        self.strikes = 0
        """Times that it was put aside since it last brought scores."""

        self.rests_until = 0.0
        self.heard_at = 0.0
        self._busy_since: float | None = None
        self._in_hand: dict[Hashable, int] = {}
        self._since = self._vouched_at = 0.0
        self._tokens = self._took_s = 0.0
        self._questions_at = 0.0

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    def able(self, now: float) -> bool:
        """Whether it may be given work."""
        return self.aside is None and now >= self.rests_until

    @property
    def num_tokens(self) -> int:
        """In hand."""
        return sum(self._in_hand.values())

    @property
    def num_requests(self) -> int:
        """In hand."""
        return len(self._in_hand)

    def speed(self, now: float, fastest: float = 0.0) -> float:
        """Tokens a second; that of the fastest, if it has been idle for long."""
        measured = self._tokens / self._took_s if self._took_s else UNMEASURED
        idle = not self._in_hand and now - self.heard_at > FORGOTTEN_S
        return max(measured, fastest) if idle else measured

    def begin(self, work: Hashable, num_tokens: int, now: float) -> None:
        """It is given a request."""
        if not self._in_hand:
            self._since = now
        self._in_hand[work] = num_tokens + REQUEST_TOKENS

    def end(self, work: Hashable, now: float, *, done: bool) -> None:
        """A request has come to an end; `done` if it brought scores."""
        tokens = self._in_hand.pop(work)
        if not done:
            return
        kept = max(0.0, 1 - tokens / SPEED_WINDOW)
        self._tokens = kept * self._tokens + tokens
        self._took_s = kept * self._took_s + max(1e-6, now - self._since)
        self._since = self.heard_at = now
        self._busy_since = None

    def silent_s(self, now: float) -> float | None:
        """For how long it has finished nothing, if that is longer than its speed explains."""
        if not self._in_hand:
            return None
        silence = now - max(self._since, self._vouched_at)
        explained = self.num_tokens / self.speed(now)
        return silence if silence > max(SILENT_S, SILENT_TIMES * explained) else None

    def vouch(self, now: float) -> None:
        """It is slow, but there: it has answered something else meanwhile."""
        self._vouched_at = now

    def rest(self, retry_s: float, now: float) -> float:
        """It is busy and gets nothing for a while; for how long it has been so by now."""
        self.rests_until = now + retry_s
        if self._busy_since is None:
            self._busy_since = now
        return now - self._busy_since

    def put_aside(self, reason: str, *, silent: bool = False) -> None:
        """It gets no work until it is believed again; `silent`: or finishes what it is at."""
        self.aside, self._silent = reason, silent
        self.strikes += 1

    def believe(self, now: float) -> None:
        """It has given the known answers."""
        self.aside, self.rests_until, self.heard_at = None, 0.0, now
        self._busy_since = None

    def questioned(self, began: float, now: float) -> None:
        """It has given all known answers, asked for from `began` on."""
        self._questions_at = now + max(QUESTIONS_S, (now - began) / QUESTIONS_SHARE)

    def is_to_be_questioned(self, now: float) -> bool:
        """Whether it is time for all known answers again."""
        return self.aside is None and now >= self._questions_at

    def succeeded(self, now: float) -> None:
        """It has brought scores of records."""
        self.strikes = 0
        if self.aside is not None and self._silent:
            self.believe(now)

    @property
    def pause_s(self) -> float:
        """How long after it was put aside it is checked again."""
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(20, max(0, self.strikes - 1))))
