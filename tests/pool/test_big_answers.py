"""Answers that lie in the object store: Ray ends a caller that lets go of one too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import big_answers
import pytest
from chaos.load import stub_pool

from polar_ray.config import StubEngineConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(700)]

CALLS = 12


def test_a_caller_that_blocks_for_them_lives_on(cluster: None, tiny_dir: Path) -> None:
    import ray

    with stub_pool("big", str(tiny_dir), num_routers=2, engine=StubEngineConfig()):
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, big_answers.__file__, address, "big", str(CALLS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=650)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) == CALLS * big_answers.ROWS
