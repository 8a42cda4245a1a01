"""What callers get: lists, tables and errors; never a number for a failure."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from typing import Any

import pyarrow as pa
import pytest
from sample_records import BAD_ROWS, GROUPS

from polar_ray.call_options import Priority
from polar_ray.client import Client, connect
from polar_ray.errors import ConfigError, RecordError, ScoreError
from polar_ray.scorer import Scorer


class Direct:
    """A transport that scores in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.timeouts: list[float] = []

    def carries(self, records: Any) -> bool:
        return False

    def send(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        self.timeouts.append(timeout_s)
        return self.scorer.score(batch)

    async def send_async(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        return self.send(batch, timeout_s, priority)

    def why_waiting(self) -> str:
        return "it is a fake"

    def close(self) -> None:
        pass


MIXED = [GROUPS[0], {"prompt": "p", "reference": None, "output": "o"}, GROUPS[1]]


@pytest.fixture
def client(scorer: Scorer) -> Client:
    return Client(Direct(scorer), timeout_s=7)


def test_a_client_says_where_it_leads(client: Client) -> None:
    with connect(address="http://user:secret@pool:8000/b", priority="eval") as other:
        wanted = "Client(address='http://pool:8000/b', timeout_s=600, priority='eval')"
        assert repr(other) == wanted


def test_columns_that_no_record_has_are_ignored_and_named_once(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "policy": 1} for row in GROUPS]
    for _ in range(2):
        assert client.score(rows) == client.score(GROUPS)
        assert asyncio.run(client.score_async(rows)) == client.score(GROUPS)
    assert [entry.getMessage() for entry in caplog.records] == ["ignoring extra column(s): policy"]


def test_a_failed_row_raises_unless_the_caller_says_otherwise(client: Client) -> None:
    with pytest.raises(ScoreError, match="row 1: null_field: reference is null") as caught:
        client.score(MIXED)
    assert list(caught.value.rows) == [1]
    first, missing, last = client.score(MIXED, on_error="none")
    assert missing is None
    assert [first, last] == client.score([GROUPS[0], GROUPS[1]])
    second = client.score(MIXED, on_error="nan")[1]
    assert second is not None
    assert math.isnan(second)


def test_an_unknown_on_error_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="on_error='zero'"):
        client.score(GROUPS, on_error="zero")  # type: ignore[arg-type]


def test_a_mistake_is_found_before_anything_is_scored(scorer: Scorer) -> None:
    direct = Direct(scorer)
    client = Client(direct)
    with pytest.raises(ValueError, match="on_error="):
        client.score(GROUPS, on_error="zero")  # type: ignore[arg-type]
    for timeout_s in (0, -1, math.nan, math.inf, 1e300, "5", True):
        with pytest.raises(RecordError, match="timeout_s="):
            client.score(GROUPS, timeout_s=timeout_s)  # type: ignore[arg-type]
        with pytest.raises(RecordError, match="timeout_s="):
            Client(direct, timeout_s=timeout_s)  # type: ignore[arg-type]
    assert direct.timeouts == []


def test_sync_and_async_agree(client: Client) -> None:
    assert asyncio.run(client.score_async(GROUPS)) == client.score(GROUPS)
    table = asyncio.run(client.score_table_async(MIXED))
    assert table.equals(client.score_table(MIXED))


class Silent(Direct):
    """It takes awaited calls and never answers."""

    async def send_async(self, batch: pa.Table, timeout_s: float, priority: Priority) -> pa.Table:
        return await asyncio.get_running_loop().create_future()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loops_that_were_closed_with_calls_out_are_let_go_of(
    scorer: Scorer, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(Silent(scorer))

    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ZeroDivisionError

    async def step() -> None:
        calls = [client.score_async(GROUPS[:1]) for _ in range(3)]
        await asyncio.gather(*calls, fails())

    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loops.append(weakref.ref(loop))
        with pytest.raises(ZeroDivisionError):
            loop.run_until_complete(step())
        loop.close()
        del loop
        assert len(client._coalescers) == 1
        assert len(client._waiting._began) == 3
    gc.collect()
    assert [loop() is None for loop in loops[:-1]] == [True] * 4
    client._transport.send_async = Direct(scorer).send_async  # type: ignore[method-assign]
    assert asyncio.run(client.score_async(GROUPS)) == client.score(GROUPS)
    assert client._waiting._began == {}
    caplog.clear()  # asyncio says that tasks were pending when their loop was closed


def test_reasons_found_here_stand_in_the_table(client: Client) -> None:
    table = client.score_table([row for row, _ in BAD_ROWS])
    codes = [text.partition(":")[0] for text in table["error"].to_pylist()]
    assert codes == [code for _, code in BAD_ROWS]


def test_the_clients_deadline_is_the_default(scorer: Scorer) -> None:
    direct = Direct(scorer)
    client = Client(direct, timeout_s=7)
    client.score(GROUPS[:1])
    client.score(GROUPS[:1], timeout_s=2)
    assert direct.timeouts == [7, 2]


def test_connect_wants_exactly_one_way() -> None:
    with pytest.raises(ConfigError, match="app_name"):
        connect()
    with pytest.raises(ConfigError, match="give one, not both"):
        connect(app_name="polar", address="http://localhost:8000")
    with pytest.raises(ConfigError, match="must begin with http"):
        connect(address="localhost:8000")
