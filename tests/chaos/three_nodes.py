"""A pool on three local nodes, one of which is taken away under load. Run by `test_nodes.py` in a
process of its own: `python three_nodes.py CHECKPOINT RECORDS`. Prints the account as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
sys.path.insert(0, str(Path(__file__).parents[1]))

import ray
from chaos.load import Account, Oracle, by, run_load
from chaos.observe import is_whole, running, until
from processes import replica_pids
from ray import serve
from ray.cluster_utils import Cluster

from polar_ray.client import connect
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.pool.app import start

NAME = "nodes"
REPLICAS = 4
CALLS = 40
"""Calls that end before the node goes, and again once the pool is whole without it."""


async def load(cluster: Cluster, victim: object, folder: Path, records: int) -> Account:
    """The load, under which the node goes; it lasts until the pool is whole without that node."""
    over = asyncio.Event()
    account = Account()
    call = by(connect(app_name=NAME))
    task = asyncio.create_task(
        run_load(call, Oracle(folder), records=records, until=over, account=account)
    )
    await account.ended(CALLS)
    before = running(NAME)
    await asyncio.to_thread(cluster.remove_node, victim, allow_graceful=False)
    await until("a replica went with its node", lambda: bool(before - set(replica_pids(NAME))))
    await until("the pool is whole without the node", lambda: is_whole(NAME, REPLICAS))
    await account.ended(CALLS)
    over.set()
    await task
    account.kills = 1
    return account


def takes_router_along(node: Any) -> bool:
    """Whether the pool's router runs on a node; Ray puts it where it likes."""
    from ray._private.state import actors

    return any(
        f"{NAME}#Router" in actor["Name"] and actor["Address"]["NodeID"] == node.node_id
        for actor in actors().values()
    )


def main(folder: Path, records: int) -> None:
    """Three nodes, with room for all replicas on two of them."""
    node = {"object_store_memory": 200_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, **node},
    )
    nodes = [cluster.add_node(num_cpus=2, **node) for _ in range(2)]
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    serve.start(proxy_location="Disabled")
    engine = StubEngineConfig(seconds_per_token=2e-5)
    config = PoolConfig(model=str(folder), num_replicas=REPLICAS, num_cpus=1, engine=engine)
    start(config, name=NAME)
    with_router = takes_router_along(nodes[0])
    account = asyncio.run(load(cluster, nodes[0], folder, records))
    exact = (account.lost, account.duplicated, account.wrong, account.errors) == (0, 0, 0, 0)
    summary = account.summary() + (", the router with it" if with_router else "")
    sys.stdout.write(json.dumps({"exact": exact, "summary": summary}) + "\n")
    sys.stdout.flush()
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
