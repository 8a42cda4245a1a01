"""The router's queue against replicas that obey, die, hang, lie and change their model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from parcels import scored

from polar_ray.errors import EngineError, PoolError
from polar_ray.planning.shard import Shards
from polar_ray.pool.router import recovery, retries
from polar_ray.pool.router.call import Served, Urgency
from polar_ray.pool.router.dispatcher import Dispatcher
from polar_ray.pool.router.health import UNRESPONSIVE_S
from polar_ray.pool.router.outcome import Died, Refused, Unreachable
from polar_ray.pool.router.work import Attempt
from polar_ray.scores import provenance
from polar_ray.sizes import SMALL_BYTES

FAT = 10 * SMALL_BYTES


class Sent:
    """A parcel at a replica, which the test answers as it likes."""

    def __init__(self, replica: str, table: pa.Table, urgency: Urgency, digest: str) -> None:
        self.replica, self.table, self.urgency, self.digest = replica, table, urgency, digest
        self.result: asyncio.Future[pa.Table] = asyncio.get_running_loop().create_future()

    @property
    def outputs(self) -> list[str]:
        outputs: list[str] = self.table["output"].to_pylist()
        return outputs

    def answer(self, digest: str | None = None) -> None:
        self.result.set_result(scores(self.table, digest or self.digest))

    def fail(self, error: Exception) -> None:
        self.result.set_exception(error)


def scores(table: pa.Table, digest: str) -> pa.Table:
    """The number that each output is."""
    return scored(table, [float(text) for text in table["output"].to_pylist()], digest)


class Cluster:
    """Replicas for a dispatcher, and its clock."""

    def __init__(self, *names: str, digest: str = "v1") -> None:
        self.now = 1000.0
        self.sent: list[Sent] = []
        self.heartbeats: list[tuple[str, asyncio.Future[bool]]] = []
        self.digests: dict[str, str] = dict.fromkeys(names, digest)
        self.introduced: set[str] = set()
        self.dispatcher = Dispatcher(self._send, self._ask, self._reserve, clock=lambda: self.now)
        self.publish()

    def publish(self) -> None:
        self.dispatcher.set_members(list(self.digests))

    async def _send(self, attempt: Attempt) -> pa.Table:
        replica = attempt.member.name
        digest = self.digests.get(replica, "v1")
        sent = Sent(replica, attempt.request(), attempt.parcel.urgency, digest)
        self.sent.append(sent)
        return await sent.result

    async def _reserve(self, replica: str) -> None:
        """Replicas of tests have nothing to finish."""

    async def _ask(self, replica: str) -> Served | None:
        """Who is new says at once what it serves; later, the test answers."""
        if replica in self.introduced:
            self.heartbeats.append((replica, asyncio.get_running_loop().create_future()))
            if not await self.heartbeats[-1][1]:
                return None
        self.introduced.add(replica)
        return {"model_digest": self.digests[replica]}

    def call(
        self,
        outputs: range | list[int],
        *,
        shards: int = 1,
        cost: int = FAT,
        rank: int = 0,
        deadline_s: float = 60,
        group: int | None = None,
    ) -> asyncio.Task[list[float]]:
        """A call of the dispatcher; gives the scores."""
        texts = [str(one) for one in outputs]
        table = pa.table({"prompt": texts, "reference": texts, "output": texts})
        rows = np.array_split(np.arange(len(texts)), shards)

        async def score() -> list[float]:
            sharded = Shards(rows, [cost] * shards, group)
            deadline = self.now + deadline_s
            result = await self.dispatcher.score(table, sharded, rank=rank, deadline=deadline)
            assert provenance(result)
            found: list[float] = result["score"].to_pylist()
            return found

        return asyncio.create_task(score())

    def serve(self, answer: Callable[[Sent], None]) -> asyncio.Task[None]:
        """Lets `answer` handle every parcel as it comes."""

        async def loop() -> None:
            done = 0
            while True:
                for sent in self.sent[done:]:
                    done += 1
                    if not sent.result.done():
                        answer(sent)
                await asyncio.sleep(0)

        return asyncio.create_task(loop())

    def pass_time(self) -> asyncio.Task[None]:
        """Half a second for every hundred turns of the event loop; replicas answer heartbeats."""

        async def loop() -> None:
            while True:
                for _ in range(100):
                    await asyncio.sleep(0)
                self.now += 0.5
                self.dispatcher.tick()
                for _, heartbeat in self.heartbeats:
                    if not heartbeat.done():
                        heartbeat.set_result(True)

        return asyncio.create_task(loop())


async def settle() -> None:
    """Runs all that can run; fat parcels are put together in a thread, so it waits for those."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)
        for _ in range(3):  # a cancelled task ends a turn after its cancellation
            await asyncio.sleep(0)
        leaked = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not leaked, "every task has ended with its call"

    asyncio.run(bounded())


