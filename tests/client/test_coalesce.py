"""Small calls travel together; each keeps its own rows, deadline and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pyarrow as pa
import pytest

from polar_ray.call_options import Priority
from polar_ray.client import coalesce
from polar_ray.client.coalesce import SMALL_BYTES, Coalescer
from polar_ray.errors import DeadlineExceeded, Overloaded, PolarRayError, RecordError, TooLarge


def table(*outputs: str, ids: bool = False) -> pa.Table:
    columns = {name: pa.array(outputs) for name in ("prompt", "reference", "output")}
    if ids:
        columns["id"] = pa.array(range(len(outputs)))
    return pa.table(columns)


class Pool:
    """Keeps every call until it is let go; each row's score is its text."""

    def __init__(self, error: Callable[[list[str]], Exception | None] = lambda _: None) -> None:
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []
        self.priorities: list[Priority] = []
        self.cancelled = 0
        self.go = asyncio.Event()
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self._error = error

    async def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        outputs: list[str] = batch["output"].to_pylist()
        self.calls.append(outputs)
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        self.arrived.put_nowait(None)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error := self._error(outputs):
            raise error
        return pa.table({"score": outputs})


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def scores(result: pa.Table) -> list[str]:
    found: list[str] = result["score"].to_pylist()
    return found


def test_calls_of_one_turn_are_one_call_and_each_gets_its_rows() -> None:
    async def main() -> None:
        pool = Pool()
        join = Coalescer(pool.send)
        pool.go.set()
        tables = [table(f"{n}", f"{n}b")[: 1 + n % 2] for n in range(100)]
        results = await asyncio.gather(*(join.send(one, 9, "train") for one in tables))
        assert len(pool.calls) == 1
        assert [scores(one) for one in results] == [one["output"].to_pylist() for one in tables]

    asyncio.run(main())


def test_a_lone_call_leaves_at_once_and_later_ones_wait_for_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "WAIT_S", 0.5)
    monkeypatch.setattr(coalesce, "LONGEST_WAIT_S", 0.5)

    async def main() -> None:
        pool = Pool()
        join = Coalescer(pool.send)
        first = asyncio.create_task(join.send(table("a"), 9, "train"))
        await turns()
        assert pool.calls == [["a"]]
        others = []
        for text in "bcd":
            others.append(asyncio.create_task(join.send(table(text), 9, "train")))
            await turns()
        assert pool.calls == [["a"]], "one is on its way"
        await pool.arrived.get()
        await pool.arrived.get()
        assert pool.calls == [["a"], ["b", "c", "d"]]
        pool.go.set()
        assert [scores(await one) for one in (first, *others)] == [["a"], ["b"], ["c"], ["d"]]

    asyncio.run(main())


def test_what_is_full_or_large_or_of_another_kind_does_not_wait() -> None:
    async def main() -> None:
        pool = Pool()
        pool.go.set()
        join = Coalescer(pool.send)
        large = table("x" * SMALL_BYTES)
        half = table("y" * (SMALL_BYTES // 4))
        sent: list[tuple[pa.Table, Priority]] = [(large, "train"), (table("a"), "train")]
        sent += [(table("b"), "eval"), (table("c", ids=True), "train")]
        sent += [(half, "train")] * 12
        await asyncio.gather(*(join.send(one, 9, kind) for one, kind in sent))
        calls = sorted("".join(text[0] for text in call) for call in pool.calls)
        # 64 KiB four times over is one bundle; each of the halves is 48 KiB by its three columns.
        assert calls == ["ayyyyyy", "b", "c", "x", "yyyyyy"]
        assert pool.priorities.count("eval") == 1

    asyncio.run(main())


def test_each_keeps_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pool = Pool()
        join = Coalescer(pool.send)

        async def send(text: str, timeout_s: float, grace_s: float) -> pa.Table:
            monkeypatch.setattr(coalesce, "GRACE_S", grace_s)
            return await join.send(table(text), timeout_s, "train")

        short = asyncio.create_task(send("a", 0.26, 0.0))
        long = asyncio.create_task(send("b", 0.49, 60.0))
        with pytest.raises(DeadlineExceeded, match=r"within 0\.26 s"):
            await short
        assert pool.calls == [["a", "b"]]
        assert 0.26 < pool.timeouts[0] <= 0.49, "the later one is the pool's"
        pool.go.set()
        assert scores(await long) == ["b"]

    asyncio.run(main())


def test_the_pool_is_told_when_the_last_caller_has_gone() -> None:
    async def main() -> None:
        pool = Pool()
        join = Coalescer(pool.send)
        calls = [asyncio.create_task(join.send(table(text), 60, "train")) for text in "ab"]
        await turns()
        for n, call in enumerate(calls):
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await turns()
            assert pool.cancelled == n
        # Nobody is left before it leaves: there is no call at all.
        gone = asyncio.create_task(join.send(table("c"), 60, "train"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(3 * coalesce.WAIT_S)
        assert pool.calls == [["a", "b"]]

    asyncio.run(main())


@pytest.mark.parametrize("error", [Overloaded("full", 2.5), PolarRayError("broken")])
def test_an_error_of_the_pool_is_everybodys(error: PolarRayError) -> None:
    async def main() -> None:
        pool = Pool(lambda _: error)
        pool.go.set()
        join = Coalescer(pool.send)
        calls = (join.send(table(text), 9, "train") for text in "abc")
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert len(pool.calls) == 1
        assert [(type(one), str(one)) for one in found] == [(type(error), str(error))] * 3
        assert len({id(one) for one in found}) == 3
        if isinstance(error, Overloaded):
            assert all(isinstance(one, Overloaded) and one.retry_after_s == 2.5 for one in found)

    asyncio.run(main())


def test_nobody_suffers_from_what_another_did_wrong() -> None:
    async def main() -> None:
        pool = Pool(lambda outputs: TooLarge("too much") if "bad" in outputs else None)
        pool.go.set()
        join = Coalescer(pool.send)
        calls = (join.send(table(text), 9, "train") for text in ("a", "bad", "c"))
        first, bad, last = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, RecordError)
        assert isinstance(first, pa.Table)
        assert isinstance(last, pa.Table)
        assert (scores(first), scores(last)) == (["a"], ["c"])

    asyncio.run(main())


def test_the_urgent_do_not_travel_with_those_who_have_time() -> None:
    async def main() -> None:
        pool = Pool()
        pool.go.set()
        join = Coalescer(pool.send)
        waits = {"a": 2.0, "b": 3.5, "c": 600.0, "d": 700.0}
        calls = (join.send(table(text), timeout_s, "train") for text, timeout_s in waits.items())
        await asyncio.gather(*calls)
        assert sorted(pool.calls) == [["a", "b"], ["c", "d"]]

    asyncio.run(main())
