"""A record on which the engine hangs: the watchdog ends the replica, and the pool goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chaos.load import batch
from processes import replica_pids

from polar_ray.client import Client, connect
from polar_ray.config import PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.pool.local import pool
from polar_ray.pool.replica.progress import AT_LEAST_S
from polar_ray.pool.replica.watchdog import EXIT_CODE
from polar_ray.records import check_scores
from polar_ray.scorer import Scorer

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]

NAME = "hang"
MARK = "\x00"
"""A token that no other record has."""


@pytest.fixture
def client(cluster: None, tiny_dir: Path) -> Iterator[Client]:
    token = Scorer(ScorerConfig(model=str(tiny_dir))).encoder.tokenizer.encode(MARK)[0]
    engine = StubEngineConfig(seconds_per_token=2e-5, hanging_token=token)
    config = PoolConfig(model=str(tiny_dir), num_replicas=1, num_cpus=0.1, engine=engine)
    with pool(config, name=NAME, route_prefix="/hang"):
        yield connect(app_name=NAME)


def with_hanging(table: pa.Table, row: int) -> pa.Table:
    outputs = table["output"].to_pylist()
    outputs[row] += MARK
    at = table.column_names.index("output")
    return table.set_column(at, "output", pa.array(outputs))


def stacks() -> str:
    """What the processes of the cluster's replicas wrote to stderr."""
    from ray._private.worker import _global_node

    logs = Path(_global_node.get_logs_dir_path())
    return "".join(path.read_text(errors="replace") for path in logs.glob("worker-*.err"))


async def replaced(known: set[int]) -> float:
    """Seconds until none of these processes is a replica any more and another one is."""
    began = time.monotonic()
    while not (now := set(replica_pids(NAME))) or now & known:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def test_a_replica_that_hangs_is_ended_and_replaced(
    client: Client, tiny_dir: Path, figure: Callable[[str], None]
) -> None:
    plain = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    table, hanging = batch(0, 64), 20
    before = set(replica_pids(NAME))
    client.score_table(table)

    async def main() -> tuple[float, float, pa.Table]:
        began = time.monotonic()
        call = asyncio.create_task(
            client.score_table_async(with_hanging(table, hanging), timeout_s=400)
        )
        took_s = await replaced(before)
        result = await call
        return took_s, time.monotonic() - began, result

    took_s, all_s, result = asyncio.run(main())
    said = stacks()
    ended = said.count(f"hangs and is ended with code {EXIT_CODE}: forward: ")
    figure(
        f"another replica after {took_s:.1f} s ({AT_LEAST_S:.0f} s are allowed); the one of 64 "
        f"records reported after {all_s:.0f} s, when {ended} replicas had been ended"
    )
    check_scores(result, 64)
    expected = plain.score(table)["score"].to_numpy()
    others = [i for i in range(64) if i != hanging]
    found = result["score"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(found[others], expected[others])
    assert str(result["error"][hanging]).startswith("poison: ")
    assert ended > 0
    assert "in submit" in said, "the stacks show where it hung"
    assert "I think it is" not in said, "and no text"