def test_shards_come_back_in_request_order() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call(range(10), shards=4)
        await settle()
        assert sorted(sent.replica for sent in cluster.sent) == ["a", "a", "b", "b"]
        for sent in reversed(cluster.sent):
            sent.answer()
        assert await call == list(range(10))

    run(main)


def test_work_waits_here_and_goes_to_whoever_is_free_first() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call(range(6), shards=6)
        await settle()
        assert len(cluster.sent) == 4, "two slots each"
        cluster.sent[1].answer()
        await settle()
        assert cluster.sent[4].replica == cluster.sent[1].replica
        for sent in cluster.sent[:1] + cluster.sent[2:]:
            sent.answer()
        await settle()
        cluster.sent[5].answer()
        assert await call == list(range(6))

    run(main)


def test_the_most_urgent_work_leaves_first() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        first = [cluster.call([0], cost=FAT) for _ in range(2)]
        await settle()
        later = [
            cluster.call([1], rank=2, deadline_s=1),
            cluster.call([2], rank=0, deadline_s=50),
            cluster.call([3], rank=0, deadline_s=10),
            cluster.call([4], rank=1),
        ]
        await settle()
        server = cluster.serve(Sent.answer)
        await asyncio.gather(*first, *later)
        server.cancel()
        assert [sent.outputs for sent in cluster.sent[2:]] == [["3"], ["2"], ["4"], ["1"]]

    run(main)


def test_single_record_calls_become_full_parcels_and_a_lone_one_leaves_at_once() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        lone = cluster.call([0], cost=100)
        await settle()
        assert [sent.outputs for sent in cluster.sent] == [["0"]]
        calls = [cluster.call([n], cost=100) for n in range(1, 500)]
        server = cluster.serve(Sent.answer)
        assert await asyncio.gather(lone, *calls) == [[n] for n in range(500)]
        server.cancel()
        assert len(cluster.sent) < 8

    run(main)


def test_small_calls_are_spread_over_free_replicas() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        calls = [cluster.call([n], cost=100) for n in range(40)]
        await settle()
        assert [len(sent.outputs) for sent in cluster.sent[:4]] == [10, 10, 10, 10]
        server = cluster.serve(Sent.answer)
        await asyncio.gather(*calls)
        server.cancel()

    run(main)


def test_a_small_call_does_not_wait_for_fat_ones() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        fat = cluster.call(range(8), shards=8)
        await settle()
        small = cluster.call([9], cost=100)
        await settle()
        cluster.sent[2].answer()
        assert await small == [9]
        server = cluster.serve(Sent.answer)
        await fat
        server.cancel()

    run(main)


def test_a_group_stays_with_one_replica() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b", "c")
        homes: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
        server = cluster.serve(Sent.answer)
        for n in range(30):
            calls = [cluster.call([n], cost=100, group=group) for group in homes]
            await asyncio.gather(*calls)
            for group, sent in enumerate(cluster.sent[-3:]):
                homes[group].add(sent.replica)
        server.cancel()
        assert [len(names) for names in homes.values()] == [1, 1, 1]

    run(main)


def test_what_a_dead_replica_held_goes_to_another_and_the_rest_stays() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call(range(4), shards=4)
        await settle()
        dead = [sent for sent in cluster.sent if sent.replica == "a"]
        for sent in dead:
            sent.fail(Died())
        cluster.publish()  # the controller has not noticed yet
        await settle()
        assert len(cluster.sent) == 4, "b is full, a is dead"
        server = cluster.serve(Sent.answer)
        assert await call == list(range(4))
        server.cancel()
        assert [sent.replica for sent in cluster.sent[4:]] == ["b", "b"]
        assert sorted(o for s in cluster.sent[4:] for o in s.outputs) == sorted(
            o for s in dead for o in s.outputs
        )

    run(main)


