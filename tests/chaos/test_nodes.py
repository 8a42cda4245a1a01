"""A node is lost with its replicas, on a cluster of three in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def test_a_lost_node_loses_nothing(model: str, figure: Callable[[str], None]) -> None:
    records = os.environ.get("CHAOS_RECORDS", "20000")
    script = Path(__file__).with_name("three_nodes.py")
    done = subprocess.run(
        [sys.executable, str(script), model, records],
        capture_output=True,
        text=True,
        timeout=1780,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # Ray writes to the same stream.
    [found] = [line for line in done.stdout.splitlines() if line.startswith('{"exact"')]
    account = json.loads(found)
    figure(account["summary"])
    assert account["exact"], account["summary"]
