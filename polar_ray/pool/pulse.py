"""Pulses: are replicas with work in hand alive at all, and what do they score with?

A stopped process or a cut network answers nothing, and Ray may not say so for minutes. Whoever
does not answer a call that costs nothing is gray until it does. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from polar_ray.pool.policy import Member

logger = logging.getLogger(__name__)

AFTER_S = 1.0
"""A replica that holds a parcel for longer is asked."""

SILENT_S = 5.0
"""A replica that has not answered for so long is gray."""

Served = Mapping[str, str]
"""What makes a replica's scores (`Scorer.provenance`)."""

Ask = Callable[[str], Awaitable[Served | None]]
"""What a replica serves, as soon as it answers; None while it loads a model."""


class Pulses:
    """At most one question to each replica at a time."""

    def __init__(self, ask: Ask, heard: Callable[[Member, Served | None], None]) -> None:
        self._ask, self._heard = ask, heard
        self._asked: dict[str, tuple[float, Member, asyncio.Task[None]]] = {}

    def feel(self, member: Member, now: float) -> None:
        """Asks, unless the last question is still open."""
        if member.name not in self._asked:
            task = asyncio.get_running_loop().create_task(self._feel(member))
            self._asked[member.name] = (now, member, task)

    def silent(self, now: float) -> list[Member]:
        """Those that have left a question open for too long, gray from now on."""
        found = [member for began, member, _ in self._asked.values() if now - began > SILENT_S]
        for member in found:
            if not member.gray:
                logger.warning("replica %s does not answer; its work goes elsewhere", member.name)
            member.gray = True
        return found

    async def _feel(self, member: Member) -> None:
        try:
            served = await self._ask(member.name)
        except Exception as error:  # what it holds will say what became of it
            logger.info("no pulse of %s: %s", member.name, error)
        else:
            self._heard(member, served)
        finally:
            del self._asked[member.name]
