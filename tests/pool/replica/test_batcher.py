"""The batcher: one forward at a time, formed from what waits, everybody their own rows."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sample_records import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.encoding import Encoded
from polar_ray.engine.protocol import Pending
from polar_ray.errors import DeviceLost, EngineError
from polar_ray.planning import Pack
from polar_ray.pool.replica import batcher as module
from polar_ray.pool.replica.batcher import Batcher
from polar_ray.scorer import ForwardResult, Scorer

SHARDS = [pa.Table.from_pylist(GROUPS[i : i + 3]) for i in range(0, 12, 3)]


class GatedScorer(Scorer):
    """A stub scorer whose forwards wait for `gate` and whose sizes are kept in `forwards`."""

    def __init__(self, folder: Path, max_tokens: int = 10_000) -> None:
        engine = StubEngineConfig()
        super().__init__(ScorerConfig(model=str(folder), engine=engine, max_tokens=max_tokens))
        self.gate, self.started = threading.Event(), threading.Event()
        self.forwards: list[int] = []
        self.threads: set[str] = set()
        self.failing = False

    def forward(
        self, encoded: Sequence[Encoded], before_pack: Callable[[], None] = lambda: None
    ) -> ForwardResult:
        self.started.set()
        assert self.gate.wait(30)
        self.forwards.append(len(encoded))
        self.threads.add(threading.current_thread().name)
        if self.failing:
            raise RuntimeError("the device is gone")
        return super().forward(encoded, before_pack)


@pytest.fixture
def gated(tiny_dir: Path) -> GatedScorer:
    return GatedScorer(tiny_dir)


async def until_waiting(batcher: Batcher, count: int) -> None:
    while len(batcher._jobs) < count:  # noqa: ASYNC110  (the queue tells nobody when it grows)
        await asyncio.sleep(0.001)


def test_what_waits_becomes_one_forward_and_everybody_gets_their_rows(gated: GatedScorer) -> None:
    async def main() -> list[pa.Table]:
        batcher = Batcher(gated)
        first = asyncio.create_task(batcher.score(SHARDS[0]))
        await asyncio.to_thread(gated.started.wait, 30)
        rest = [asyncio.create_task(batcher.score(shard)) for shard in SHARDS[1:]]
        await until_waiting(batcher, 3)
        gated.gate.set()
        tables = [await task for task in (first, *rest)]
        batcher.close()
        return tables

    tables = asyncio.run(main())
    assert gated.forwards == [3, 9]
    assert len(gated.threads) == 1
    for table, shard in zip(tables, SHARDS, strict=True):
        assert table.equals(gated.score(shard))


def test_a_forward_keeps_to_the_token_budget(tiny_dir: Path) -> None:
    gated = GatedScorer(tiny_dir, max_tokens=16)

    async def main() -> None:
        batcher = Batcher(gated)
        tasks = [asyncio.create_task(batcher.score(shard)) for shard in SHARDS]
        gated.gate.set()
        await asyncio.gather(*tasks)
        batcher.close()

    asyncio.run(main())
    assert gated.forwards == [3, 3, 3, 3], "each shard is over the budget, so each goes alone"


def test_work_that_nobody_waits_for_is_not_done(gated: GatedScorer) -> None:
    async def main() -> None:
        batcher = Batcher(gated)
        first = asyncio.create_task(batcher.score(SHARDS[0]))
        await asyncio.to_thread(gated.started.wait, 30)
        dropped = asyncio.create_task(batcher.score(SHARDS[1]))
        kept = asyncio.create_task(batcher.score(SHARDS[2]))
        await until_waiting(batcher, 2)
        dropped.cancel()
        await asyncio.sleep(0)
        gated.gate.set()
        await asyncio.gather(first, kept)
        assert dropped.cancelled()
        batcher.close()

    asyncio.run(main())
    assert gated.forwards == [3, 3]


def test_a_forward_that_nobody_waits_for_ends_with_its_pack(tiny_dir: Path) -> None:
    engine = StubEngineConfig()
    scorer = Scorer(ScorerConfig(model=str(tiny_dir), engine=engine, max_tokens=16))
    started, gate = threading.Event(), threading.Event()
    submit, packs = scorer.engine.submit, []

    def gated_pack(pack: Pack) -> Pending:
        packs.append(pack)
        started.set()
        assert gate.wait(30)
        return submit(pack)

    scorer.engine.submit = gated_pack  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(scorer)
        call = asyncio.create_task(batcher.score(pa.Table.from_pylist(GROUPS)))
        await asyncio.to_thread(started.wait, 30)
        call.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await batcher.score(SHARDS[3].slice(2))).num_rows == 1
        batcher.close()

    asyncio.run(main())
    assert len(packs) == 2, "one pack of the first call, one of the second"


class Packs:
    """Holds each pack of a scorer until it is let go; says which rows went in which order."""

    def __init__(self, scorer: Scorer) -> None:
        self.sizes: list[int] = []
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self._submit = scorer.engine.submit
        scorer.engine.submit = self.submit  # type: ignore[method-assign]

    def submit(self, pack: Pack) -> Pending:
        self.sizes.append(len(pack.records))
        self.reached.release()
        assert self.go.acquire(timeout=30)
        return self._submit(pack)


def small_packs(folder: Path) -> Scorer:
    """A scorer whose packs hold about one record of `GROUPS` each."""
    engine = StubEngineConfig()
    return Scorer(ScorerConfig(model=str(folder), engine=engine, max_tokens=200))


@pytest.mark.parametrize("rank", [0, 2])
def test_small_jobs_go_between_the_packs_of_a_large_one(tiny_dir: Path, rank: int) -> None:
    scorer = small_packs(tiny_dir)
    packs = Packs(scorer)
    large = pa.Table.from_pylist(GROUPS * 8)
    small = pa.Table.from_pylist(GROUPS[:1])
    done: list[str] = []

    async def main() -> None:
        batcher = Batcher(scorer)

        async def score(name: str, table: pa.Table, **options: int) -> pa.Table:
            result = await batcher.score(table, **options)
            done.append(name)
            return result

        first = asyncio.create_task(score("large", large))
        await asyncio.to_thread(packs.reached.acquire)
        second = asyncio.create_task(score("small", small, rank=rank))
        await until_waiting(batcher, 1)
        for _ in range(1000):
            packs.go.release()
        expected = scorer.encode(small)
        assert (await second)["num_tokens"].to_pylist() == [len(expected[0].ids)]
        assert (await first).num_rows == large.num_rows
        batcher.close()

    asyncio.run(main())
    assert len(packs.sizes) > 3, "the large one takes several packs"
    assert done == (["small", "large"] if rank == 0 else ["large", "small"])


def test_a_higher_priority_passes_a_long_forward_whatever_its_size(tiny_dir: Path) -> None:
    scorer = small_packs(tiny_dir)
    packs = Packs(scorer)
    done: list[str] = []

    async def main() -> None:
        batcher = Batcher(scorer)

        async def score(name: str, times: int, rank: int) -> None:
            table = pa.Table.from_pylist(GROUPS * times)
            assert (await batcher.score(table, rank=rank)).num_rows == table.num_rows
            done.append(name)

        offline = asyncio.create_task(score("offline", 16, 2))
        await asyncio.to_thread(packs.reached.acquire)
        train = [asyncio.create_task(score("train", 4, 0)) for _ in range(3)]
        await until_waiting(batcher, 3)
        for _ in range(1000):
            packs.go.release()
        await asyncio.gather(offline, *train)
        batcher.close()

    asyncio.run(main())
    assert done == ["train"] * 3 + ["offline"]


def test_a_stream_of_small_jobs_does_not_hold_up_a_large_one(tiny_dir: Path) -> None:
    scorer = small_packs(tiny_dir)
    packs = Packs(scorer)
    large = pa.Table.from_pylist(GROUPS * 4)

    async def main() -> int:
        batcher = Batcher(scorer)
        first = asyncio.create_task(batcher.score(large))
        await asyncio.to_thread(packs.reached.acquire)
        others = []
        while not first.done():
            others.append(asyncio.create_task(batcher.score(SHARDS[0].slice(0, 1))))
            packs.go.release()
            await asyncio.sleep(0)
        for _ in range(1000):
            packs.go.release()
        await asyncio.gather(first, *others)
        batcher.close()
        return len(others)

    assert asyncio.run(main()) > 0


def test_an_interrupting_job_that_fails_fails_alone(tiny_dir: Path) -> None:
    scorer = small_packs(tiny_dir)
    packs = Packs(scorer)
    results = scorer.results

    def fail_small(table: pa.Table, *others: Any) -> pa.Table:
        if table.num_rows == 1:
            raise RuntimeError("only this one")
        return results(table, *others)

    scorer.results = fail_small  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(scorer)
        first = asyncio.create_task(batcher.score(pa.Table.from_pylist(GROUPS * 4)))
        await asyncio.to_thread(packs.reached.acquire)
        second = asyncio.create_task(batcher.score(SHARDS[0].slice(0, 1)))
        await until_waiting(batcher, 1)
        for _ in range(1000):
            packs.go.release()
        with pytest.raises(RuntimeError, match="only this one"):
            await second
        assert (await first).num_rows == 48
        batcher.close()

    asyncio.run(main())


class Rows:
    """Results of which one row cannot be made."""

    def __init__(self, scorer: Scorer, bad: str) -> None:
        self.bad, self.results = bad, scorer.results
        scorer.results = self  # type: ignore[method-assign, assignment]

    def __call__(self, table: pa.Table, *others: Any) -> pa.Table:
        if self.bad in table["output"].to_pylist():
            raise IndexError("a bug")
        return self.results(table, *others)


def test_a_bug_that_one_caller_meets_is_not_the_others(gated: GatedScorer) -> None:
    shards = [pa.Table.from_pylist(GROUPS[i : i + 1]) for i in range(len(GROUPS))]
    expected = [gated_score(gated, shard) for shard in shards]
    Rows(gated, GROUPS[3]["output"])

    async def main() -> list[pa.Table | BaseException]:
        batcher = Batcher(gated)
        first = asyncio.create_task(batcher.score(shards[0]))
        await asyncio.to_thread(gated.started.wait, 30)
        rest = [asyncio.create_task(batcher.score(shard)) for shard in shards[1:]]
        await until_waiting(batcher, len(rest))
        gated.gate.set()
        found = await asyncio.gather(first, *rest, return_exceptions=True)
        await batcher.idle()
        batcher.close()
        return found

    found = asyncio.run(main())
    assert gated.forwards[: len(shards)] != [1] * len(shards), "they went together"
    for i, (one, right) in enumerate(zip(found, expected, strict=True)):
        if i == 3:
            assert isinstance(one, EngineError)
            assert str(one) == "IndexError: a bug"
        else:
            assert isinstance(one, pa.Table)
            assert one.equals(right)


def gated_score(gated: GatedScorer, shard: pa.Table) -> pa.Table:
    """What a shard's result is, past the gate."""
    encoded = gated.encode(shard)
    return gated.results(shard, encoded, Scorer.forward(gated, encoded))


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), KeyError("k" * 9999)], ids=repr)
def test_callers_hear_of_whatever_ends_a_forward(gated: GatedScorer, error: BaseException) -> None:
    def broken(*_: Any) -> ForwardResult:
        raise error

    gated.forward = broken  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(gated)
        with pytest.raises(EngineError, match=type(error).__name__) as caught:
            await asyncio.wait_for(batcher.score(SHARDS[0]), 30)
        assert len(str(caught.value)) < 1000
        batcher.close()

    asyncio.run(main())