def test_work_waits_for_the_first_replica() -> None:
    async def main() -> None:
        cluster = Cluster()
        call = cluster.call([1, 2])
        await settle()
        assert not cluster.sent
        cluster.digests["late"] = "v1"
        cluster.publish()
        server = cluster.serve(Sent.answer)
        assert await call == [1, 2]
        server.cancel()

    run(main)


@pytest.mark.parametrize("error", [Unreachable(), Refused(), RuntimeError("a bug")])
def test_work_that_comes_back_goes_elsewhere(error: Exception) -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1, 2])
        await settle()
        cluster.sent[0].fail(error)
        await settle()
        assert {sent.replica for sent in cluster.sent} == {"a", "b"}
        cluster.sent[1].answer()
        assert await call == [1, 2]

    run(main)


def test_errors_that_stay_are_told_and_nobody_else_hears_of_them() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b", "c")

        def answer(sent: Sent) -> None:
            if "13" in sent.outputs:
                sent.fail(EngineError("no such luck"))
            else:
                sent.answer()

        server = cluster.serve(answer)
        good, bad = cluster.call(range(5)), cluster.call([13])
        with pytest.raises(EngineError, match="no such luck"):
            await bad
        assert await good == list(range(5))
        server.cancel()
        assert len(cluster.sent) == 1 + recovery.MAX_FAILURES

    run(main)


def test_a_result_that_breaks_the_contract_is_a_failure_of_its_replica() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1, 2])
        await settle()
        cluster.sent[0].result.set_result(scores(cluster.sent[0].table.slice(1), "v1"))
        await settle()
        cluster.sent[1].answer()
        assert await call == [1, 2]

    run(main)


@pytest.mark.parametrize("shards", [1, 6])
def test_a_record_that_kills_is_found_in_five_deaths_and_its_neighbours_are_scored(
    shards: int,
) -> None:
    async def main() -> None:
        cluster = Cluster("r0", "r1", "r2")
        born = 3

        def answer(sent: Sent) -> None:
            nonlocal born
            if "1234" not in sent.outputs:
                sent.answer()
                return
            # All that the replica holds dies with it; the cluster starts another.
            for other in cluster.sent:
                if other.replica == sent.replica and not other.result.done():
                    other.fail(Died())
            del cluster.digests[sent.replica]
            cluster.digests[f"r{born}"] = "v1"
            born += 1
            cluster.publish()

        server, time = cluster.serve(answer), cluster.pass_time()
        beside = [cluster.call([5000 + n], cost=100) for n in range(50)]
        found = await cluster.call(range(4096), shards=shards)
        assert [n for n, score in enumerate(found) if score is None] == [1234]
        assert [score for score in found if score is not None] == [
            n for n in range(4096) if n != 1234
        ]
        assert [await call for call in beside] == [[5000 + n] for n in range(50)]
        assert cluster.dispatcher.counters["deaths"] <= 5
        assert cluster.dispatcher.counters["poison"] == 1
        again = await cluster.call([1233, 1234, 1235])
        assert again == [1233, None, 1235]
        assert born - 3 == cluster.dispatcher.counters["deaths"], "it is remembered"
        server.cancel()
        time.cancel()

    run(main)


def test_a_replica_that_does_not_answer_loses_its_work_and_a_late_answer_changes_nothing() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1, 2])
        await settle()
        stuck = cluster.sent[0]
        cluster.now += 1.5
        cluster.dispatcher.tick()
        await settle()
        [(name, heartbeat)] = cluster.heartbeats
        assert name == stuck.replica
        cluster.now += UNRESPONSIVE_S + 1
        cluster.dispatcher.tick()
        await settle()
        assert len(cluster.sent) == 2
        assert cluster.sent[1].replica != stuck.replica
        other = cluster.call([3], cost=FAT)
        await settle()
        assert cluster.sent[2].replica != stuck.replica, "it gets nothing new"
        cluster.sent[1].answer()
        assert await call == [1, 2]
        assert stuck.result.cancelled()
        heartbeat.set_result(True)
        await settle()
        assert cluster.dispatcher.members[stuck.replica].available
        cluster.sent[2].answer()
        assert await other == [3]

    run(main)


