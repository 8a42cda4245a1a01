"""How many replicas there should be: decisions in virtual time, on models of a pool under load."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
from parcels import FAT, parcel

from polar_ray.config import PoolConfig
from polar_ray.pool.autoscaling import (
    HEARD_S,
    REPORT_S,
    STALE_S,
    WINDOW_S,
    Bell,
    Load,
    Policy,
    Workload,
    pool_load,
    remember,
    replicas_wanted,
)
from polar_ray.pool.router.queue import Queue

SPEED = 1000.0
"""Bytes per second of a replica here."""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


# What a replica reports.


def test_a_replica_reports_when_it_was_busy_and_what_it_did() -> None:
    workload = Workload(clock := Clock())
    clock.now = 5.0
    with workload.work(100):
        clock.now = 6.0
        with workload.work(50):  # at the same time: a second is counted once
            clock.now = 8.0
            assert workload.report() == {
                "busy_s": 3.0,
                "done_bytes": 0.0,
                "held_bytes": 150.0,
                "queued_bytes": 0.0,
            }
        clock.now = 9.0
    clock.now = 20.0
    assert workload.report() == {
        "busy_s": 4.0,
        "done_bytes": 150.0,
        "held_bytes": 0.0,
        "queued_bytes": 0.0,
    }


def test_what_fails_is_not_done_and_not_held() -> None:
    workload = Workload(Clock())
    with pytest.raises(KeyError), workload.work(100):
        raise KeyError
    report = workload.report()
    assert (report["done_bytes"], report["held_bytes"]) == (0, 0)


def test_queues_of_several_routers_add_up_until_they_are_not_heard_of_any_more() -> None:
    workload = Workload(clock := Clock())
    workload.hear(("a", 100))
    workload.hear(("a", 70))
    workload.hear(None)
    clock.now = HEARD_S - 1
    workload.hear(("b", 5))
    assert workload.report()["queued_bytes"] == 75
    clock.now = HEARD_S + 1
    assert workload.report()["queued_bytes"] == 5


def test_a_routers_queue_says_how_many_bytes_wait_in_it() -> None:
    queue = Queue()
    for cost in (FAT, 10, FAT):
        queue.push(parcel(cost=cost))
    assert queue.cost == 2 * FAT + 10
    queue.pop()
    assert queue.cost in (2 * FAT, FAT + 10)


# What reports say together.


def points(*pairs: tuple[float, float]) -> list[Namespace]:
    return [Namespace(timestamp=at, value=value) for at, value in pairs]


def reports(**replicas: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """As Serve gives them: by metric, then by replica."""
    names = {name for series in replicas.values() for name in series}
    return {
        name: {replica: points(*series[name]) for replica, series in replicas.items()}
        for name in names
    }


def series(busy: list[float], done: list[float], held: float, queued: float) -> dict[str, Any]:
    """Reports at 0, 10, 20, ..."""
    times = [10.0 * i for i in range(len(busy))]
    return {
        "busy_s": list(zip(times, busy, strict=True)),
        "done_bytes": list(zip(times, done, strict=True)),
        "held_bytes": [(times[-1], held)],
        "queued_bytes": [(times[-1], queued)],
    }


def test_a_pools_load_is_what_all_its_replicas_say() -> None:
    metrics = reports(
        a=series([50, 60, 70], [500, 1500, 2500], 300, 900),
        b=series([0, 0, 5], [0, 0, 1000], 0, 800),
    )
    load = pool_load(metrics, ["a", "b"], now=21)
    assert load == Load(2, 1.25, held_bytes=300, queued_bytes=900, bytes_per_s=3000 / 25)


def test_who_has_not_reported_lately_counts_as_busy() -> None:
    metrics = reports(a=series([0, 0], [0, 0], 0, 700))
    assert pool_load(metrics, ["a", "new"], now=11).busy == 1
    assert pool_load({}, ["a", "b"], now=11) == Load(2, busy=2)
    late = pool_load(metrics, ["a"], now=11 + STALE_S)
    assert late == Load(1, busy=1)
    alone = pool_load(reports(a=series([4], [100], 0, 0)), ["a"], now=1)
    assert alone.busy == 1


def test_speed_is_of_lately_else_of_ever_else_at_most_what_is_in_hand() -> None:
    def speed(*args: Any) -> float | None:
        return pool_load(reports(a=series(*args)), ["a"], now=11).bytes_per_s

    assert speed([10, 20], [1000, 5000], 0, 0) == 400
    assert speed([10, 10], [1000, 1000], 0, 0) == 100
    assert speed([0, 8], [0, 0], 400, 0) == 50
    assert speed([0, 0], [0, 0], 0, 0) is None


# How many that asks for.


@pytest.mark.parametrize(
    ("load", "wanted"),
    [
        (Load(4), 0),
        (Load(4, busy=0.01), 1),
        (Load(4, busy=1.001), 1),
        (Load(4, busy=2.5), 3),
        (Load(4, busy=4), 4),  # busy, but nothing waits: no more than there are
        (Load(1, busy=1, queued_bytes=5_000, bytes_per_s=SPEED), 1),  # it does not wait too long
        (Load(1, busy=1, queued_bytes=5_000, held_bytes=30_000, bytes_per_s=SPEED), 4),
        (Load(1, busy=1, held_bytes=90_000, bytes_per_s=SPEED), 1),  # others could not take it
        (Load(4, busy=4, queued_bytes=5_000, bytes_per_s=SPEED), 4),
        (Load(1, busy=1, queued_bytes=10**9), 3),  # the target: at what speed?
    ],
    ids=str,
)
def test_replicas_are_wanted_by_what_would_wait_too_long(load: Load, wanted: int) -> None:
    assert replicas_wanted(load, target=3, target_wait_s=10) == wanted


def test_only_the_largest_numbers_since_are_remembered() -> None:
    needed: list[tuple[float, int]] = []
    for now, number in enumerate([4, 1, 3, 3, 2, 1]):
        needed = remember(needed, now, number, hold_s=100)
    assert needed == [(0, 4), (3, 3), (4, 2), (5, 1)]
    assert remember(needed, 102, 0, hold_s=100) == [(3, 3), (4, 2), (5, 1), (102, 0)]


# A pool over time.


@dataclass
class Pool:
    """Replicas of one speed that share what comes, under Serve's rules for a custom policy."""

    policy: Policy
    upscale_delay_s: float = 5.0
    least: int = 1
    most: int = 8
    start_s: float = 20.0
    """From the decision until a replica works."""

    now: float = 0.0
    target: int = 0
    work: float = 0.0
    started: list[float] = field(default_factory=list)
    """When each replica works from."""

    metrics: dict[str, Any] = field(default_factory=dict)
    busy: dict[float, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    wanted_since: float | None = None
    history: list[int] = field(default_factory=list)
    """The target, each second."""

    def run(self, seconds: int, arrives: Callable[[float], float]) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.work += arrives(self.now)
            self._work()
            if self.now % REPORT_S == 0:
                self._report()
            self._decide()
            self.history.append(self.target)

    def running(self) -> list[float]:
        return [at for at in self.started if at <= self.now]

    def _work(self) -> None:
        """A second of work, in hand as long as two shards of a second each are."""
        for replica in self.running():
            share = min(self.work, SPEED)
            self.work -= share
            self.busy[replica] = self.busy.get(replica, 0.0) + share / SPEED

    def _report(self) -> None:
        self.metrics = {name: {} for name in Workload().report()} | self.metrics
        queued = max(0.0, self.work - 2 * SPEED * len(self.running()))
        for replica in self.running():
            busy = self.busy.get(replica, 0.0)
            held = min(self.work, 2 * SPEED)
            for name, value in zip(
                ("busy_s", "done_bytes", "held_bytes", "queued_bytes"),
                (busy, busy * SPEED, held, queued),
                strict=True,
            ):
                kept = self.metrics[name].get(replica, [])
                kept = [point for point in kept if point.timestamp > self.now - WINDOW_S]
                self.metrics[name][replica] = [*kept, *points((self.now, value))]

    def _decide(self) -> None:
        if not self.running() and self.work:  # Serve's own rule: somebody waits, and none is there
            number = max(1, self.target)
        else:
            number, self.state = self.policy(
                Namespace(
                    running_replicas=self.running(),
                    target_num_replicas=self.target,
                    raw_metrics=self.metrics,
                    current_time=self.now,
                    policy_state=self.state,
                )
            )
            if number <= self.target:
                self.wanted_since = None
            elif self.wanted_since is None:
                self.wanted_since = self.now
            if number > self.target and self.now - (self.wanted_since or 0) < self.upscale_delay_s:
                number = self.target
        self.target = max(self.least, min(self.most, number))
        # A name of its own for each, by when it works from.
        while len(self.started) < self.target:
            self.started.append(self.now + self.start_s + len(self.started) / 1000)
        del self.started[self.target :]


def pool(hold_s: float = 600, target_wait_s: float = 20, **options: Any) -> Pool:
    grown = Pool(Policy(target_wait_s, hold_s), **options)
    grown.run(60, lambda now: 0)  # until the first works
    assert grown.target == grown.least
    return grown


def test_a_burst_is_met_and_its_replicas_leave_long_after_it() -> None:
    grown = pool(hold_s=300)
    grown.run(1, lambda now: 100 * SPEED)
    grown.run(19, lambda now: 0)
    # 100 s of work in 20 s take 5; with those that are on their way it is done in half that.
    assert grown.target == 5
    grown.run(40, lambda now: 0)
    assert grown.work == 0
    grown.run(230, lambda now: 0)
    assert grown.target == 5
    grown.run(200, lambda now: 0)
    assert grown.target == 1


def test_replicas_come_until_they_keep_up() -> None:
    grown = pool(target_wait_s=10)
    grown.run(900, lambda now: 3.5 * SPEED)
    assert 4 <= grown.target <= 8
    assert grown.work <= 5 * SPEED
    # What the backlog took leaves; as many stay as are busy.
    grown.run(3600, lambda now: 3.5 * SPEED)
    assert set(grown.history[-2400:]) == {4}


def changes(history: list[int]) -> int:
    return sum(a != b for a, b in pairwise(history))


@pytest.mark.parametrize("period", [30, 120, 500])
def test_a_sawtooth_does_not_make_it_flap(period: int) -> None:
    """Steps of training: work for a while, then none for a while."""
    grown = pool(hold_s=600)
    step = 80 * SPEED
    grown.run(10 * period, lambda now: step if now % period == 0 else 0)
    settled = grown.history[-5 * period :]
    assert min(settled) >= 2
    assert changes(settled) == 0
    assert max(grown.history) <= 8


def test_it_grows_no_further_than_it_may() -> None:
    grown = pool(most=3)
    grown.run(100, lambda now: 10 * SPEED)
    assert grown.target == 3


def test_light_work_keeps_one_and_none_goes_to_zero_and_back() -> None:
    grown = pool(hold_s=100, least=0)
    assert grown.target == 0
    grown.run(30, lambda now: 10.0)
    assert (grown.target, grown.work < 10 * SPEED) == (1, True)
    grown.run(600, lambda now: 10.0 if now % 20 == 0 else 0)
    assert set(grown.history[-600:]) == {1}
    grown.run(100 + round(WINDOW_S) + 5, lambda now: 0)
    assert grown.target == 0
    grown.run(30, lambda now: 10.0)
    assert grown.target == 1


def test_a_controller_that_starts_anew_takes_nothing_away_for_as_long() -> None:
    grown = pool(hold_s=300)
    grown.run(1, lambda now: 100 * SPEED)
    grown.run(300, lambda now: 0)
    assert grown.target == 5
    grown.state, grown.metrics = {}, {}
    grown.run(290, lambda now: 0)
    assert grown.target == 5
    grown.run(60, lambda now: 0)
    assert grown.target == 1


def test_a_moment_of_much_work_starts_nothing() -> None:
    grown = pool()
    grown.run(200, lambda now: 2 * SPEED if now % 5 == 0 else 0)
    assert set(grown.history) == {1}


def test_idle_replicas_leave_only_where_the_others_have_time() -> None:
    grown = pool(hold_s=50, target_wait_s=5)
    grown.run(300, lambda now: 3.5 * SPEED)
    before = grown.target
    grown.run(300, lambda now: 1.5 * SPEED)
    assert 2 <= grown.target < before
    assert grown.work <= 3 * SPEED


# The shell.


def test_serves_controller_needs_nothing_of_this_project() -> None:
    from polar_ray.pool.app import app

    config = PoolConfig(engine={"type": "stub"}, min_replicas=0, max_replicas=4)
    replica = app(config)._bound_deployment.init_args[1]._bound_deployment
    scaling = replica._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.initial_replicas) == (0, 4, None)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (5, 0)
    assert scaling.policy.policy_kwargs == {"target_wait_s": 20, "hold_s": 600}
    script = (
        "import pickle, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert not name.startswith('polar_ray'), name\n"
        "sys.meta_path.insert(0, Absent())\n"
        "kind, context = pickle.load(sys.stdin.buffer)\n"
        "print(pickle.loads(kind)(target_wait_s=20, hold_s=600)(context)[0])"
    )
    context = Namespace(
        running_replicas=["a"],
        target_num_replicas=1,
        raw_metrics=reports(a=series([0, 10], [0, 10_000], 2_000, 58_000)),
        current_time=11.0,
        policy_state={},
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps((scaling.policy.get_serialized_policy_def(), context)),
        capture_output=True,
        check=True,
    )
    assert ran.stdout.decode().strip() == "3"


def test_a_pool_of_a_fixed_size_has_no_policy() -> None:
    from polar_ray.pool.app import app

    replica = app(PoolConfig(num_replicas=3))._bound_deployment.init_args[1]._bound_deployment
    assert replica.num_replicas == 3
    assert replica._deployment_config.autoscaling_config is None


def test_a_bell_rings_while_somebody_is_needed_and_stops() -> None:
    async def story() -> list[str]:
        said: list[str] = []

        async def ring() -> None:
            said.append("rings")
            try:
                await answered.wait()
            except asyncio.CancelledError:
                said.append("stops")
                raise
            raise OSError  # as a call does that no replica is named for

        answered = asyncio.Event()
        bell = Bell(ring)
        for needed in (False, True, True, False, False, True):
            bell.set(needed)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        answered.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bell.set(True)
        await asyncio.sleep(0)
        return said

    assert asyncio.run(story()) == ["rings", "stops", "rings", "rings"]
