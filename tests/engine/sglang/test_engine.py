"""The sglang engine against a fake of sglang's interface, in a process as the real one's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from sglang_faking import LONG, MANY, Fake, children, known, living

from polar_ray.config import SGLangEngineConfig
from polar_ray.engine import build_engine
from polar_ray.engine.protocol import Scores
from polar_ray.engine.sglang import engine as module
from polar_ray.engine.sglang.engine import SGLangEngine
from polar_ray.errors import ConfigError, DeviceLost, EngineError
from polar_ray.planning import Ids, pack

FAILING, HANGING, FATAL = 13, 14, 15


@contextmanager
def running(fake: Fake, folder: Path, **settings: object) -> Iterator[SGLangEngine]:
    config = SGLangEngineConfig(python=str(fake.python), context_length=64, **settings)  # type: ignore[arg-type]
    engine = build_engine(config, folder)
    assert isinstance(engine, SGLangEngine)
    try:
        yield engine
    finally:
        engine.close()


def rows(*lists: Sequence[int]) -> list[Ids]:
    return [np.array(ids, dtype=np.int32) for ids in lists]


def ask(engine: SGLangEngine, records: Sequence[Ids]) -> Scores:
    scores = np.full(len(records), np.nan, dtype=np.float32)
    for packed in pack(records, max_tokens=engine.info.max_tokens):
        scores[packed.records] = engine.submit(packed).result()
    return scores


def wait_until_gone(pids: Sequence[int]) -> None:
    while living(pids):
        time.sleep(0.02)


GROUP = rows(*([*range(20, 50), 100 + number] for number in range(8)))
PLAIN = rows([7], [8, 9, 10], [8, 9, 10])


def test_scores_come_back_in_their_places(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        records = [*GROUP[:3], *PLAIN, *GROUP[3:]]
        assert ask(engine, records).tolist() == fake.scores(records, tiny_dir).tolist()
        first, second = (next(pack(rows(ids), max_tokens=99)) for ids in ([1, 2], [3]))
        one, two = engine.submit(first), engine.submit(second)
        assert two.result().tolist() == fake.scores(rows([3]), tiny_dir).tolist()
        assert one.result().tolist() == fake.scores(rows([1, 2]), tiny_dir).tolist()
        assert engine.info.window == 64
        assert engine.counters["packs"] > 4
    assert fake.lines[0] == "start cpu float32"


def test_a_groups_first_member_goes_ahead(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        before = len(fake.lines)
        ask(engine, GROUP)
        lines = fake.lines[before:]
    assert lines[:2] == ["sent 100", "done 100"]
    rest = [f"sent {number}" for number in range(101, 108)]
    assert sorted(lines[2:9]) == rest, "and the rest together"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([5, -1], "beyond the vocabulary of 400"),
        ([400], "beyond the vocabulary of 400"),
        ([5] * 65, "a record of 65 tokens"),
    ],
)
def test_what_sglang_does_not_survive_is_not_sent(
    fake: Fake, tiny_dir: Path, bad: list[int], message: str
) -> None:
    with running(fake, tiny_dir) as engine:
        with pytest.raises(EngineError, match=message) as caught:
            ask(engine, rows([6, 7], bad))
        assert not isinstance(caught.value, DeviceLost)
        assert ask(engine, rows([5] * 64)).tolist() == fake.scores(rows([5] * 64), tiny_dir)
    assert fake.lines.count("sent 7") == 2, "by known answers alone"


def test_a_record_that_fails_spoils_its_pack_alone(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        with pytest.raises(EngineError, match="ValueError: thirteen") as caught:
            ask(engine, rows([6, 7], [FAILING]))
        assert not isinstance(caught.value, DeviceLost)
        assert ask(engine, PLAIN).tolist() == fake.scores(PLAIN, tiny_dir).tolist()


def test_a_scheduler_that_dies_loses_the_engine(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        pids, folder = children(), engine._process.folder
        assert len(living(pids)) == 2, "the process and its scheduler"
        with pytest.raises(DeviceLost, match=r"one of sglang's processes .* has ended"):
            ask(engine, rows([FATAL]))
        wait_until_gone(pids)
        assert not folder.exists()
        with pytest.raises(DeviceLost, match="with it this engine"):
            ask(engine, PLAIN)


def test_a_silent_sglang_is_lost(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir, answer_timeout_s=0.3) as engine:
        pids = children()
        with pytest.raises(DeviceLost, match="no answer for 0"):
            ask(engine, rows([HANGING]))
        wait_until_gone(pids)


def test_a_killed_process_leaves_no_children(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        pids = children()
        os.kill(min(pids), signal.SIGKILL)
        with pytest.raises(DeviceLost):
            ask(engine, PLAIN)
        wait_until_gone(pids)


def test_closing_ends_all_at_once(fake: Fake, tiny_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        pids, folder = children(), engine._process.folder
        engine.close()
        assert not living(pids[:1])
        wait_until_gone(pids)
        assert not folder.exists()


ENDS_WITH_ITS_PARENT = """
import os, sys
from polar_ray.engine.sglang.process import SGLangProcess
process = SGLangProcess(sys.argv[1])
(process.folder / "model.safetensors").write_bytes(b"weights")
started = {"device": "auto", "dtype": "auto", "on_cpu": {"max_total_tokens": 99}, "on_cuda": {}}
process.start({**started, "model_path": str(process.folder)}, os.environ, 60)
print(process._process.pid, process.folder, flush=True)
if sys.argv[2] == "a fork holds the socket":
    held = os.dup(process._connection.fileno())