def test_a_busy_replica_that_answers_keeps_its_work() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1])
        await settle()
        for _ in range(20):
            cluster.now += 2.0
            cluster.dispatcher.tick()
            await settle()
            cluster.heartbeats[-1][1].set_result(True)
            await settle()
        assert len(cluster.sent) == 1
        cluster.sent[0].answer()
        assert await call == [1]

    run(main)


def test_a_replica_that_loads_a_model_gets_nothing_until_it_has_it() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1, 2])
        await settle()
        loading = cluster.sent[0].replica
        cluster.now += 1.5
        cluster.dispatcher.tick()
        await settle()
        cluster.heartbeats[-1][1].set_result(False)
        await settle()
        assert len(cluster.sent) == 2, "its work goes elsewhere at once"
        assert cluster.sent[1].replica != loading
        cluster.sent[1].answer()
        assert await call == [1, 2]
        [other] = cluster.digests.keys() - {loading}
        others = [cluster.call([n]) for n in (3, 4)]
        await settle()
        assert [sent.replica for sent in cluster.sent[2:]] == [other, other]
        for sent in cluster.sent[2:]:
            sent.answer()
        await asyncio.gather(*others)
        cluster.digests[loading] = "v2"
        cluster.dispatcher.tick()
        await settle()
        cluster.heartbeats[-1][1].set_result(True)
        await settle()
        assert cluster.dispatcher.members[loading].digest == "v2"
        assert cluster.dispatcher.members[loading].available

    run(main)


def test_who_is_new_gets_work_once_it_has_said_what_it_serves() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        cluster.introduced.add("a")
        call = cluster.call([1])
        await settle()
        assert cluster.sent == []
        assert cluster.dispatcher.served is None
        cluster.heartbeats[0][1].set_result(True)
        await settle()
        assert cluster.dispatcher.served == {"model_digest": "v1"}
        cluster.sent[0].answer()
        assert await call == [1]

    run(main)


def test_an_idle_replica_repeats_what_a_slow_one_is_late_with() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        for n in range(10):
            call = cluster.call([n])
            await settle()
            cluster.now += 1.0
            cluster.sent[-1].answer()
            await call
        slow = cluster.call([77])
        await settle()
        for seconds, copies in ((3.5, 1), (1.0, 2), (9.0, 2)):
            cluster.now += seconds
            cluster.dispatcher.tick()
            await settle()
            for _, heartbeat in cluster.heartbeats:
                if not heartbeat.done():
                    heartbeat.set_result(True)
            await settle()
            assert len(cluster.sent) == 10 + copies
        first, second = cluster.sent[10:]
        assert first.replica != second.replica
        second.answer()
        assert await slow == [77]
        assert first.result.cancelled()

    run(main)


def test_a_replica_that_works_but_has_a_slot_repeats_it_too() -> None:
    """In a pool under load no replica is ever idle; that must not keep the late from being
    repeated."""

    async def main() -> None:
        cluster = Cluster("a", "b")
        first = cluster.call([1])
        await settle()
        cluster.now += 0.1
        cluster.sent[0].answer()
        await first
        slow = cluster.call([77])
        await settle()
        cluster.now += 2.5
        beside = cluster.call([78])
        await settle()
        late, busy = cluster.sent[1:]
        assert late.replica != busy.replica
        cluster.dispatcher.tick()
        await settle()
        [again] = cluster.sent[3:]
        assert (again.replica, again.outputs) == (busy.replica, ["77"])
        again.answer()
        assert await slow == [77]
        assert not beside.done()
        busy.answer()
        assert await beside == [78]
        for _, heartbeat in cluster.heartbeats:
            heartbeat.set_result(None)
        await settle()

    run(main)


def test_who_leaves_takes_the_work_along() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        calls = [cluster.call(range(4), shards=4), cluster.call([7])]
        await settle()
        for call in calls:
            call.cancel()
        await settle()
        assert [sent.result.cancelled() for sent in cluster.sent] == [True, True]
        last = cluster.call([9])
        await settle()
        assert cluster.sent[-1].outputs == ["9"], "what had waited is gone"
        cluster.sent[-1].answer()
        assert await last == [9]

    run(main)


