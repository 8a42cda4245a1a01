"""A rescoring job on three local nodes, one of which is taken away with replicas and tasks. Run by
`test_chaos.py` in a process of its own: `python three_nodes.py CHECKPOINT IN OUT CPUS`, where CPUS
is how many each of the two nodes with replicas has. Prints what became of these as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
sys.path.insert(0, str(Path(__file__).parents[1]))

import ray
from processes import replica_pids
from ray import serve
from ray.cluster_utils import Cluster

from polar_ray.config import RescoreConfig
from polar_ray.offline import rescore

WORKERS = 4
GUARD_S = 300.0
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
"""Ray's own settings: a lost node is noticed after some seconds rather than half a minute."""


def main(model: str, source: str, out: str, cpus: int) -> None:
    """One node without replicas, two with them; one of these goes when a third is done."""
    node = {"object_store_memory": 200_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **node},
    )
    nodes = [cluster.add_node(num_cpus=cpus, **node) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    room = min(cpus, WORKERS)
    """Replicas for which the other node has place."""

    seen: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        share = event.get("share", 0)
        if "workers_lost" not in seen and share > 1 / 3:
            before = ours()
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            # They die with their raylet, which they have to notice.
            until(lambda: len(before - ours()) > 0)
            seen["workers_lost"] = len(before - ours())
            seen["rows_at_the_loss"] = event["rows"]
        if "workers_at_the_end" not in seen and share > 2 / 3:
            until(lambda: len(ours()) >= room)
            seen["workers_at_the_end"] = len(ours())

    settings = {
        "model": model,
        "engine.type": "stub",
        "engine.seconds_per_token": 2e-5,
        "num_workers": WORKERS,
        "rows_per_part": 250,
        "group": "never",
    }
    rescore(RescoreConfig.model_validate(settings), source, out, listen)
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()


def until(is_so: Callable[[], bool]) -> None:
    """Waits until something is so; what never is shows in what is reported."""
    deadline = time.monotonic() + GUARD_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)


def ours() -> set[int]:
    """Processes of the replicas of this job's pool."""
    return {pid for name in serve.status().applications for pid in replica_pids(name)}


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
