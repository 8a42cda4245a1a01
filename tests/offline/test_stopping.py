"""A run that somebody ends, and does not wait for: no part says what only the end has caused."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rescoring import ROWS, Config, expected, read, scores

from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Pending
from polar_ray.errors import JobStopped
from polar_ray.offline import executor as module
from polar_ray.offline import rescore
from polar_ray.offline.executor import Work
from polar_ray.offline.work import Call, Worker
from polar_ray.planning import Pack

LONG_S = 30.0
"""A test that waits so long has failed."""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """The tests themselves may run in a script's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Impatient(ThreadPoolExecutor):
    """Threads that somebody interrupts the waiting for."""

    made: list[Impatient]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made.append(self)

    def __exit__(self, *error: object) -> bool:
        self.shutdown(wait=False)
        raise KeyboardInterrupt


def test_a_second_interrupt_leaves_no_part_without_scores(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is let go of while threads score: what they have becomes no part."""
    submit, close = NativeEngine.submit, NativeEngine.close
    packs, closed, main = [], threading.Event(), threading.main_thread()

    def held(engine: NativeEngine, pack: Pack) -> Pending:
        packs.append(pack)
        if len(packs) == 3:
            assert main.ident is not None
            signal.pthread_kill(main.ident, signal.SIGINT)
        if len(packs) >= 3:
            closed.wait(LONG_S)
        return submit(engine, pack)

    def closing(engine: NativeEngine) -> None:
        close(engine)
        closed.set()

    chosen = config(engine={"type": "native"}, in_flight=2)
    Impatient.made = []
    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, "submit", held)
        patch.setattr(NativeEngine, "close", closing)
        patch.setattr(module, "ThreadPoolExecutor", Impatient)
        with pytest.raises(KeyboardInterrupt):
            rescore(chosen, str(source), str(out))
        for threads in Impatient.made:
            threads.shutdown(wait=True)
    assert len(packs) >= 3
    written = list(out.glob("part-*"))
    assert len(written) <= 2
    if written:
        assert read(out)["error"].null_count == read(out).num_rows
    manifest = rescore(chosen, str(source), str(out))
    assert (manifest["rows"], manifest["num_errors"]) == (ROWS, 0)
    assert scores(read(out)) == pytest.approx(expected(chosen), abs=1e-5)


def test_a_worker_that_was_closed_reads_no_more(
    config: Config, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is closed under calls that nobody waits for, who must not take that for its end."""

    def too_late(worker: Worker, calls: Sequence[Call], num_threads: int) -> Work:
        worker.close()
        for call in calls:
            yield call, worker.do(call)

    monkeypatch.setattr(module, "in_order", too_late)
    with pytest.raises(JobStopped, match="was stopped"):
        rescore(config(on_corrupt="skip"), str(source), str(out))
    assert not list(out.glob("part-*"))