def test_one_of_several_callers_in_a_parcel_may_leave() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        blockers = [cluster.call([0], cost=FAT) for _ in range(2)]
        blockers.append(cluster.call([0], cost=100))
        await settle()
        calls = [cluster.call([n], cost=100) for n in range(3)]
        await settle()
        for sent in cluster.sent[:3]:
            sent.answer()
        await settle()
        joined = cluster.sent[3:]
        calls[1].cancel()
        await settle()
        assert not any(sent.result.cancelled() for sent in joined if len(sent.outputs) > 1)
        for sent in joined:
            if not sent.result.done():
                sent.answer()
        assert await calls[0] == [0]
        assert await calls[2] == [2]
        await asyncio.gather(*blockers)

    run(main)


def test_no_call_mixes_two_models() -> None:
    async def main() -> None:
        cluster = Cluster("old")
        call = cluster.call(range(3), shards=3)
        await settle()
        cluster.digests["new"] = "v2"
        cluster.publish()
        await settle()
        assert {sent.replica for sent in cluster.sent} == {"old"}, "the third shard waits for old"
        cluster.sent[0].answer()
        await settle()
        del cluster.digests["old"]
        cluster.publish()
        cluster.sent[1].fail(Died())
        server = cluster.serve(Sent.answer)
        assert await call == [0, 1, 2]
        server.cancel()
        assert cluster.dispatcher.counters["restarts"] == 1
        anew = [sent for sent in cluster.sent if sent.replica == "new"]
        assert sorted(o for sent in anew for o in sent.outputs) == ["0", "1", "2"]

    run(main)


def test_a_replica_that_changes_its_model_in_place_is_noticed() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        call = cluster.call(range(2), shards=2)
        await settle()
        cluster.sent[0].answer()
        cluster.sent[1].answer("v2")
        await settle()
        server = cluster.serve(lambda sent: sent.answer("v2"))
        assert await call == [0, 1]
        server.cancel()
        assert cluster.dispatcher.counters["restarts"] == 1

    run(main)


def test_a_model_that_never_stays_ends_the_call() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        versions = iter(f"v{n}" for n in range(100, 1000))
        server = cluster.serve(lambda sent: sent.answer(next(versions)))
        with pytest.raises(PoolError, match="changed its model"):
            await cluster.call(range(4), shards=2)
        server.cancel()

    run(main)


def test_repetitions_that_the_budget_refuses_wait_for_it() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        sick = True

        def answer(sent: Sent) -> None:
            if sick:
                sent.fail(Unreachable())
            else:
                sent.answer()

        server = cluster.serve(answer)
        calls = [cluster.call([n]) for n in range(40)]
        for _ in range(50):
            await settle()
        assert len(cluster.sent) <= 40 + retries.BURST, "each once, the burst, and then silence"
        sick = False
        time = cluster.pass_time()
        assert await asyncio.gather(*calls) == [[n] for n in range(40)]
        server.cancel()
        time.cancel()

    run(main)


def test_callers_who_leave_in_the_turn_in_which_their_parcel_leaves_take_no_slot_along() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        for n in range(10):
            call = cluster.call([n])
            await asyncio.sleep(0)  # the call begins
            await asyncio.sleep(0)  # its parcel leaves
            call.cancel()
            await settle()
        assert set(cluster.dispatcher.held.values()) == {0}
        last = cluster.call([9])
        await settle()
        cluster.sent[-1].answer()
        assert await last == [9]

    run(main)


def test_what_expired_while_there_was_no_replica_is_forgotten() -> None:
    async def main() -> None:
        cluster = Cluster()
        calls = [cluster.call(range(8), shards=8) for _ in range(20)]
        await settle()
        assert cluster.dispatcher.held["waiting_parcels"] == 160
        for call in calls:
            call.cancel()
        await settle()
        cluster.dispatcher.tick()
        assert set(cluster.dispatcher.held.values()) == {0}

    run(main)


def test_a_result_of_other_rows_or_in_another_order_is_never_delivered() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b")
        call = cluster.call([1, 2])
        await settle()
        [sent] = cluster.sent
        sent.result.set_result(scores(sent.table.take([1, 0]), "v1"))
        await settle()
        cluster.sent[1].answer()
        assert await call == [1, 2]

    run(main)


