"""The lease of a job's own pool: who holds it, and what goes when nobody does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import replica_pids
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus
from sample_records import GROUPS

from polar_ray.config import PoolConfig, RescoreConfig
from polar_ray.offline import own_pool
from polar_ray.offline.own_pool import NAMESPACE, Lease, pool_config

pytestmark = pytest.mark.ray

ROWS = 400
GUARD_S = 300.0


def until(what: str, is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + GUARD_S
    while not is_so():
        assert time.monotonic() < deadline, f"not within {GUARD_S:g} s: {what}"
        time.sleep(0.05)


def test_replicas_have_what_the_job_says_of_them() -> None:
    given = {
        "model": "/models/a",
        "max_tokens": 4096,
        "engine": {"type": "sglang", "python": "/envs/sglang/bin/python"},
        "num_cpus": 2,
        "num_gpus": 1,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "2"}},
    }
    config = RescoreConfig.model_validate({**given, "num_workers": 3})
    assert pool_config(config) == PoolConfig.model_validate({**given, "num_replicas": 3})


def test_the_last_who_took_a_lease_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(own_pool, "LEASE_S", 1e6)
    monkeypatch.setattr(own_pool.serve, "delete", deleted.append)
    monkeypatch.setattr(own_pool, "http_address", lambda: ("127.0.0.1", 8000))
    lease = Lease("mine")
    assert lease.renew("first"), "a lease whose node was lost is its holder's again"
    assert not lease.renew("second")
    assert lease.renew("second", take=True)
    assert not lease.renew("first")
    assert not lease.release("first")
    assert deleted == []
    assert lease.release("second")
    assert deleted == ["mine"]


def test_a_lease_that_nobody_renews_deletes_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Status:
        applications: ClassVar[dict[str, Any]] = {}

    class Context:
        current_actor = "me"

    def delete(name: str) -> None:
        done.append(name)
        if len(done) == 1:
            raise RayServeException("the controller is away")

    monkeypatch.setattr(own_pool, "LEASE_S", 0.0)
    monkeypatch.setattr(own_pool, "RENEW_S", 0.01)
    monkeypatch.setattr(own_pool.serve, "delete", delete)
    monkeypatch.setattr(own_pool.serve, "status", Status)
    monkeypatch.setattr(own_pool.serve, "shutdown", lambda: done.append("serve"))
    monkeypatch.setattr(own_pool.ray, "get_runtime_context", Context)
    monkeypatch.setattr(own_pool.ray, "kill", done.append)
    monkeypatch.setattr(own_pool, "http_address", lambda: None)
    Lease("left")
    until("it ends", lambda: "me" in done)
    assert done == ["left", "left", "serve", "me"]


@pytest.mark.parametrize(
    ("status", "does"),
    [
        (None, ["start"]),
        (ApplicationStatus.RUNNING, ["wait"]),
        (ApplicationStatus.DEPLOYING, ["wait"]),
        (ApplicationStatus.DEPLOY_FAILED, ["delete", "start"]),
        (ApplicationStatus.UNHEALTHY, ["delete", "start"]),
    ],
)
def test_a_pool_that_another_run_is_starting_is_not_deleted(
    status: ApplicationStatus | None, does: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    there = {} if status is None else {"mine": SimpleNamespace(status=status)}
    monkeypatch.setattr(own_pool.serve, "status", lambda: SimpleNamespace(applications=there))
    monkeypatch.setattr(own_pool.serve, "delete", lambda name: done.append("delete"))
    monkeypatch.setattr(own_pool, "start", lambda *_, **__: done.append("start"))
    monkeypatch.setattr(own_pool, "wait_until_running", lambda *_: done.append("wait"))
    own_pool._run(PoolConfig(), "mine", 60)
    assert done == does


def test_a_lease_that_begins_anew_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([*[ActorUnavailableError("restarting", bytes(16))] * 5, True])
    tries: list[object] = []

    def get(call: object, timeout: float) -> object:
        tries.append(call)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    lease = SimpleNamespace(renew=SimpleNamespace(remote=lambda *_, **__: "call"))
    kind = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda name: lease))
    monkeypatch.setattr(own_pool.ray, "remote", lambda _: kind)
    monkeypatch.setattr(own_pool.ray, "get", get)
    monkeypatch.setattr(own_pool, "RETRY_S", 0.0)
    assert own_pool._take("mine", "me") is lease
    assert len(tries) == 6


class Driver:
    """A rescoring job in a process of its own, on this test's cluster; waits at each event until
    more parts are allowed than there are."""

    def __init__(self, tiny_dir: Path, source: Path, out: Path, allowed: Path) -> None:
        import ray

        settings = {"model": str(tiny_dir), "engine.type": "stub", "rows_per_part": 10}
        settings |= {"num_workers": 2, "num_cpus": 0.1, "group": "never", "in_flight": 1}
        script = str(Path(__file__).with_name("gated_job.py"))
        arguments = [str(source), str(out), str(allowed), orjson.dumps(settings).decode()]
        address = ray.get_runtime_context().gcs_address
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments], env={**os.environ, "RAY_ADDRESS": address}
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def names() -> list[str]:
    from ray import serve

    return [name for name in serve.status().applications if name.startswith("rescore-")]


def leases() -> list[str]:
    from ray.util import list_named_actors

    found = list_named_actors(all_namespaces=True)
    return [one["name"] for one in found if one["namespace"] == NAMESPACE]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{**GROUPS[n % 12], "output": f"output {n}", "n": n} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pool_of_a_killed_driver_is_the_next_runs_or_goes(
    cluster: None, tiny_dir: Path, source: Path, tmp_path: Path
) -> None:
    out, allowed = tmp_path / "out", tmp_path / "allowed"
    allowed.write_text("3")
    first = Driver(tiny_dir, source, out, allowed)
    until("parts are written", lambda: len(list(out.glob("*.parquet"))) >= 3)
    first.kill()
    [name], replicas = names(), set(replica_pids(*names()))
    assert len(replicas) == 2
    allowed.write_text("1000")
    second = Driver(tiny_dir, source, out, allowed)
    assert second.process.wait() == 0
    assert replicas == set(replica_pids(name)) or not replica_pids(name)
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*"))])
    assert table["n"].to_pylist() == list(range(ROWS))
    assert names() == []
    until("the lease ends with the pool", lambda: not leases())

    allowed.write_text("3")
    third = Driver(tiny_dir, source, tmp_path / "other", allowed)
    until("it scores", lambda: len(list((tmp_path / "other").glob("*.parquet"))) >= 3)
    third.kill()
    assert len(names()) == len(leases()) == 1
    until("nobody renews the lease", lambda: not names() and not leases())
    assert not replica_pids("rescore-")


TWO_JOBS = """
import sys
from polar_ray.config import RescoreConfig
from polar_ray.offline import rescore

model, source, *outs = sys.argv[1:]
for out in outs:
    config = RescoreConfig(
        model=model, engine={"type": "stub"}, num_workers=1, num_cpus=0.1, rows_per_part=100
    )
    print(rescore(config, source, out)["rows"])
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_can_do_one_job_after_another_each_on_a_cluster_of_its_own(
    tiny_dir: Path, source: Path, tmp_path: Path
) -> None:
    """Serve takes the second cluster for the first, which is gone."""
    outs = [str(tmp_path / name) for name in ("one", "two")]
    done = subprocess.run(
        [sys.executable, "-c", TWO_JOBS, str(tiny_dir), str(source), *outs],
        capture_output=True,
        text=True,
        timeout=800,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert done.stdout.split() == [str(ROWS)] * 2, done.stderr
    assert "fork() handlers" not in done.stderr, "which abort or hang now and then"
