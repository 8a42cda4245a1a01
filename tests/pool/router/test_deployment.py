"""The router's shell without a cluster: what Serve's errors mean, deadlines, who is there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OwnerDiedError,
    RayTaskError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from polar_ray.config import AdmissionConfig, PoolConfig
from polar_ray.errors import (
    ConfigError,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    Overloaded,
    PolarRayError,
    PoolError,
    RecordError,
    ServersAway,
    TooLarge,
)
from polar_ray.pool.replica.away import with_reason
from polar_ray.pool.router import deployment as module
from polar_ray.pool.router import running
from polar_ray.pool.router.call import Served
from polar_ray.pool.router.deployment import Router
from polar_ray.pool.router.outcome import Died, Refused, Unreachable
from polar_ray.pool.router.replicas import outcome
from polar_ray.records import provenance
from polar_ray.stream import encode_arrow, read_arrow


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), Died),
        (ActorUnavailableError("x", None), Unreachable),
        (OwnerDiedError("00" * 28, b"", ""), Unreachable),
        (RequestCancelledError("x"), Unreachable),
        (BackPressureError(1, 1), Unreachable),
        (ReplicaUnavailableError("x"), Refused),
        (DeploymentUnavailableError(DeploymentID("Replica", "app")), Refused),
        (RayTaskError("score", "trace", RecordError("bad")), RecordError),
        (RayTaskError("score", "trace", ServersAway("gone")), Refused),
        (RayTaskError("score", "trace", EngineClosed("gone")), Refused),
        (RayTaskError("score", "trace", EngineError("bad")), EngineError),
        (RayTaskError("score", "trace", KeyError("bug")), KeyError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_becomes_of_a_parcel_is_one_of_four_things(
    error: Exception, kind: type[Exception]
) -> None:
    assert type(outcome(error)) is kind


SERVED = {"model_digest": "d"}


class Alive:
    """An answer to a heartbeat."""

    def remote(self, *, queued: object = None) -> Alive:
        return self

    def __await__(self) -> Generator[Any, None, dict[str, str]]:
        yield from asyncio.sleep(0).__await__()
        return SERVED


class Silent:
    """A deployment handle of replicas that live and never score, and its responses."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.sessions: set[str] = set()
        self.app_name = f"silent {id(self)}"

    def options(self, *, method_name: str = "", session_id: str = "", **options: Any) -> Any:
        self.sessions.add(session_id)
        return Alive() if method_name == "heartbeat" else self

    def remote(self, *parts: Any, **options: Any) -> Silent:
        return self

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(3600).__await__()

    def cancel(self) -> None:
        self.cancelled += 1


RECORD = {"prompt": "p", "reference": "r", "output": "o"}


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, "5", 1e300])
def test_a_deadline_that_would_hang_is_refused(silent: Silent, timeout_s: Any) -> None:
    router = Router(PoolConfig(), silent)
    with pytest.raises(RecordError, match="timeout_s="):
        asyncio.run(router.score([], timeout_s))
    with pytest.raises(RecordError, match="priority='vip'"):
        asyncio.run(router.score([], 1.0, "vip"))


@pytest.mark.parametrize("records", [[], [RECORD]])
def test_the_deadline_holds_for_every_part_of_a_call(silent: Silent, records: Any) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s: the pool has no replica"):
        asyncio.run(Router(PoolConfig(), silent).score(records, 0.01))


def test_what_is_on_its_way_is_cancelled_at_the_deadline(silent: Silent) -> None:
    running.publish(silent.app_name, ["r1"])

    async def main() -> None:
        router = Router(PoolConfig(), silent)
        await router.ready()
        with pytest.raises(DeadlineExceeded, match=r"works on 1 call; .* add replicas"):
            await router.score([RECORD], 0.05)
        assert silent.cancelled == 1
        assert "r1" in silent.sessions, "this names the replica for `request_router`"
        assert (await router.stats())["calls"] == 0

    asyncio.run(main())


