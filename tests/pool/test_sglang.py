"""A pool whose replicas score with the real sglang on a CPU: its scores, other weights, its deaths.

POLAR_RAY_SGLANG=DIR names an environment that has it (`DIR/bin/python`). SGLANG_KILLS (10): how
often a scheduler is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sysconfig
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from chaos.load import Account, assert_exact, batch, by, run_load
from chaos.native_oracle import NativeOracle
from chaos.observe import is_whole, running, until
from deploying import deploy
from processes import below, titled
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.client import connect
from polar_ray.config import PoolConfig, SGLangEngineConfig
from polar_ray.pool.local import pool
from polar_ray.records import provenance

WHERE = os.environ.get("POLAR_RAY_SGLANG")
KILLS = int(os.environ.get("SGLANG_KILLS", "10"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(WHERE is None, reason="POLAR_RAY_SGLANG names no environment with sglang"),
]

NAME = "sglang"
SIZE, CALLERS = 40, 4
PYTHON = f"{WHERE}/bin/python"
SCHEDULER = b"sglang::scheduler"

Figure = Callable[[str], None]


def config(model: Path, **changes: object) -> PoolConfig:
    engine = SGLangEngineConfig(python=PYTHON, device="cpu", num_threads=1, context_length=1024)
    values = {"model": str(model), "num_cpus": 0.1, "engine": engine, **changes}
    return PoolConfig(**values)  # type: ignore[arg-type]


@contextmanager
def whole_pool(config: PoolConfig) -> Iterator[None]:
    with pool(config, name=NAME, route_prefix=f"/{NAME}"):
        yield


def schedulers() -> list[int]:
    """sglang's schedulers of replicas that are ready."""
    ready = running(NAME)
    return [pid for pid in titled(SCHEDULER) if any(below(pid, replica) for replica in ready)]


def no_scheduler_is_left() -> bool:
    return not [pid for pid in titled(SCHEDULER) if below(pid, os.getpid())]


def test_its_scores_are_the_native_engines(cluster: None, tiny_dir: Path, figure: Figure) -> None:
    oracle, account, table = NativeOracle(tiny_dir), Account(kills=1), batch(0, 200)
    with whole_pool(config(tiny_dir)):
        result = connect(app_name=NAME).score_table(table)
        assert schedulers()
    assert provenance(result)["engine"] == "sglang"
    oracle.check(table, result, account)
    assert_exact(account, 200)
    figure(f"200 records, largest difference {oracle.largest_difference:.1e}")
    asyncio.run(until("its processes have ended", no_scheduler_is_left))


@pytest.fixture
def shared_environment(tmp_path: Path) -> Path:
    """One that has sglang's libraries and, where those lack something, polar_ray's with Ray."""
    folder = tmp_path / "shared"
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    [theirs] = Path(f"{WHERE}").glob("lib/python*/site-packages")
    ours, root = sysconfig.get_paths()["purelib"], Path(__file__).parents[2]
    (site / "both.pth").write_text(f"{theirs}\n{ours}\n{root}\n")
    return folder / "bin" / "python"


def test_replicas_in_an_environment_of_rays(
    cluster: None, tiny_dir: Path, shared_environment: Path, figure: Figure
) -> None:
    """sglang is not named, but found where Ray starts the replica: its torch scores the known
    answers, too."""
    oracle, account, table = NativeOracle(tiny_dir), Account(kills=1), batch(0, 40)
    engine = SGLangEngineConfig(device="cpu", num_threads=1, context_length=1024)
    runtime_env = {"py_executable": str(shared_environment)}
    with whole_pool(config(tiny_dir, engine=engine, runtime_env=runtime_env)):
        result = connect(app_name=NAME).score_table(table)
        assert schedulers()
    assert provenance(result)["engine"] == "sglang"
    oracle.check(table, result, account)
    assert_exact(account, 40)
    figure(f"40 records, largest difference {oracle.largest_difference:.1e}")
    asyncio.run(until("its processes have ended", no_scheduler_is_left))


def test_demo(cluster: None) -> None:
    command = ["demo", "engine.type=sglang", f"engine.python={PYTHON}", "num_replicas=1"]
    run = CliRunner().invoke(cli, [*command, "num_cpus=0.1"], env={"COLUMNS": "200"})
    assert run.exit_code == 0, run.output
    assert "the handle and HTTP agree on every score" in run.output


def serves(folder: Path) -> bool:
    """Whether the pool answers with the model of this folder."""
    return provenance(connect(app_name=NAME).score_table(batch(0, 1)))["model"] == folder.name


def test_other_weights_under_load(
    cluster: None, tiny_dir: Path, other_dir: Path, figure: Figure
) -> None:
    """They go into the process that runs: sglang is started once."""
    from ray import serve

    oracle, account, over = NativeOracle(tiny_dir, other_dir), Account(), asyncio.Event()

    def update(folder: Path) -> None:
        """As `serve deploy` of a file in which only `user_config` has changed."""
        deploy(NAME, config(tiny_dir), user_config={"model": str(folder)})

    async def main() -> None:
        load = asyncio.create_task(
            run_load(
                by(connect(app_name=NAME)),
                oracle,
                records=0,
                size=SIZE,
                callers=CALLERS,
                until=over,
                account=account,
            )
        )
        for folder in (other_dir, tiny_dir):
            await account.ended(2 * CALLERS)
            await asyncio.to_thread(update, folder)
            account.kills += 1
            await until("the pool has other weights", lambda model=folder: serves(model))
        await account.ended(2 * CALLERS)
        over.set()
        await load

    update(tiny_dir)
    try:
        asyncio.run(until("the pool is whole", lambda: is_whole(NAME, 1)))
        first = schedulers()
        asyncio.run(main())
        assert schedulers() == first, "none was started anew"
    finally:
        serve.delete(NAME)
    figure(f"{account.summary()}; largest difference {oracle.largest_difference:.1e}")
    assert_exact(account, 1)
    assert len(account.digests) == 2


def test_killed_schedulers_lose_nothing(cluster: None, tiny_dir: Path, figure: Figure) -> None:
    oracle, account, over = NativeOracle(tiny_dir), Account(), asyncio.Event()
    chance = random.Random(0)

    async def main() -> None:
        call = by(connect(app_name=NAME))
        load = asyncio.create_task(
            run_load(
                call, oracle, records=0, size=SIZE, callers=CALLERS, until=over, account=account
            )
        )
        while account.kills < KILLS:
            await account.ended(4 * CALLERS)
            if not (ready := await asyncio.to_thread(schedulers)):
                continue
            os.kill(chance.choice(ready), signal.SIGKILL)
            account.kills += 1
        await account.ended(4 * CALLERS)
        over.set()
        await load
        await until("the pool is whole", lambda: is_whole(NAME, 2))

    with whole_pool(config(tiny_dir, num_replicas=2)):
        asyncio.run(main())
        assert len(schedulers()) == 2
    figure(f"{account.summary()}; largest difference {oracle.largest_difference:.1e}")
    assert_exact(account, 1)
    assert np.isfinite(oracle.largest_difference)
    asyncio.run(until("its processes have ended", no_scheduler_is_left))
