"""An environment with a fake sglang, what its models score, and processes below a test's own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from polar_ray.engine.answers import Answered, KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids

FAKE = Path(__file__).parent / "engine" / "sglang" / "fake"

LONG, MANY = 4, 3
"""Last ids of the longest known answers, and of those for embeddings."""


class Fake:
    """The fake environment of one test."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python"
        self.log = folder / "log"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE}/interpreter.py "$@"\n')
        self.python.chmod(0o755)
        self.log.touch()

    @property
    def lines(self) -> list[str]:
        """What reached sglang, and when it was answered."""
        return self.log.read_text().splitlines()

    def scores(self, ids: Sequence[Ids], model_dir: Path) -> Scores:
        """What sglang should say."""
        weights = (model_dir / "model.safetensors").read_bytes()
        return np.array([SGLANG.score(row.tolist(), weights) for row in ids], dtype=np.float32)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_sglang", FAKE / "sglang" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


SGLANG = _load()


def known(fake: Fake, model_dir: Path) -> KnownAnswers:
    """Known answers of a fake's model, whose longest are over what tests let sglang take."""

    def answered(*lists: Sequence[int]) -> Answered:
        ids = [np.array(row, dtype=np.int32) for row in lists]
        return Answered(ids, fake.scores(ids, model_dir))

    first = answered([5], [5, 6, 7], [8, 9], [LONG] * 600)
    altered = ("unrotated", "unended", "first", "doubled", "unbegun")
    return KnownAnswers(
        first.ids,
        first.scores,
        dict.fromkeys(altered, np.zeros_like(first.scores)),
        vocabulary=answered([21, MANY], [22, MANY]),
        long=answered([LONG] * 1100),
    )


def living(pids: Sequence[int]) -> list[int]:
    """Those that have not ended; a zombie has."""
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid: int = os.getpid()) -> list[int]:
    """All processes below one that have not ended, but multiprocessing's own: other tests may have
    started that."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            its_own = b"multiprocessing.resource_tracker" in (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == pid and state != "Z" and not its_own:
            found += [int(path.name), *children(int(path.name))]
    return found