def test_an_empty_call_of_a_pool_at_zero_waits_for_a_replica_as_others_do(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(module, "TICK_S", 0.001)

    async def main() -> None:
        router = Router(PoolConfig(min_replicas=0, max_replicas=1), silent)
        call = asyncio.create_task(router.score([], 30))
        await asyncio.sleep(0.05)
        assert not call.done()
        running.publish(silent.app_name, ["r1"])
        assert provenance(await call) == SERVED

    asyncio.run(main())


def test_ready_says_so_while_there_is_no_replica(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(module, "TICK_S", 0.001)

    async def main() -> None:
        router = Router(PoolConfig(), silent)
        with pytest.raises(PoolError, match="not ready: the pool has no replica"):
            await router.ready()
        monkeypatch.setattr(module, "READY_TIMEOUT_S", 30)
        waiting = asyncio.create_task(router.provenance())
        await asyncio.sleep(0)
        running.publish(silent.app_name, ["r1"])
        assert await waiting == SERVED

    asyncio.run(main())


def test_a_pool_whose_servers_went_away_is_not_ready_though_nobody_calls(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.001)
    said: Served = SERVED
    monkeypatch.setattr(Alive, "__await__", lambda self: _answer(said).__await__())
    running.publish(silent.app_name, ["r1"])

    async def main() -> None:
        nonlocal said
        router = Router(PoolConfig(), silent)
        await router.ready()
        said = with_reason(SERVED, "http://a: gone")
        monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.05)
        with pytest.raises(PoolError, match=r"only replica waits for servers .*: http://a: gone"):
            await router.ready()
        with pytest.raises(DeadlineExceeded, match=r"waits for servers .*: http://a: gone"):
            await router.score([RECORD], 0.05)
        said = SERVED
        monkeypatch.setattr(module, "READY_TIMEOUT_S", 30)
        assert await router.provenance() == SERVED
        await router.ready()

    asyncio.run(main())


def test_a_deadline_says_what_the_call_waited_for(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.001)
    loads: Served | None = None
    monkeypatch.setattr(Alive, "__await__", lambda self: _answer(loads).__await__())
    running.publish(silent.app_name, ["r1"])

    async def main() -> None:
        nonlocal loads
        router = Router(PoolConfig(), silent)
        with pytest.raises(DeadlineExceeded, match=r"s: the pool's only replica loads a model \("):
            await router.score([RECORD], 0.05)
        assert (await router.why_waiting()).startswith("the pool's only replica loads a model")
        loads = SERVED
        await router.ready()
        assert await router.why_waiting() == "the pool's only replica waits for calls"
        waiting = asyncio.create_task(router.score([RECORD], 60))
        await asyncio.sleep(0.01)
        assert await router.why_waiting() == "the pool's only replica works on 1 call"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(main())


def test_what_is_served_is_asked_of_a_replica(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights under another name, or others while nobody calls."""
    now: Served | None = {"model_digest": "d", "model": "before"}
    monkeypatch.setattr(Alive, "__await__", lambda self: _answer(now).__await__())
    running.publish(silent.app_name, ["r1"])

    async def main() -> None:
        nonlocal now
        router = Router(PoolConfig(), silent)
        assert (await router.provenance())["model"] == "before"
        now = {"model_digest": "d", "model": "after"}
        assert (await router.provenance())["model"] == "after"
        now = None  # it loads another
        assert (await router.provenance())["model"] == "before"

    asyncio.run(main())


async def _answer(served: Served | None) -> Served | None:
    await asyncio.sleep(0)
    return served


def test_a_stream_is_answered_by_one_as_its_table_would_be(silent: Silent) -> None:
    table = pa.table({name: ["x"] for name in RECORD})

    class Echo(Router):
        async def score(self, records: Any, timeout_s: Any = None, priority: str = "train") -> Any:
            return records.replace_schema_metadata({"asked": f"{timeout_s} {priority}"})

    answer = asyncio.run(Echo(PoolConfig(), silent).score_stream(encode_arrow(table), 5.0, "eval"))
    assert read_arrow(answer).equals(table)
    assert read_arrow(answer).schema.metadata == {b"asked": b"5.0 eval"}


def test_a_full_pool_refuses_and_a_batch_that_never_fits_is_told_so(silent: Silent) -> None:
    config = PoolConfig(admission=AdmissionConfig(max_calls=1, max_bytes=1000))
    huge = pa.table({name: ["x" * 1000] for name in RECORD})

    async def main() -> None:
        router = Router(config, silent)
        first = asyncio.create_task(router.score([RECORD], 60))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 calls are waiting") as caught:
            await router.score([RECORD], 60)
        assert caught.value.retry_after_s > 0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        with pytest.raises(TooLarge, match="max_bytes=1000"):
            await router.score(huge, 60)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), DeadlineExceeded),
        (asyncio.TimeoutError(), DeadlineExceeded),
        (GetTimeoutError(), DeadlineExceeded),
        (EngineError("bad"), EngineError),
        (KeyError("bug"), PoolError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_every_error_of_a_call_has_one_of_this_projects_names(
    silent: Silent, error: Exception, kind: type[PolarRayError]
) -> None:
    assert type(Router(PoolConfig(), silent)._translate(error, 2.0)) is kind


def test_dangerous_settings_of_ray_are_refused(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    with pytest.raises(ConfigError, match="RAY_SERVE_THROUGHPUT_OPTIMIZED is set: it sends"):
        Router(PoolConfig(), silent)
