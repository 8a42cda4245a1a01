"""An environment with a fake sglang, what its models score, and processes below a test's own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from polar_ray.engine.protocol import Scores
from polar_ray.errors import ConfigError
from polar_ray.planning import Ids

FAKE = Path(__file__).parent / "engine" / "sglang" / "fake"


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


class Known:
    """Known answers of a fake's model."""

    def __init__(self, fake: Fake, model_dir: Path) -> None:
        self.ids = [np.array(row, dtype=np.int32) for row in ([5], [5, 6, 7], [8, 9])]
        self._scores = fake.scores(self.ids, model_dir)

    def check(self, found: Scores, tolerance: float, *, again: Scores) -> None:
        """As `KnownAnswers.check`."""
        for scores in (found, again):
            if not np.allclose(scores, self._scores, atol=tolerance):
                raise ConfigError("they are off")


def living(pids: Sequence[int]) -> list[int]:
    """Those that have not ended; a zombie has."""
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid: int = os.getpid()) -> list[int]:
    """All processes below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found
