"""Ray's nodes in hosts with addresses of their own, and a pool on them, by the words of
`cluster/README.md`: tokens, a head without work, nodes that name its address, `serve deploy`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from chaos.observe import GUARD_S
from cluster.caller import NAME, Caller
from cluster.hosts import Host, Network

ROOT = Path(__file__).parents[2]
LAPTOP = ROOT / "cluster" / "serve" / "laptop.yaml"
STORE = "--object-store-memory=200000000"
HEAD, FIRST_WORKER = 1, 2
REPLICA = f"ray::ServeReplica:{NAME}:Replica".encode()
ROUTER = f"ray::ServeReplica:{NAME}:Router".encode()


def environment(home: Path) -> dict[str, str]:
    """That of an operator's shell on each host; they share a home, and so Ray's token."""
    kept = {name: value for name, value in os.environ.items() if not _misleads(name)}
    return {
        **kept,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _misleads(name: str) -> bool:
    """Settings of other clusters; proxies, which no host here can reach."""
    return name.startswith("RAY_") or name.lower().endswith("_proxy")


class Site:
    """A Ray cluster in hosts. What it starts ends with its network."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net = net
        self.head: Host | None = None
        self._folder = folder
        self._env = environment(folder)
        self._runs = 0

    def start(
        self, workers: int, *, cpus: int = 6, storage: Path | None = None, by_wire: bool = False
    ) -> list[Host]:
        """A head, and so many nodes for work, all or none of them by wire. Their CPUs are names."""
        head = self.start_head(storage)
        numbers = range(FIRST_WORKER, FIRST_WORKER + workers)
        hosts = [self.net.host(number, by_wire=by_wire) for number in numbers]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: self.join(host, head, cpus), hosts))
        return hosts

    def start_head(self, storage: Path | None = None) -> Host:
        """A head in a new host, at the address that heads have here. `storage`: where its state
        is, which outlives it."""
        self.head = head = self.net.host(HEAD)
        if not (self._folder / ".ray" / "auth_token").exists():
            self.run(head, "ray", "get-auth-token", "--generate")
        more = {} if storage is None else _kept_in(storage)
        words = "ray start --head --port=6379 --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1"
        self.run(head, *words.split(), STORE, **more)
        return head

    def join(self, host: Host, head: Host, cpus: int) -> None:
        """Makes a host a node of the cluster."""
        self.run(
            host, "ray", "start", f"--address={head.address}:6379", f"--num-cpus={cpus}", STORE
        )

    def deploy(self, **changes: Any) -> None:
        """Deploys the laptop's pool, and returns once some of it answers. `changes` go into its
        arguments."""
        assert self.head is not None
        values = yaml.safe_load(LAPTOP.read_text("utf-8"))
        [application] = values["applications"]
        application["args"] |= changes
        path = self._folder / "pool.yaml"
        path.write_text(yaml.safe_dump(values))
        self.run(self.head, "serve", "deploy", str(path))
        ready = ["curl", "--silent", "--fail", "http://127.0.0.1:8000/ready"]
        began = time.monotonic()
        while subprocess.run(self.head.command(*ready), capture_output=True).returncode:
            assert time.monotonic() - began < GUARD_S, "the pool is not ready"
            time.sleep(1)

    def drain(self, node_id: str, seconds: int) -> None:
        """Tells Ray that a node is going to go."""
        assert self.head is not None
        words = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=maintenance"]
        address = f"--address={self.head.address}:6379"
        deadline = f"--deadline-remaining-seconds={seconds}"
        node = f"--node-id={node_id}"
        self.run(self.head, "ray", "drain-node", address, node, *words, deadline)

    def caller(self, host: Host, **settings: Any) -> Caller:
        """Calls of the pool from a host."""
        return Caller(host, self._env, self._folder / "caller.log", **settings)

    def run(self, host: Host, *words: str, **more: str) -> None:
        """A command in a host, with more variables. Its output goes to a file, as processes that
        outlive it hold on to it."""
        self._runs += 1
        log = self._folder / f"{self._runs}-{host.address}.log"
        with log.open("w") as output:
            done = subprocess.run(
                host.command(*words),
                env={**self._env, **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=GUARD_S,
                check=False,
            )
        assert done.returncode == 0, f"{' '.join(words)}: {log.read_text()[-2000:]}"


def replicas(*hosts: Host) -> set[int]:
    """The processes of the pool's replicas on hosts."""
    return {pid for host in hosts for pid in host.titled(REPLICA)}


def has_router(host: Host) -> bool:
    """Whether the pool's router is on a host: Ray puts it where it likes."""
    return bool(host.titled(ROUTER))


def _kept_in(storage: Path) -> dict[str, str]:
    """Variables of a head whose state is in a folder."""
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(storage)}
