"""The watchdog: what explains a wait, in ticks; and that it ends a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sample_records import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.engine.protocol import Pending
from polar_ray.errors import EngineError
from polar_ray.planning import Pack, Span
from polar_ray.pool.replica.progress import (
    AT_LEAST_S,
    PACK_WINDOW,
    TIMES,
    TOKENS_PER_PACK,
    UNMEASURED_S,
    Progress,
    Speed,
    WatchedEngine,
    encode_progress,
    work,
)
from polar_ray.pool.replica.watchdog import EXIT_CODE, Watchdog
from polar_ray.scorer import Scorer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A thread's progress whose speed is known, its clock, and its watchdog's verdicts."""

    def __init__(self, s_per_unit: float | None = None, window: float = 1000.0) -> None:
        self.clock = Clock()
        self.speed = Speed(window)
        self.progress = Progress("forward", "tokens", self.speed, self.clock)
        self.ended: list[str] = []
        self.watchdog = Watchdog([self.progress], self.ended.append)
        if s_per_unit is not None:
            self.speed.learn(100, 100 * s_per_unit)

    def ticks_to_end(self) -> int:
        """Ticks until the process is ended; 0 if that never comes."""
        self.ended.clear()
        for count in range(1, 100_000):
            self.watchdog.tick()
            if self.ended:
                return count
        return 0


def test_an_idle_thread_is_never_ended() -> None:
    watched = Watched(1e-3)
    assert watched.ticks_to_end() == 0
    watched.progress.begin(10).end(10)
    assert watched.ticks_to_end() == 0


@pytest.mark.parametrize(
    ("s_per_token", "tokens", "allowed_s"),
    [(1e-3, 10, AT_LEAST_S), (1e-3, 100_000, TIMES * 100), (None, 10, UNMEASURED_S)],
)
def test_a_pack_may_take_what_its_tokens_explain_many_times_over(
    s_per_token: float | None, tokens: int, allowed_s: float
) -> None:
    watched = Watched(s_per_token)
    watched.progress.begin(tokens)
    assert watched.ticks_to_end() == allowed_s + 1
    assert f"{tokens} tokens" in watched.ended[0]


def test_packs_in_flight_explain_each_other_and_an_end_begins_the_count_anew() -> None:
    watched = Watched(1.0)
    first, _ = watched.progress.begin(10), watched.progress.begin(20)
    assert watched.ticks_to_end() == TIMES * 30 + 1
    watched.clock.now += 10
    first.end(10)
    assert watched.ticks_to_end() == TIMES * 20 + 1


def test_a_pack_that_fails_is_no_measure_and_the_count_begins_anew() -> None:
    watched = Watched(1.0)
    failed = watched.progress.begin(10)
    for _ in range(100):
        watched.watchdog.tick()
    watched.clock.now += 1e6
    failed.end()
    watched.progress.begin(10)
    assert watched.ticks_to_end() == TIMES * 10 + 1


def test_the_speed_is_that_of_the_device_though_packs_overlap() -> None:
    """10 s for each pack of 10 tokens; the next is sent before the one before is home."""
    watched = Watched()
    flying = [watched.progress.begin(10)]
    for _ in range(200):
        flying.append(watched.progress.begin(10))
        watched.clock.now += 10
        flying.pop(0).end(10)
    assert watched.speed.explains_s(1) == pytest.approx(1.0)


def test_a_pack_between_the_packs_of_another_forward_is_measured_once() -> None:
    watched = Watched(window=1e9)
    outer = watched.progress.begin(10)
    watched.clock.now += 10  # computed while it was sent, as on a CPU
    planning = watched.progress.begin(50)
    planning.end()
    inner = watched.progress.begin(30)
    watched.clock.now += 30
    inner.end(30)
    outer.end(10)
    assert watched.speed.explains_s(40) == pytest.approx(40)


def test_probes_do_not_hide_how_fast_large_packs_are() -> None:
    """A probe of 17 tokens takes 30 ms on a GPU that needs a second for 16,000."""
    speed = Speed(PACK_WINDOW)
    speed.learn(16_000, 1.0)
    for count, most_s in ((20, 2 * TIMES), (1000, UNMEASURED_S)):
        for _ in range(count):
            speed.learn(TOKENS_PER_PACK + 17, 0.03)
        assert TIMES <= speed.limit_s(16_000) < most_s
    only_probes = Speed(PACK_WINDOW)
    only_probes.learn(TOKENS_PER_PACK + 17, 0.03)
    assert TIMES * 1.0 < only_probes.limit_s(16_000) < UNMEASURED_S


def test_rows_that_share_texts_do_not_make_others_look_late() -> None:
    progress = encode_progress()
    for _ in range(1000):
        progress._speed.learn(10_000_000, 1e-6)
    assert progress._speed.limit_s(50_000_000) >= 50 * TIMES


