"""How adapters call the pool: joined calls, one client, loops that close, forks, failures."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_pool import UNSCORED, FakePool, score_of

from polar_ray.adapters import pool as module
from polar_ray.adapters.pool import (
    Unscored,
    all_scores,
    all_scores_now,
    blocking,
    clients,
    scores,
    scores_now,
)
from polar_ray.adapters.settings import AdapterConfig
from polar_ray.client import event_loop
from polar_ray.errors import (
    AuthError,
    ConfigError,
    DeadlineExceeded,
    PolarRayError,
    PoolError,
    ReplicaLost,
)

TESTS = Path(__file__).parents[1]


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": "p", "reference": "r", "output": f"{start + at}"} for at in range(count)]


def right(asked: list[dict[str, Any]]) -> list[float]:
    return [score_of(**row) for row in asked]


@pytest.fixture
def settings(pool: FakePool) -> AdapterConfig:
    return AdapterConfig(address=pool.address, timeout_s=60)


def test_rows_of_one_loop_travel_together(pool: FakePool, settings: AdapterConfig) -> None:
    async def main() -> list[list[float]]:
        return await asyncio.gather(*(all_scores([row], settings) for row in rows(50)))

    assert [score for (score,) in asyncio.run(main())] == right(rows(50))
    assert len(pool.calls) == 1


def test_threads_that_block_share_a_loop_and_get_their_own(
    pool: FakePool, settings: AdapterConfig
) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda row: all_scores_now([row], settings), rows(64)))
    assert [score for (score,) in found] == right(rows(64))
    assert len(pool.calls) < 64


def test_loops_may_close_under_the_client(pool: FakePool, settings: AdapterConfig) -> None:
    for turn in range(3):
        asked = rows(2, start=turn)
        assert asyncio.run(all_scores(asked, settings)) == right(asked)
        assert all_scores_now(asked, settings) == right(asked)
    assert len({id(clients.get(settings)) for _ in range(9)}) == 1


def test_a_call_that_blocks_within_a_loop_is_answered(settings: AdapterConfig) -> None:
    async def main() -> list[float]:
        return all_scores_now(rows(3), settings)

    assert asyncio.run(main()) == right(rows(3))


def test_no_rows_need_no_pool() -> None:
    nowhere = AdapterConfig(address="http://127.0.0.1:9")
    assert all_scores_now([], nowhere) == []


def broken() -> list[dict[str, Any]]:
    asked = rows(4)
    asked[1]["output"] = UNSCORED
    asked[3]["reference"] = None
    return asked


def test_a_row_without_a_score_raises_with_its_reason(settings: AdapterConfig) -> None:
    with pytest.raises(Unscored) as caught:
        all_scores_now(broken(), settings)
    assert list(caught.value.rows) == [1, 3]
    text = str(caught.value)
    assert text.startswith("polar_ray has no score for 2 row(s): row 1: engine_error: the fake")
    assert "row 3: null_field: reference is null" in text
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.rows) == (Unscored, text, caught.value.rows)
    assert "and 7 more" in str(Unscored(dict.fromkeys(range(10), "x")))


def test_a_row_without_a_score_or_a_reason_raises_too(
    pool: FakePool, settings: AdapterConfig
) -> None:
    pool.reason = ""
    with pytest.raises(Unscored, match="row 1: no reason"):
        all_scores_now([*rows(1), {**rows(1)[0], "output": UNSCORED}, *rows(1)], settings)


def test_or_is_left_out_and_the_log_says_why(
    settings: AdapterConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first, none, third, other = scores_now(broken(), settings)
    assert (none, other) == (None, None)
    assert [first, third] == right([rows(4)[0], rows(4)[2]])
    assert asyncio.run(scores(broken(), settings)) == [first, None, third, None]
    said = [entry.getMessage() for entry in caplog.records]
    assert len(said) == 2
    assert all("row 3: null_field" in text for text in said)


@pytest.mark.parametrize("call", [scores_now, all_scores_now])
def test_a_pool_that_dies_in_the_middle_ends_the_call(
    pool: FakePool, settings: AdapterConfig, call: Any
) -> None:
    settings = settings.model_copy(update={"timeout_s": 1.0})
    assert call(rows(2), settings) == right(rows(2))
    pool.dies_at = 2
    with pytest.raises(ReplicaLost):
        call(rows(2), settings)


def test_a_deadline_ends_the_call(pool: FakePool, settings: AdapterConfig) -> None:
    pool.silent = True
    settings = settings.model_copy(update={"timeout_s": 0.1})
    with pytest.raises(DeadlineExceeded, match=r"within 0\.(1|0\d) s"):
        asyncio.run(all_scores(rows(2), settings))
    with pytest.raises(DeadlineExceeded, match=r"within 0\.(1|0\d) s"):
        all_scores_now(rows(2), settings)


def test_a_loop_that_does_not_turn_ends_a_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "LATE_S", 0.0)

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        blocking.run(never(), 0.05)


def test_a_pool_that_is_not_there_is_no_score() -> None:
    nowhere = AdapterConfig(address="http://127.0.0.1:9", timeout_s=1)
    with pytest.raises(PoolError, match="cannot reach"):
        all_scores_now(rows(1), nowhere)
    with pytest.raises(ConfigError, match="POLAR_RAY_ADDRESS"):
        all_scores_now(rows(1), AdapterConfig())


def test_a_token_and_a_priority_reach_the_pool(
    pool: FakePool, settings: AdapterConfig, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("# ours\nsecret\n")
    settings = settings.model_copy(update={"token_file": file, "priority": "eval"})
    all_scores_now(rows(1), settings)
    assert pool.tokens == ["Bearer secret"]
    assert pool.queries[0]["priority"] == "eval"
    for text in ("", "two words\n"):
        file.write_text(text)
        other = settings.model_copy(update={"timeout_s": 7 + len(text)})
        with pytest.raises(ConfigError, match="token_file="):
            all_scores_now(rows(1), other)


FORKS = """
import asyncio, os, sys, threading
from fake_pool import score_of
from polar_ray.adapters.pool import all_scores, all_scores_now
from polar_ray.adapters.settings import AdapterConfig
settings = AdapterConfig(address=sys.argv[1], timeout_s=30)

def wrong(who):
    count = 0
    for turn in range(5):
        row = {"prompt": f"{who}", "reference": f"{turn}", "output": "o"}
        count += all_scores_now([row], settings) != [score_of(**row)]
        count += asyncio.run(all_scores([row], settings)) != [score_of(**row)]
    return count

assert wrong(0) == 0
busy = threading.Thread(target=wrong, args=(1,))
busy.start()
children = []
for who in range(2, 5):
    pid = os.fork()
    if pid == 0:
        threading.Timer(100, os._exit, (99,)).start()
        os._exit(wrong(who))
    children.append(pid)
own = wrong(5)
busy.join()
print(own, *(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""


def test_children_that_forked_get_their_own_answers() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    server = [sys.executable, str(TESTS / "fake_pool.py")]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=env) as far:
        try:
            assert far.stdout is not None
            command = [sys.executable, "-c", FORKS, far.stdout.readline().strip()]
            done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
        finally:
            far.kill()
    assert done.stdout.split() == ["0"] * 4, done.stderr


def test_errors_of_a_whole_call_are_this_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    """They pass as they are: a trainer's log shows what to do."""

    async def refuse(*_: Any) -> Any:
        raise AuthError("no token")

    monkeypatch.setattr(module, "_score", refuse)
    with pytest.raises(PolarRayError, match="no token"):
        all_scores_now(rows(1), AdapterConfig(address="http://127.0.0.1:9"))
