"""A replica with sglang: other weights go into the process that runs, and none are lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sample_records import GROUPS
from sglang_faking import Fake, children, living

from polar_ray.config import ScorerConfig, SGLangEngineConfig
from polar_ray.pool.replica import deployment as module
from polar_ray.pool.replica.deployment import Replica
from polar_ray.scores import provenance
from polar_ray.stream import encode_arrow, read_arrow

TABLE = pa.Table.from_pylist(GROUPS)


@pytest.fixture
def config(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> ScorerConfig:
    # The fake has no network, so the native engine's answers are none to it.
    monkeypatch.setattr(module, "prepare", lambda config, folder: None)
    return ScorerConfig(engine=SGLangEngineConfig(python=str(fake.python), context_length=512))


async def ask(replica: Replica) -> pa.Table:
    return read_arrow(await replica.score(encode_arrow(TABLE), timeout_s=60))


def assert_of(fake: Fake, replica: Replica, found: pa.Table, folder: Path) -> None:
    """The scores are those of the model in `folder`."""
    assert replica._loaded is not None
    encoded = replica._loaded.scorer.encoder.encode(TABLE)
    expected = fake.scores([record.ids for record in encoded], folder)
    assert np.array_equal(found["score"].to_numpy(), expected)
    assert provenance(found)["model"] == folder.name
    assert provenance(found)["engine"] == "sglang"


def test_other_weights_are_taken_in_place(
    fake: Fake, config: ScorerConfig, tiny_dir: Path, other_dir: Path
) -> None:
    async def main() -> None:
        replica = Replica(config)
        await replica.reconfigure({"model": str(tiny_dir)})
        pids = children()
        assert_of(fake, replica, await ask(replica), tiny_dir)
        for folder in (other_dir, tiny_dir):
            await replica.reconfigure({"model": str(folder)})
            await replica.check_health()
            assert_of(fake, replica, await ask(replica), folder)
        assert children() == pids, "no process was started anew"
        assert replica._loaded is not None
        replica._loaded.close()
        assert not living(pids[:1])

    asyncio.run(main())


def test_an_update_that_cannot_be_done_keeps_the_old_model(
    fake: Fake,
    config: ScorerConfig,
    tiny_dir: Path,
    other_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in place nor by another process."""
    keep = Replica._keep

    def keep_the_old(replica: Replica, *args: object) -> None:
        monkeypatch.delenv("FAKE_SGLANG")
        keep(replica, *args)  # type: ignore[arg-type]

    async def main() -> None:
        replica = Replica(config)
        monkeypatch.setenv("FAKE_SGLANG", "no_update")
        await replica.reconfigure({"model": str(tiny_dir)})
        first = children()
        monkeypatch.setenv("FAKE_SGLANG", "wrong")
        monkeypatch.setattr(Replica, "_keep", keep_the_old)
        await replica.reconfigure({"model": str(other_dir)})
        assert replica._failed_updates == 1
        assert not living(first[:1])
        assert_of(fake, replica, await ask(replica), tiny_dir)
        replica._stop_trying()
        assert replica._loaded is not None
        replica._loaded.close()

    asyncio.run(main())
    assert [line.split()[0] for line in fake.lines].count("start") == 3, "old, other, old"
