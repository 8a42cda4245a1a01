"""The real sglang on a CPU: golden rewards, refusals, updates, its cache, its death.

POLAR_RAY_SGLANG=DIR names an environment that has it (`DIR/bin/python`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from sglang_faking import children, living

from polar_ray.config import NativeEngineConfig, SGLangEngineConfig
from polar_ray.engine import build_engine
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Engine, Scores
from polar_ray.engine.sglang import engine as module
from polar_ray.engine.sglang.engine import SGLangEngine
from polar_ray.errors import ConfigError, DeviceLost
from polar_ray.planning import Ids, pack

WHERE = os.environ.get("POLAR_RAY_SGLANG")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WHERE is None, reason="POLAR_RAY_SGLANG names no environment with sglang"),
]

CONFIG = SGLangEngineConfig(python=f"{WHERE}/bin/python", device="cpu")
NATIVE = NativeEngineConfig(device="cpu", dtype="float32")
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Known answers are not to be found from an earlier run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def started(model_dir: Path) -> SGLangEngine:
    found = build_engine(CONFIG, model_dir)
    assert isinstance(found, SGLangEngine)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints of one shape."""
    folder = tmp_path_factory.mktemp("made")
    return [make_checkpoint(folder / name, seed=seed) for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def engine(made: list[Path]) -> Iterator[SGLangEngine]:
    with closing(started(made[0])) as found:
        yield found


def ask(engine: Engine, records: Sequence[Ids], max_tokens: int = 4096) -> Scores:
    scores = np.full(len(records), np.nan, dtype=np.float32)
    for packed in pack(records, max_tokens=max_tokens):
        scores[packed.records] = engine.submit(packed).result()
    return scores


def group(seed: int, size: int, shared: int, own: int) -> list[Ids]:
    """Records that begin with the same tokens."""
    chance = np.random.default_rng(seed)
    start = chance.integers(5, 400, shared)
    rows = (np.concatenate([start, chance.integers(5, 400, own)]) for _ in range(size))
    return [row.astype(np.int32) for row in rows]


def by_native(model_dir: Path, records: Sequence[Ids]) -> Scores:
    native = NativeEngine(NATIVE, model_dir)
    return ask(native, records)


@pytest.mark.parametrize("name", ["gqa", "mqa", "deep", "rope_linear"])
def test_golden_rewards(golden: Path, name: str, figure: Callable[[str], None]) -> None:
    model_dir = golden / "model" / name
    cases = json.loads((model_dir / "rewards.json").read_text())["cases"]
    records = [np.array(case["input_ids"], dtype=np.int32) for case in cases]
    with closing(started(model_dir)) as engine:
        together = ask(engine, records)
        alone = np.concatenate([ask(engine, [record]) for record in records])
    rewards = np.array([case["reward"] for case in cases])
    worst = max(np.abs(scores - rewards).max() for scores in (together, alone))
    figure(f"{len(cases)} cases, largest error {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "by_config", "by_answers"),
    [
        ("mha_bias", "has biases", "biases are left out"),
        ("rope_dynamic", "has dynamic RoPE", "wrong rotary table"),
    ],
)
def test_what_it_computes_wrongly_is_refused_by_name(
    golden: Path, name: str, by_config: str, by_answers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = golden / "model" / name
    with pytest.raises(ConfigError, match=by_config):
        started(model_dir)
    monkeypatch.setattr(module, "check", lambda config, model_dir: None)
    with pytest.raises(ConfigError, match=by_answers):
        started(model_dir)
    assert not living(children())


def test_a_group_costs_its_unique_tokens(
    engine: SGLangEngine, made: list[Path], figure: Callable[[str], None]
) -> None:
    records = group(0, 16, 200, 21)
    ask(engine, [records[0][:1]])
    before = settled(engine)
    scores = ask(engine, records)
    computed = settled(engine) - before
    unique = 200 + 16 * 21
    figure(f"{computed} tokens computed of {unique} unique")
    assert computed <= 1.1 * unique
    assert np.abs(scores - by_native(made[0], records)).max() <= TOLERANCE


def settled(engine: SGLangEngine) -> int:
    """Tokens computed, once the log says no more."""
    found = -1
    while found != engine._process.log.tokens_computed:
        found = engine._process.log.tokens_computed
        time.sleep(0.5)
    return found


def test_the_longest_record_is_answered(engine: SGLangEngine, made: list[Path]) -> None:
    assert engine.info.window == 2048
    records = group(1, 1, 0, 2048)
    assert np.abs(ask(engine, records) - by_native(made[0], records)).max() <= TOLERANCE


def test_updates_in_place_between_answers(
    engine: SGLangEngine, made: list[Path], figure: Callable[[str], None]
) -> None:
    """Prefixes that the cache keeps under the old weights are asked for again at once."""
    records = group(2, 20, 100, 10)
    pids = children()
    right = total = 0
    for model_dir in (made[0], made[1], made[0]):
        assert engine.take(CONFIG, model_dir)
        expected = by_native(model_dir, records)
        found = ask(engine, records)
        right += int((np.abs(found - expected) <= TOLERANCE).sum())
        total += len(records)
    figure(f"{right} of {total} right over two updates in place")
    assert right == total == 60
    assert children() == pids


def test_a_killed_scheduler_loses_the_engine_and_leaves_nothing(made: list[Path]) -> None:
    with closing(started(made[0])) as engine:
        assert engine._process._process is not None
        first = engine._process._process.pid
        pids = [first, *children(first)]
        (scheduler,) = (pid for pid in pids if b"sglang::scheduler" in command(pid))
        folder = engine._process.folder
        os.kill(scheduler, 9)
        with pytest.raises(DeviceLost, match="with it this engine"):
            ask(engine, group(3, 4, 10, 10))
        while alive := living(pids):
            assert scheduler not in alive
            time.sleep(0.05)
        assert not folder.exists()


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