def pack_of(positions: Any) -> Pack:
    positions = np.array(positions, np.int32)
    count = len(positions)
    return Pack(
        positions,
        positions,
        np.full(count, count, np.int32),
        (Span(0, count),),
        np.array([count - 1]),
        np.array([0]),
    )


def test_a_long_record_explains_more_than_short_ones_of_as_many_tokens() -> None:
    long, short = pack_of(range(16_384)), pack_of([*range(64)] * 256)
    assert short.num_tokens == long.num_tokens
    assert work(long) > 4 * work(short)


class FakeEngine:
    """An engine whose packs come home when they are told to."""

    name, info = "fake", None

    def __init__(self, *, fails: str = "", recalled: int = 0) -> None:
        self.fails, self.recalled = fails, recalled
        self.counters = {"tokens_computed": 0}

    def submit(self, pack: Pack) -> Pending:
        if self.fails == "submit":
            raise EngineError("no")
        self.counters["tokens_computed"] += pack.num_tokens - self.recalled
        return SimpleNamespace(result=self._result)

    def _result(self) -> Any:
        if self.fails == "result":
            raise EngineError("no")
        return np.zeros(1, np.float32)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("fails", ["submit", "result"])
def test_a_watched_engine_that_fails_leaves_nothing_open(fails: str) -> None:
    watched = Watched(1.0)
    engine = WatchedEngine(FakeEngine(fails=fails), watched.progress)  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        engine.submit(pack_of([0, 1])).result()
    assert watched.ticks_to_end() == 0
    assert watched.speed.explains_s(1) == 1.0


def test_what_a_prefix_cache_knew_is_not_counted_as_computed() -> None:
    watched = Watched()
    engine = WatchedEngine(FakeEngine(recalled=900), watched.progress)  # type: ignore[arg-type]
    pending = engine.submit(pack_of([0] * 1000))
    watched.clock.now += 100 + TOKENS_PER_PACK
    pending.result()
    assert watched.speed.explains_s(1) == pytest.approx(1.0)


def test_from_submit_to_result_a_pack_is_watched(tiny_dir: Path) -> None:
    scorer = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    watched = Watched(1e-9)
    submit = scorer.engine.submit
    seen: list[int] = []

    def slow(pack: Pack) -> Pending:
        seen.append(watched.ticks_to_end())
        done = submit(pack)
        return SimpleNamespace(result=lambda: seen.append(watched.ticks_to_end()) or done.result())

    scorer.engine.submit = slow  # type: ignore[method-assign]
    scorer.engine = WatchedEngine(scorer.engine, watched.progress)
    assert scorer.score(GROUPS)["score"].null_count == 0
    assert seen == [AT_LEAST_S + 1, 1], "between the two, nothing has come to an end"
    assert watched.ticks_to_end() == 0


HANGING = """
import ctypes, sys, threading, time
from polar_ray.pool.replica import progress, watchdog

watchdog.TICK_S = 0.01
progress.AT_LEAST_S = 0.05
watchdog.GIL_S = 1.0
watched = progress.forward_progress()
watched.begin(1).end(1)
watching = watchdog.Watchdog([watched])
watching.start()
{hang}
"""


def run(hang: str) -> subprocess.CompletedProcess[str]:
    """A process under a watchdog that does not wait long."""
    code = HANGING.format(hang=hang)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_hanging_process_says_where_and_ends() -> None:
    hang = "def forward_that_hangs():\n    threading.Event().wait()\n"
    done = run(f"{hang}watched.begin(36)\nforward_that_hangs()")
    assert done.returncode == EXIT_CODE
    assert "forward: no end of 1 step(s) of 36 tokens" in done.stderr
    assert "in forward_that_hangs" in done.stderr


def test_it_ends_though_the_log_hangs_too() -> None:
    hang = "import logging\nlogging._lock.acquire()\nlogging.lastResort.acquire()\n"
    done = run(f"{hang}watched.begin(36)\nthreading.Event().wait()")
    assert done.returncode == EXIT_CODE


def test_a_thread_that_keeps_the_interpreters_lock_ends_it_too() -> None:
    done = run("time.sleep(0.1)\nctypes.PyDLL(None).sleep(60)")
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_a_closed_watchdog_ends_nothing() -> None:
    closing = "watched.begin(36)\nwatching.close()\ntime.sleep(1.5)\nprint('well')"
    assert run(f"progress.AT_LEAST_S = 60\n{closing}").stdout == "well\n"


def test_a_process_that_was_stopped_is_not_ended() -> None:
    """Its clock goes on, its ticks do not: 1 s of standing is one tick of 0.01 s."""
    stopping = (
        "import os, signal, subprocess\n"
        "progress.AT_LEAST_S, watchdog.GIL_S = 2, 60\n"
        "subprocess.Popen(['sh', '-c', f'sleep 4; kill -CONT {os.getpid()}'])\n"
        "watched.begin(36)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(0.1)\nprint('well')"
    )
    assert run(stopping).stdout == "well\n"
