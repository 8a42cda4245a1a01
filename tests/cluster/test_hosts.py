"""The laptop's pool on Ray nodes with addresses of their own: nodes go, are drained and come, the
head is lost, a cable is bad. Engines are stubs, so each score is known."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.observe import GUARD_S
from cluster.caller import Caller, figures, is_exact
from cluster.hosts import Host, network, why_not
from cluster.ray_hosts import Site, has_router, replicas
from cluster.slow_link import Link

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

WHOLE = 4
MORE = 40
"""Calls that are answered before something happens, and again once it is mended."""

LARGE = 20
"""The same, where each has 2 000 records."""

OUTAGES = 200
"""Calls that take longer than the bad link is whole at a time."""

STUB = {"type": "stub", "seconds_per_token": 2e-5}
POOL: dict[str, Any] = {"num_replicas": WHOLE, "router_num_cpus": 1, "engine": STUB}
"""What these pools have in place of the laptop's arguments."""

BAD = Link(delay_s=0.02, bytes_per_s=6e6, loss=0.005, every_s=15, gone_s=2)

Figure = Callable[[str], None]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(reason)
    with network() as net:
        yield Site(net, tmp_path)


def begin(site: Site, stays: Host, goes: Host, *, more: int = MORE, **settings: Any) -> Caller:
    """Calls from a node that stays, once the pool is whole, on both nodes."""
    site.deploy(**POOL)
    caller = site.caller(stays, **settings)
    caller.until("the pool is whole", lambda report: report["replicas"] == WHOLE)
    assert replicas(stays), "no replica beside the caller: the test shows nothing"
    assert replicas(goes), "no replica on the other node: the test shows nothing"
    caller.answered(more)
    return caller


def until_whole(caller: Caller, *hosts: Host) -> float:
    """How long the pool took to have all its replicas on these hosts."""
    return caller.until(
        "the pool is whole",
        lambda report: report["replicas"] == WHOLE == len(replicas(*hosts)),
    )


def wait(what: str, is_so: Callable[[], bool]) -> float:
    """Waits until something is so; how long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < GUARD_S, f"not in {GUARD_S:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def where(router: bool) -> str:
    return "the router with it" if router else "the router elsewhere"


def test_a_node_is_taken_away(site: Site, figure: Figure) -> None:
    stays, goes = site.start(2)
    caller = begin(site, stays, goes)
    lost, router = len(replicas(goes)), has_router(goes)
    goes.kill()
    took_s = until_whole(caller, stays)
    caller.answered(MORE)
    report = caller.finish()
    figure(
        f"{lost} of {WHOLE} replicas went with their node, {where(router)}; whole on the other "
        f"after {took_s:.1f} s; {figures(report)}"
    )
    assert is_exact(report)


def test_a_node_is_drained(site: Site, figure: Figure) -> None:
    stays, goes = site.start(2)
    caller = begin(site, stays, goes)
    moved, router = len(replicas(goes)), has_router(goes)
    site.drain(caller.last["nodes"][goes.address], seconds=120)
    empty_s = caller.until(
        "the node is empty", lambda _: not replicas(goes) and not has_router(goes)
    )
    goes.kill()
    until_whole(caller, stays)
    caller.answered(MORE)
    report = caller.finish()
    figure(
        f"{moved} of {WHOLE} replicas were on the drained node, {where(router)}; it was empty "
        f"after {empty_s:.1f} s, and then ended; {figures(report)}"
    )
    assert is_exact(report)


def test_a_node_is_added(site: Site, figure: Figure) -> None:
    [first] = site.start(1, cpus=WHOLE - 2)
    site.deploy(**POOL | {"router_num_cpus": 0})  # or it might be the router that finds no room
    caller = site.caller(first)
    caller.until("what has room is there", lambda report: report["replicas"] == WHOLE - 2)
    caller.answered(MORE)
    added = site.net.host(9)
    began = time.monotonic()
    assert site.head is not None
    site.join(added, site.head, cpus=2)
    joined_s = time.monotonic() - began
    whole_s = until_whole(caller, first, added)
    assert len(replicas(added)) == 2
    caller.answered(MORE)
    report = caller.finish()
    figure(
        f"2 of {WHOLE} replicas had no room until a node came: `ray start` took {joined_s:.1f} s, "
        f"the pool was whole {whole_s:.1f} s later; {figures(report)}"
    )
    assert is_exact(report)


def test_the_head_is_lost_for_good(site: Site, figure: Figure) -> None:
    one, two = site.start(2)
    caller = begin(site, one, two, timeout_s=60)
    before = caller.last["answered"]
    assert site.head is not None
    site.head.kill()
    caller.answered(MORE)  # what needs no head goes on
    gone_s = wait("the nodes end", lambda: not replicas(one, two))
    wait("the caller notices", lambda: caller.has_ended or caller.last["lost"] > 0)
    ended = "its driver ended with its node" if caller.has_ended else "calls ended by deadline"
    caller.kill()
    report = caller.last
    figure(
        f"without fault tolerance: {report['answered'] - before} calls were answered after the "
        f"head was lost, until the other nodes ended themselves {gone_s:.0f} s later; {ended}; "
        f"{figures(report)}"
    )
    assert (report["duplicated"], report["wrong"]) == (0, 0)


def test_the_head_is_lost_and_comes_back(site: Site, tmp_path: Path, figure: Figure) -> None:
    storage = tmp_path / "gcs"
    one, two = site.start(2, storage=storage)
    caller = begin(site, one, two)
    before = caller.last["answered"]
    assert site.head is not None
    began = time.monotonic()
    site.head.kill()
    victim = min(replicas(two))
    os.kill(victim, signal.SIGKILL)
    wait("a replica is missing", lambda: len(replicas(one, two)) == WHOLE - 1)
    caller.answered(MORE)
    assert len(replicas(one, two)) == WHOLE - 1, "healed without a head"
    site.start_head(storage)
    away_s = time.monotonic() - began
    meanwhile = caller.last["answered"] - before
    whole_s = until_whole(caller, one, two)
    caller.answered(MORE)
    report = caller.finish()
    figure(
        f"with its state in RocksDB: the head was away for {away_s:.0f} s, in which {meanwhile} "
        f"calls were answered; a replica that was killed meanwhile was replaced {whole_s:.1f} s "
        f"after the head was back; {figures(report)}"
    )
    assert is_exact(report)


def test_a_bad_link_between_nodes(site: Site, figure: Figure) -> None:
    near, far = site.start(2, by_wire=True)
    caller = begin(site, near, far, more=LARGE, size=2000, callers=6)
    good = rate(caller, 3 * LARGE)
    site.net.spoil(far, BAD)
    bad = rate(caller, OUTAGES)
    report = caller.finish()
    figure(
        f"batches of 2 000 records, half of the replicas behind a link: {good:.0f} records/s over "
        f"a good one, {bad:.0f} over one of 40 ms there and back, 6 MB/s, 0.5 % of frames lost, "
        f"gone for 2 of every 15 s; {figures(report)}"
    )
    assert is_exact(report)


def rate(caller: Caller, calls: int) -> float:
    """Records a second, over so many calls."""
    first = caller.last
    caller.answered(calls)
    last = caller.last
    return (last["rows"] - first["rows"]) / (last["at"] - first["at"])