def test_an_error_that_one_of_many_callers_brings_is_told_to_that_one_only() -> None:
    async def main() -> None:
        cluster = Cluster("a", "b", "c")
        blockers = [cluster.call([0]) for _ in range(6)]
        await settle()

        def answer(sent: Sent) -> None:
            if "13" in sent.outputs:
                sent.fail(IndexError("a bug that one record wakes"))
            else:
                sent.answer()

        calls = [cluster.call([n], cost=100) for n in range(1, 23)]
        await settle()
        server, time = cluster.serve(answer), cluster.pass_time()
        found = await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*blockers)
        server.cancel()
        time.cancel()
        assert [n for n, one in enumerate(found, 1) if isinstance(one, PoolError)] == [13]
        assert [one for one in found if isinstance(one, list)] == [
            [n] for n in range(1, 23) if n != 13
        ]

    run(main)


def test_a_quarantined_row_has_the_provenance_of_its_call() -> None:
    """While a pool changes its model, the row's neighbours may be scored by another than the one
    that is named first."""

    async def main() -> None:
        cluster = Cluster("old", digest="v1")
        cluster.digests["new"] = "v2"
        cluster.publish()
        await settle()
        texts = ["1", "2"]
        table = pa.table({"prompt": texts, "reference": texts, "output": texts})
        cluster.dispatcher._quarantine.add(table, 0, cluster.now)

        async def score() -> pa.Table:
            sharded = Shards([np.arange(2)], [FAT], None)
            return await cluster.dispatcher.score(table, sharded, rank=0, deadline=cluster.now + 60)

        calls = [asyncio.create_task(score()) for _ in range(2)]
        await settle()
        assert {sent.digest for sent in cluster.sent} == {"v1", "v2"}
        for sent in cluster.sent:
            assert sent.outputs == ["2"]
            sent.answer()
        results = await asyncio.gather(*calls)
        assert {provenance(result)["model_digest"] for result in results} == {"v1", "v2"}
        assert all(result["score"].to_pylist() == [None, 2.0] for result in results)

    run(main)


def test_wrappers_and_their_absence_travel_together() -> None:
    plain = {"prompt": ["p"], "reference": ["r"], "output": ["1"]}

    async def main() -> None:
        cluster = Cluster("a")
        blockers = [cluster.call([0], cost=FAT) for _ in range(2)]
        await settle()

        async def one(**columns: list[str]) -> pa.Table:
            table = pa.table({**plain, **columns})
            sharded = Shards([np.array([0])], [100], None)
            return await cluster.dispatcher.score(table, sharded, rank=0, deadline=cluster.now + 60)

        calls = [asyncio.create_task(one()), asyncio.create_task(one(wrapper=["pretrain"]))]
        await settle()
        assert cluster.sent[2].table["wrapper"].to_pylist() == [None, "pretrain"]
        server = cluster.serve(Sent.answer)
        await asyncio.gather(*calls, *blockers)
        server.cancel()

    run(main)


def test_a_deleted_pool_ends_what_waits_and_lets_what_is_held_finish() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        held, waiting, both = cluster.call([1]), cluster.call([2, 3]), cluster.call([4])
        await settle()
        first, second = cluster.sent
        assert first.outputs == ["1"]
        cluster.digests.clear()
        cluster.publish()
        cluster.dispatcher.give_up("pool 'p' was deleted")
        await settle()
        assert both.done()
        with pytest.raises(PoolError, match="pool 'p' was deleted"):
            await both
        first.answer()
        assert await held == [1]
        late = cluster.call([5])
        with pytest.raises(PoolError, match="pool 'p' was deleted"):
            await late
        second.fail(Died())  # what comes back waits for nobody
        with pytest.raises(PoolError, match="pool 'p' was deleted"):
            await waiting

    run(main)


def test_a_deleted_pool_ends_what_is_held_too_when_its_time_is_over() -> None:
    async def main() -> None:
        cluster = Cluster("a")
        held = cluster.call([1])
        await settle()
        cluster.dispatcher.give_up("pool 'p' was deleted", held=True)
        with pytest.raises(PoolError, match="pool 'p' was deleted"):
            await held
        assert cluster.sent[0].result.cancelled()

    run(main)