def test_an_error_of_the_engine_itself_is_everybodys(gated: GatedScorer) -> None:
    """What the scorer does not try again is not tried apart either."""

    def gone(pack: Pack) -> Pending:
        calls.append(len(pack.records))
        raise DeviceLost("the device is gone")

    calls: list[int] = []
    gated.engine.submit = gone  # type: ignore[method-assign]

    async def main() -> list[Any]:
        batcher = Batcher(gated)
        tasks = [asyncio.create_task(batcher.score(shard)) for shard in SHARDS[:2]]
        await until_encoded(batcher, 2)
        gated.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return found

    assert [type(error) for error in asyncio.run(main())] == [DeviceLost] * 2
    assert len(calls) <= 2


async def until_encoded(batcher: Batcher, count: int) -> None:
    while batcher._number < count:  # noqa: ASYNC110  (the queue tells nobody when it grows)
        await asyncio.sleep(0.001)


def test_what_is_cancelled_is_let_go_of_at_once(gated: GatedScorer) -> None:
    """Though the engine is at something long, or for ever."""

    async def main() -> None:
        batcher = Batcher(gated)
        first = asyncio.create_task(batcher.score(SHARDS[0]))
        await asyncio.to_thread(gated.started.wait, 30)
        rest = [asyncio.create_task(batcher.score(SHARDS[1], rank=2)) for _ in range(300)]
        await until_waiting(batcher, 300)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        assert batcher._jobs == []
        assert batcher._calls == 1
        gated.gate.set()
        await first
        batcher.close()

    asyncio.run(main())