if sys.argv[2] != "alone" and os.fork() == 0:
    # None of its own, and this ends nothing.
    print(process._connection, flush=True)
    process.close()
    print("closed", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["alone", "forked", "a fork holds the socket"])
def test_it_ends_with_its_parent(fake: Fake, how: str) -> None:
    command = [sys.executable, "-c", ENDS_WITH_ITS_PARENT, str(fake.python), how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        pids = [int(pid), *children(int(pid))]
        if how != "alone":
            assert [parent.stdout.readline().strip() for _ in range(2)] == ["None", "closed"]
        assert len(living(pids)) == 2
        assert Path(folder).exists()
        parent.kill()
        # While the fork lives on.
        wait_until_gone(pids)
        while Path(folder).exists():
            time.sleep(0.02)


def test_wrong_answers_are_refused(
    fake: Fake, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SGLANG", "wrong")
    with (
        pytest.raises(ConfigError, match=r"sglang scores .*tiny wrongly: "),
        running(fake, tiny_dir),
    ):
        pass
    wait_until_gone(children())


def test_only_known_answers_that_it_takes_are_asked(
    fake: Fake, tiny_dir: Path, other_dir: Path
) -> None:
    """Its window is shorter than the longest of them, and that is no fault."""
    long = f"sent {LONG}"
    with running(fake, tiny_dir) as engine:
        assert long not in fake.lines
        assert fake.lines.count(f"sent {MANY}") == 2
        build_engine(engine._config, other_dir, in_place_of=engine)
        assert fake.lines.count(f"sent {MANY}") == 4, "and after an update"
        assert long not in fake.lines
    for window, times in ((600, 2), (1100, 3)):
        before = fake.lines.count(long)
        config = SGLangEngineConfig(python=str(fake.python), context_length=window)
        build_engine(config, tiny_dir).close()
        assert fake.lines.count(long) - before == times


@pytest.mark.parametrize(
    ("bad", "message"), [(MANY, "wrong embeddings"), (LONG, "a shorter window")]
)
def test_what_only_many_ids_or_long_records_show_is_refused(
    fake: Fake, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, bad: int, message: str
) -> None:
    known_to_fake = known(fake, tiny_dir)
    (known_to_fake.vocabulary if bad == MANY else known_to_fake.long).scores[0] += 9
    monkeypatch.setattr(module, "known_answers", lambda folder: known_to_fake)
    config = SGLangEngineConfig(python=str(fake.python), context_length=1200)
    with pytest.raises(ConfigError, match=f"tiny wrongly: .*{message}"):
        build_engine(config, tiny_dir)


def test_other_weights_in_place(fake: Fake, tiny_dir: Path, other_dir: Path) -> None:
    with running(fake, tiny_dir) as engine:
        config, pid, digest = engine._config, children()[0], engine.info.digest
        ask(engine, GROUP)
        assert build_engine(config, other_dir, in_place_of=engine) is engine
        assert children()[0] == pid
        assert ask(engine, GROUP).tolist() == fake.scores(GROUP, other_dir).tolist()
        assert engine.info.digest != digest
        assert engine.info.name == "other"


def test_an_update_that_fails_starts_another_process(
    fake: Fake, tiny_dir: Path, other_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SGLANG", "no_update")
    with running(fake, tiny_dir) as engine:
        pids = children()
        new = build_engine(engine._config, other_dir, in_place_of=engine)
        try:
            assert new is not engine
            wait_until_gone(pids)
            assert isinstance(new, SGLangEngine)
            assert ask(new, GROUP).tolist() == fake.scores(GROUP, other_dir).tolist()
        finally:
            new.close()


def test_a_model_of_another_shape_gets_another_process(
    fake: Fake, tiny_dir: Path, tmp_path: Path
) -> None:
    wide = make_checkpoint(tmp_path / "wide", hidden_size=64)
    with running(fake, tiny_dir) as engine:
        new = build_engine(engine._config, wide, in_place_of=engine)
        new.close()
        assert new is not engine
    assert len([line for line in fake.lines if line.startswith("start")]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": True}, r"has biases \(bias=true\)"),
        ({"rope_kind": "dynamic", "rope_factor": 2.0}, "has dynamic RoPE"),
    ],
)
def test_what_sglang_computes_wrongly_is_refused_by_name(
    fake: Fake, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = make_checkpoint(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=message), running(fake, folder):
        pass
    assert not fake.lines


def test_no_sglang_has_a_way_out(fake: Fake, tiny_dir: Path, tmp_path: Path) -> None:
    way_out = "set engine.python=DIR/bin/python"
    with pytest.raises(ConfigError, match=f"is no interpreter here: .*{way_out}"):
        build_engine(SGLangEngineConfig(python=str(tmp_path / "none")), tiny_dir)
    with pytest.raises(ConfigError, match=f"polar_ray's Python has no sglang: .*{way_out}"):
        build_engine(SGLangEngineConfig(), tiny_dir)
    fake.python.write_text('#!/bin/sh\nexec python3 -S "$@"\n')
    with pytest.raises(ConfigError, match=f"cannot import sglang .*{way_out}"):
        build_engine(SGLangEngineConfig(python=str(fake.python)), tiny_dir)


def test_why_it_did_not_start_is_said(
    fake: Fake, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SGLANG", "no_start")
    with pytest.raises(EngineError, match="no start today"), running(fake, tiny_dir):
        pass


def test_too_little_room_is_refused(
    fake: Fake, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SGLANG", "narrow")
    message = "room for records of 92 tokens, not 96"
    config = SGLangEngineConfig(python=str(fake.python), context_length=96)
    with pytest.raises(ConfigError, match=message):
        build_engine(config, tiny_dir)
