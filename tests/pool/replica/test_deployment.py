"""A replica: busy is healthy, stuck and broken are not; its model changes in place."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import without_numbers
from sample_records import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.engine.protocol import Done, Pending
from polar_ray.errors import ConfigError, DeadlineExceeded, EngineError
from polar_ray.planning import Pack
from polar_ray.pool.replica import deployment as module
from polar_ray.pool.replica import loaded as probing
from polar_ray.pool.replica.deployment import Replica
from polar_ray.pool.replica.loaded import Loaded
from polar_ray.scores import provenance
from polar_ray.stream import encode_arrow, read_arrow

TABLE = pa.Table.from_pylist(GROUPS)


class Gate:
    """Holds back a model's packs until it is opened."""

    def __init__(self, loaded: Loaded) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        engine = loaded.scorer.engine
        self._submit = engine.submit
        engine.submit = self.submit  # type: ignore[method-assign]

    def submit(self, pack: Pack) -> Pending:
        self.reached.set()
        assert self.opened.wait(30)
        return self._submit(pack)


def config(folder: Path | None = None, salt: int = 0) -> ScorerConfig:
    model = None if folder is None else str(folder)
    return ScorerConfig(model=model, engine=StubEngineConfig(salt=salt))


@pytest.fixture
def loaded(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loaded]:
    monkeypatch.setattr(probing, "PROBE_TIMEOUT_S", 0.01)
    loaded = Loaded(config(tiny_dir))
    yield loaded
    loaded.close()


@pytest.fixture
def gate(loaded: Loaded) -> Iterator[Gate]:
    gate = Gate(loaded)
    yield gate
    gate.opened.set()


def test_a_replica_behind_long_work_is_healthy(loaded: Loaded, gate: Gate) -> None:
    async def main() -> pa.Table:
        work = asyncio.create_task(loaded.batcher.score(TABLE))
        await asyncio.to_thread(gate.reached.wait, 30)
        await loaded.check()
        gate.opened.set()
        return await work

    assert asyncio.run(main())["score"].null_count == 0


def test_from_its_start_a_replicas_threads_are_watched(tiny_dir: Path) -> None:
    loaded = Loaded(config(tiny_dir))
    encode, forward = loaded.batcher.progress
    assert forward._speed.explains_s(1) is not None, "the probe was measured"
    assert [thread.tick(1e9) for thread in (encode, forward)] == [None, None], "it is idle"
    encode.begin(10), forward.begin(10)
    assert all(thread.tick(1e9) for thread in (encode, forward))
    loaded.close()


def test_a_hanging_tokenizer_is_seen(loaded: Loaded) -> None:
    reached, go = threading.Event(), threading.Event()
    encode = loaded.scorer.encoder.encode

    def hanging(table: pa.Table) -> Any:
        reached.set()
        assert go.wait(30)
        return encode(table)

    loaded.scorer.encoder.encode = hanging  # type: ignore[method-assign]

    async def main() -> None:
        work = asyncio.create_task(loaded.batcher.score(TABLE))
        await asyncio.to_thread(reached.wait, 30)
        seen = [thread.tick(1e6) for thread in loaded.batcher.progress]
        assert str(seen[0]).startswith("encode: no end of 1 step(s) of ")
        assert seen[1] is None
        assert GROUPS[0]["prompt"] not in str(seen[0])
        go.set()
        await work

    asyncio.run(main())


@pytest.mark.parametrize(
    ("score", "message"), [(np.nan, "nonfinite_score"), (5.0, "scores its own probe 5")]
)
def test_a_replica_that_scores_its_probe_otherwise_than_at_its_start_is_not(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, score: float, message: str
) -> None:
    monkeypatch.setattr(probing, "PROBE_TIMEOUT_S", 30.0)
    asyncio.run(loaded.check())
    wrong = Done(np.array([score], np.float32))
    loaded.scorer.engine.submit = lambda pack: wrong  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=message):
        asyncio.run(loaded.check())


async def serving(folder: Path) -> tuple[Replica, Gate]:
    """A replica with a model, and the gate of its engine."""
    replica = Replica(config())
    await replica.reconfigure({"model": str(folder)})
    assert replica._loaded is not None
    return replica, Gate(replica._loaded)


async def ask(replica: Replica, timeout_s: float = 60) -> pa.Table:
    return read_arrow(await replica.score(encode_arrow(TABLE), timeout_s=timeout_s))


def test_work_whose_deadline_has_passed_is_left(tiny_dir: Path) -> None:
    async def main() -> None:
        replica, gate = await serving(tiny_dir)
        with pytest.raises(DeadlineExceeded, match="did not come to it"):
            await ask(replica, 0.01)
        gate.opened.set()
        assert (await ask(replica)).num_rows == len(GROUPS)

    asyncio.run(main())