def test_idle_waits_for_the_pack_that_nobody_waits_for(gated: GatedScorer) -> None:
    """Whoever frees a model's memory once the batcher is idle must not find it in use."""

    async def main() -> None:
        batcher = Batcher(gated)
        call = asyncio.create_task(batcher.score(SHARDS[0]))
        await asyncio.to_thread(gated.started.wait, 30)
        call.cancel()
        idle = asyncio.create_task(batcher.idle())
        for _ in range(20):
            await asyncio.sleep(0)
        assert call.cancelled()
        assert not idle.done()
        gated.gate.set()
        await asyncio.wait_for(idle, 30)
        batcher.close()

    asyncio.run(main())


def test_slices_of_a_cancelled_call_are_not_encoded(
    gated: GatedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENCODE_ROWS", 1)
    encode, sizes = gated.encoder.encode, []
    reached, go = threading.Event(), threading.Event()

    def slow(table: pa.Table) -> list[Encoded]:
        sizes.append(table.num_rows)
        reached.set()
        assert go.wait(30)
        return encode(table)

    gated.encoder.encode = slow  # type: ignore[method-assign]

    async def main() -> None:
        batcher = Batcher(gated)
        calls = [asyncio.create_task(batcher.score(SHARDS[0])) for _ in range(50)]
        await asyncio.to_thread(reached.wait, 30)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        go.set()
        gated.gate.set()
        assert (await batcher.score(SHARDS[1])).num_rows == 3
        await batcher.idle()
        batcher.close()

    asyncio.run(main())
    assert len(sizes) == 1 + 3


@pytest.mark.parametrize("seed", range(12))
def test_calls_that_leave_at_any_step_leave_nothing_behind(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Some hundred calls, most of which are cancelled after a random number of turns of the event
    loop: while they encode, wait, are in a forward or are done. The others get their scores."""
    rng = random.Random(seed)
    monkeypatch.setattr(module, "ENCODE_ROWS", 2)
    engine = StubEngineConfig(seconds_per_token=rng.choice([0.0, 1e-6, 1e-5]))
    config = ScorerConfig(model=str(tiny_dir), engine=engine, max_tokens=rng.choice([64, 400]))
    scorer = Scorer(config)
    kinds = [pa.Table.from_pylist(rng.choices(GROUPS, k=rng.randint(1, 9))) for _ in range(10)]
    expected = [scorer.score(table) for table in kinds]

    async def leave(call: asyncio.Task[pa.Table], turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(rng.choice([0, 0, 0.0005]))
        call.cancel()

    async def main() -> int:
        batcher = Batcher(scorer)
        calls, leaving = [], []
        for _ in range(300):
            kind = rng.randrange(len(kinds))
            ranked = {"rank": rng.randrange(3), "timeout_s": rng.uniform(1, 100)}
            call = asyncio.create_task(batcher.score(kinds[kind], **ranked))
            calls.append((kind, call))
            if rng.random() < 0.8:
                leaving.append(asyncio.create_task(leave(call, rng.randrange(60))))
            if rng.random() < 0.3:
                await asyncio.sleep(0.0005)
        await asyncio.gather(*leaving)
        await asyncio.wait_for(batcher.idle(), 60)
        honest = 0
        for kind, call in calls:
            found = await asyncio.gather(call, return_exceptions=True)
            if not call.cancelled():
                honest += 1
                assert found[0].equals(expected[kind])
        assert (batcher._calls, batcher._jobs) == (0, [])
        for pool in (batcher._encoder, batcher._engine):
            await asyncio.wrap_future(pool.submit(int))
            assert pool._work_queue.empty()
        assert not any(thread._open for thread in batcher.progress)
        batcher.close()
        return honest

    assert asyncio.run(main()) >= 30


def test_a_failing_forward_reaches_its_callers_and_the_next_is_served(gated: GatedScorer) -> None:
    async def main() -> None:
        batcher = Batcher(gated)
        gated.gate.set()
        gated.failing = True
        with pytest.raises(RuntimeError, match="the device is gone"):
            await batcher.score(SHARDS[0])
        gated.failing = False
        table = await batcher.score(SHARDS[0])
        assert np.isfinite(table["score"].to_numpy()).all()
        batcher.close()

    asyncio.run(main())
