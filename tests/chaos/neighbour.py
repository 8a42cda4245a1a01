"""A busy neighbour: whoever shares this machine and wants all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))
"""


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Computes on every core in processes of their own, which end with the block, or with this
    process."""
    command = [sys.executable, "-c", PROGRAM]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
        assert all(process.poll() is None for process in processes), "the neighbour went quiet"
    finally:
        for process in processes:
            process.kill()
            process.wait()
