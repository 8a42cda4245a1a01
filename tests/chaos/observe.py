"""What a test sees of a pool from outside: who runs, what its router counts, what it holds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from processes import replica_pids

GUARD_S = float(os.environ.get("CHAOS_GUARD_S", "300"))
"""Ends the wait for something that never happens. Says nothing about how fast it should."""

GAUGES = ("calls", "held_bytes", "held_parcels", "waiting_parcels", "attempts")
"""What a router's `stats` says that it holds: 0 once nobody waits for anything."""


def stats(name: str) -> dict[str, float]:
    """Counters and gauges of a pool's router; blocks."""
    from ray import serve

    found: dict[str, float] = serve.get_app_handle(name).stats.remote().result(timeout_s=GUARD_S)
    return found


def since(name: str, before: dict[str, float]) -> dict[str, float]:
    """What a router's counters have grown by."""
    return {key: value - before[key] for key, value in stats(name).items()}


def held(name: str) -> dict[str, float | None]:
    """The gauges of a pool's router that are not 0, or that it does not have."""
    found = stats(name)
    return {gauge: found.get(gauge) for gauge in GAUGES if found.get(gauge) != 0}


def running(name: str, deployment: str = "Replica") -> set[int]:
    """Process ids of the replicas that are ready, by Serve's word, and live."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()
    deployments = details["applications"].get(name, {}).get("deployments", {})
    replicas = deployments.get(deployment, {}).get("replicas", [])
    ready = {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}
    return ready & set(replica_pids(name, deployment))


def is_whole(name: str, replicas: int) -> bool:
    """So many replicas and a router are ready, and no other processes of replicas are left. False
    too while Serve's controller is away."""
    from ray.exceptions import RayError

    try:
        ready, routers = running(name), running(name, "Router")
    except RayError:
        return False
    return len(ready) == len(replica_pids(name)) == replicas and len(routers) > 0


async def until(what: str, is_so: Callable[[], bool]) -> float:
    """Waits until something is so, which is asked in a thread; how long it took, in seconds."""
    began = time.monotonic()
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() - began < GUARD_S, f"not within {GUARD_S:g} s: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def idle(name: str) -> dict[str, float | None]:
    """What a router still holds after all calls have ended and it had a minute to let go: {} unless
    something leaked."""
    left = await asyncio.to_thread(held, name)
    for _ in range(600):
        if not left:
            break
        await asyncio.sleep(0.1)
        left = await asyncio.to_thread(held, name)
    return left