def test_a_reference_that_never_comes_ends_with_the_deadline(tiny_dir: Path) -> None:
    async def main() -> None:
        replica, _ = await serving(tiny_dir)
        never: asyncio.Future[pa.Table] = asyncio.get_running_loop().create_future()
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(replica.score([never], timeout_s=0.01), 30)

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_cancelled_calls_leave_nothing_behind_wherever_they_were(tiny_dir: Path, seed: int) -> None:
    """Most of some hundred calls are cancelled while their table is on its way, is encoded, waits,
    is in a forward or is done; the others get their scores, and the replica is as it was."""
    rng = random.Random(seed)

    async def leave(call: asyncio.Task[bytes], turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()

    async def main() -> int:
        replica = Replica(config())
        await replica.reconfigure({"model": str(tiny_dir)})
        assert replica._loaded is not None
        batcher, loop = replica._loaded.batcher, asyncio.get_running_loop()
        expected = await ask(replica)
        calls, leaving = [], []
        for _ in range(300):
            table = loop.create_future()
            shard = rng.choice([[table], encode_arrow(TABLE)])
            call = asyncio.create_task(replica.score(shard, rank=rng.randrange(3)))
            calls.append(call)
            if rng.random() < 0.8:
                leaving.append(asyncio.create_task(leave(call, rng.randrange(40))))
                loop.call_later(rng.random() * 0.01, set_result, table)
            else:
                table.set_result(TABLE)
            if rng.random() < 0.3:
                await asyncio.sleep(0.001)
        await asyncio.gather(*leaving)
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
        await asyncio.wait_for(batcher.idle(), 60)
        scored = [read_arrow(one) for one in found if isinstance(one, bytes)]
        assert all(one.equals(expected) for one in scored)
        assert all(isinstance(one, bytes | asyncio.CancelledError) for one in found)
        assert (batcher._calls, batcher._jobs) == (0, [])
        assert not any(thread._open for thread in batcher.progress)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return len(scored)

    assert asyncio.run(main()) >= 30


def set_result(future: asyncio.Future[pa.Table]) -> None:
    if not future.done():
        future.set_result(TABLE)


@pytest.fixture(params=[True, False], ids=["beside", "instead"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there is room for two models."""
    monkeypatch.setattr(module, "fits_beside", lambda engine, folder: request.param)
    return bool(request.param)


async def updated(replica: Replica, folder: Path | int) -> None:
    """Returns when an update has ended, this way or the other."""
    await replica.reconfigure({"model": str(folder) if isinstance(folder, Path) else folder})
    if replica._loading is not None:
        await replica._loading


def test_a_model_changes_in_place_and_every_call_gets_one(
    tiny_dir: Path, other_dir: Path, beside: bool
) -> None:
    async def main() -> None:
        replica, gate = await serving(tiny_dir)
        before = await replica.heartbeat()
        early = asyncio.create_task(ask(replica))
        await asyncio.to_thread(gate.reached.wait, 30)
        swap = asyncio.create_task(updated(replica, other_dir))
        while (now := await replica.heartbeat()) == before:  # noqa: ASYNC110  (polled)
            await asyncio.sleep(0.001)
        await replica.check_health()
        late = asyncio.create_task(ask(replica))
        if beside:
            assert provenance(await late) == now, "nobody waits for the old one"
        else:
            assert now is None, "others should get the work now"
            with pytest.raises(DeadlineExceeded):
                await ask(replica, 0.01)
        assert not swap.done(), "what is at work is finished first"
        gate.opened.set()
        await swap
        after = await replica.heartbeat()
        assert provenance(await early) == before
        assert provenance(await late) == after
        assert before is not None
        assert after is not None
        assert before["model_digest"] != after["model_digest"]
        loaded = replica._loaded
        await updated(replica, other_dir)
        assert replica._loaded is loaded, "it has that already"

    asyncio.run(main())


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def of_another_shape(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 64', '"intermediate_size": 96'))


def with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def without_its_folder(folder: Path) -> None:
    shutil.rmtree(folder)


BAD = {
    without_its_folder: "is not a directory",
    cut_off: "damaged",
    of_another_shape: "config.json asks for",
    with_a_broken_tokenizer: "tokenizer.json",
    without_numbers: "cannot score its own probe",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_the_model_that_serves_goes_on_where_another_cannot_be_loaded(
    spoil: Callable[[Path], None],
    tiny_dir: Path,
    other_dir: Path,
    tmp_path: Path,
    beside: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = shutil.copytree(other_dir, tmp_path / "bad")
    spoil(bad)
    module.logger.addHandler(caplog.handler)

    async def main() -> None:
        replica = Replica(ScorerConfig())
        await replica.reconfigure({"model": str(tiny_dir)})
        expected, before = await ask(replica), replica._loaded
        assert before is not None
        gate = Gate(before)
        early = asyncio.create_task(ask(replica))
        await asyncio.to_thread(gate.reached.wait, 30)
        swap = asyncio.create_task(updated(replica, bad))
        late = asyncio.create_task(ask(replica))
        gate.opened.set()
        await swap
        for answer in (await early, await late, await ask(replica)):
            assert answer.equals(expected, check_metadata=True)
        await replica.check_health()
        known = spoil is not without_numbers
        kept = replica._loaded is before
        assert kept == (known or beside), "what can be known is known before anything is dropped"
        await updated(replica, other_dir)
        assert provenance(await ask(replica))["model"] == other_dir.name

    try:
        asyncio.run(main())
    finally:
        module.logger.removeHandler(caplog.handler)
    [said] = [record for record in caplog.records if record.name == "ray.serve"]
    assert (said.levelname, BAD[spoil] in said.message) == ("ERROR", True)
    assert str(bad) in said.message


def test_a_folder_that_comes_late_is_taken_when_it_is_there(
    tiny_dir: Path,
    other_dir: Path,
    tmp_path: Path,
    beside: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    late = tmp_path / "late"

    async def serve(replica: Replica, folder: Path) -> None:
        name = f"stub of {folder.name}"
        while provenance(await ask(replica))["model"] != name:  # noqa: ASYNC110  (polled)
            await asyncio.sleep(0.001)

    async def main() -> None:
        replica = Replica(config())
        await replica.reconfigure({"model": str(tiny_dir)})
        await replica.reconfigure({"model": str(late)})
        while replica._failed_updates < 3:  # noqa: ASYNC110  (a counter tells nobody)
            await asyncio.sleep(0.001)
        await serve(replica, tiny_dir)
        shutil.copytree(other_dir, tmp_path / "copy").rename(late)
        await serve(replica, late)
        # What was wished for before does not come back.
        await replica.reconfigure({"model": str(tmp_path / "nowhere")})
        await updated(replica, tiny_dir)
        seen = replica._failed_updates
        await asyncio.sleep(0.1)
        assert replica._failed_updates == seen
        await serve(replica, tiny_dir)

    asyncio.run(main())


def test_nonsense_for_a_model_is_no_reason_to_stop_serving(tiny_dir: Path) -> None:
    async def main() -> None:
        replica = Replica(config())
        await replica.reconfigure({"model": str(tiny_dir)})
        for nonsense in ({"model": 5}, {}, {"modle": str(tiny_dir)}):
            await replica.reconfigure(nonsense)
        assert (await ask(replica))["score"].null_count == 0
        assert replica._failed_updates == 3

    asyncio.run(main())


def test_a_replica_that_cannot_load_the_old_model_again_ends(
    tiny_dir: Path, other_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fits_beside", lambda engine, folder: False)
    first, bad = (shutil.copytree(tiny_dir, tmp_path / name) for name in ("first", "bad"))
    without_numbers(bad)

    async def main() -> None:
        replica = Replica(ScorerConfig())
        await replica.reconfigure({"model": str(first)})
        shutil.rmtree(first)
        with pytest.raises(ConfigError, match="is not a directory"):
            await replica.reconfigure({"model": str(bad)})

    asyncio.run(main())


LOSING = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import pyarrow as pa
from dead_device import Dying
from sample_records import GROUPS
from polar_ray.config import ScorerConfig
from polar_ray.pool.replica.deployment import Replica
from polar_ray.stream import encode_arrow

async def main():
    replica = Replica(ScorerConfig())
    await replica.reconfigure({"model": sys.argv[2]})
    shard = encode_arrow(pa.Table.from_pylist(GROUPS))
    await replica.score(shard)
    await replica.check_health()
    print("well", flush=True)
    Dying(replica._loaded.scorer)
    if sys.argv[3] == "score":
        await replica.score(shard)
    else:
        await replica.check_health()
    print("answered", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["score", "check_health"])
def test_a_replica_whose_device_is_lost_ends_its_process(tiny_dir: Path, way: str) -> None:
    tests = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", LOSING, tests, str(tiny_dir), way]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (1, "well\n")
    assert "this replica ends: cpu is lost" in ended.stderr
    assert "Traceback" not in ended.stderr, "it does not take leave, it goes"


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"model": "/nowhere"}, "/nowhere"),
        ({"model": 5}, "model"),
        ({}, "must be"),
        ({"model": None, "engine": "stub"}, "must be"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said(user_config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(Replica(config()).reconfigure(user_config))
