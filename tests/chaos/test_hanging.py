"""One record on which the engine hangs: it is found and reported, the others are scored, and who
calls meanwhile is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chaos.load import Account, Oracle, batch, by, run_load, stub_pool
from chaos.observe import GUARD_S, idle, is_whole, until
from processes import replica_pids

from polar_ray.client import connect
from polar_ray.config import StubEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.errors import PolarRayError

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

NAME = "hanging"
REPLICAS = 4
RECORDS = 4096
HANGS = 1234
MOST_REPLACED = 5
PATIENCE_S = 2 * GUARD_S
"""Deadline of the call with the hanging record, and of the others': no wait is meant to be long."""

Figure = Callable[[str], None]


@contextmanager
def processes_seen() -> Iterator[set[int]]:
    """Collects the process ids of all replicas that there are meanwhile."""
    seen = set(replica_pids(NAME))
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.update(replica_pids(NAME))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def records_with(row: int, text: str) -> list[dict[str, Any]]:
    """Records of which one has another output."""
    rows: list[dict[str, Any]] = batch(0, RECORDS).to_pylist()
    rows[row]["output"] = text
    return rows


def without(table: pa.Table, row: int) -> pa.Table:
    """All rows but one."""
    return pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


async def beside_others(
    rows: list[dict[str, Any]], oracle: Oracle
) -> tuple[pa.Table | str, Account]:
    """Scores records while others score theirs; the result or what came instead, and what became of
    the others meanwhile."""
    client = connect(app_name=NAME)
    over = asyncio.Event()
    warm, others = Account(), Account()
    call = by(client, timeout_s=PATIENCE_S)
    # Replicas know their own speed before anything hangs.
    await run_load(call, oracle, records=2000, size=50, start=1 << 29, account=warm)
    load = asyncio.create_task(
        run_load(
            call,
            oracle,
            records=0,
            size=50,
            callers=6,
            until=over,
            start=1 << 30,
            account=others,
        )
    )
    try:
        result: pa.Table | str = await client.score_table_async(rows, timeout_s=PATIENCE_S)
    except PolarRayError as error:
        result = f"{type(error).__name__}: {error}"
    finally:
        over.set()
        await load
    return result, others


def test_one_record_of_4096_that_hangs_is_reported_and_others_are_answered(
    cluster: None, model: str, tiny_dir: Path, figure: Figure
) -> None:
    [hanging] = load_tokenizer(tiny_dir).encode("\x07")
    engine = StubEngineConfig(seconds_per_token=2e-5, hanging_token=hanging)
    oracle = Oracle(tiny_dir)
    rows = records_with(HANGS, "ring \x07")
    with stub_pool(NAME, model, num_replicas=REPLICAS, engine=engine), processes_seen() as seen:
        result, others = asyncio.run(beside_others(rows, oracle))
        asyncio.run(until("the pool is whole", lambda: is_whole(NAME, REPLICAS)))
        replaced = len(seen) - REPLICAS
        figure(
            f"{replaced} replicas replaced; meanwhile the others' {others.calls} calls: "
            f"{others.summary()}"
        )
        assert not isinstance(result, str), result
        errors = {i: text for i, text in enumerate(result["error"].to_pylist()) if text}
        assert list(errors) == [HANGS]
        assert errors[HANGS].startswith("poison: ")
        assert replaced <= MOST_REPLACED
        assert others.calls > 0, "nobody else called: the test shows nothing of others"
        assert (others.lost, others.duplicated, others.wrong, others.errors) == (0, 0, 0, 0)
        account = Account()
        harmless = pa.Table.from_pylist(records_with(HANGS, "harmless"))
        oracle.check(without(harmless, HANGS), without(result, HANGS), account)
        assert (account.rows, account.wrong, account.errors) == (RECORDS - 1, 0, 0)
        assert asyncio.run(idle(NAME)) == {}
        # It is remembered: who sends it again hears of it at once.
        client = connect(app_name=NAME)
        again = client.score_table(rows[HANGS : HANGS + 1], timeout_s=GUARD_S)
        assert again["error"][0].as_py().startswith("poison: ")
        assert len(seen) - REPLICAS == replaced
