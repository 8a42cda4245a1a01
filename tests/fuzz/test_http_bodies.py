"""Mutated bodies through HTTP: in process by the ten thousand, and over the socket of a live pool.

Every answer is 200 with a row for each record, or a 4xx of this project with the error body.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import orjson
import pyarrow as pa
import pytest
from fuzz.mutations import LIMITS, json_bodies, mutate, streams
from processes import own, replica_pids, rss_mb
from sample_records import GROUPS
from scorer_as_router import ScorerAsRouter

from polar_ray.client import connect
from polar_ray.config import PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.errors import BY_NAME, HTTP_STATUS
from polar_ray.pool.http.json_body import JSON
from polar_ray.pool.http.routes import build_http
from polar_ray.pool.local import pool
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer
from polar_ray.stream import ARROW_STREAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "fuzz"
STREAMS = int(os.environ.get("FUZZ_HTTP_STREAMS", "20000"))
BODIES = int(os.environ.get("FUZZ_HTTP_BODIES", "5000"))
LIVE = int(os.environ.get("FUZZ_LIVE_BODIES", "2000"))
AT_ONCE = 8
Figure = Callable[[str], None]


def requests(num_streams: int, num_bodies: int) -> Iterator[tuple[str, bytes]]:
    """Mutated bodies with their content types."""
    chance = random.Random(20261122)
    kinds = [ARROW_STREAM] * num_streams + [JSON] * num_bodies
    chance.shuffle(kinds)
    good = {ARROW_STREAM: streams(), JSON: json_bodies()}
    for kind in kinds:
        yield kind, mutate(chance.choice(good[kind]), chance)


def check(answer: httpx.Response) -> None:
    """200 with whole rows in the kind that was sent, or a mapped 4xx."""
    kind = answer.headers["content-type"]
    if answer.status_code != 200:
        assert kind == JSON
        assert set(answer.json()) == {"error"}
        error = answer.json()["error"]
        assert set(error) == {"type", "message"}
        assert HTTP_STATUS[BY_NAME[error["type"]]] == answer.status_code
        assert 400 <= answer.status_code < 500, error
        assert len(answer.content) < 3000
    elif kind == ARROW_STREAM:
        with pa.ipc.open_stream(answer.content) as reader:
            table = reader.read_all()
        check_scores(table, table.num_rows)
    else:
        for row in orjson.loads(answer.content)["results"]:
            assert (row["score"] is None) != (row["error"] is None)


async def post_all(http: httpx.AsyncClient, bodies: Iterator[tuple[str, bytes]]) -> Counter[str]:
    """Posts and checks all, some at once; how many there were of each answer."""
    seen: Counter[str] = Counter()

    async def some() -> None:
        for kind, body in bodies:
            answer = await http.post("/score", content=body, headers={"content-type": kind})
            check(answer)
            seen[f"{answer.status_code} {kind.rpartition('/')[2]}"] += 1

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return seen


def test_mutated_bodies_through_the_app(tiny_dir: Path, figure: Figure) -> None:
    stub = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    router = ScorerAsRouter(stub, PoolConfig(http=LIMITS))
    # A bug must come back as the answer it would be, not as an exception in this test.
    app = httpx.ASGITransport(build_http(lambda: router), raise_app_exceptions=False)

    async def main() -> tuple[Counter[str], float]:
        async with httpx.AsyncClient(transport=app, base_url="http://pool") as http:
            await post_all(http, requests(2000, 500))
            warm = rss_mb([os.getpid()])
            return await post_all(http, requests(STREAMS, BODIES)), warm

    seen, warm = asyncio.run(main())
    after = rss_mb([os.getpid()])
    figure(f"{dict(sorted(seen.items()))}; memory {warm:.0f} -> {after:.0f} MB")
    assert sum(seen.values()) == STREAMS + BODIES
    assert seen[f"200 {ARROW_STREAM.rpartition('/')[2]}"] > 0
    assert router.admission.calls == router.admission.size_bytes == 0
    assert after - warm < 64


def everybody() -> set[int]:
    """All processes that a body comes through."""
    roles = (b"ray::ProxyActor", b"ray::ServeController")
    found = [pid for title in roles for pid in own(title)]
    return {*found, *replica_pids(NAME), *replica_pids(NAME, "Router")}


@pytest.mark.ray
def test_mutated_bodies_over_the_socket_of_a_pool(
    cluster: None, tiny_dir: Path, figure: Figure
) -> None:
    config = PoolConfig(
        model=str(tiny_dir),
        num_replicas=2,
        num_cpus=0.1,
        engine=StubEngineConfig(),
        http=LIMITS,
    )

    async def main(url: str) -> Counter[str]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            return await post_all(http, requests(LIVE * 4 // 5, LIVE // 5))

    with pool(config, name=NAME, route_prefix="/fuzz") as url, connect(address=url) as client:
        assert client.score(GROUPS[:1])
        before = everybody()
        seen = asyncio.run(main(url))
        assert None not in client.score(GROUPS)
        assert everybody() == before, "a process died"
    figure(f"{dict(sorted(seen.items()))}; the same {len(before)} processes as before")
    assert sum(seen.values()) == LIVE
