"""Triton's compiler takes what its interpreter took, and makes of it what was meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux on x86-64 alone")

SHARED = {80: 163 << 10, 90: 227 << 10}
"""Bytes that a block may have."""


@pytest.mark.parametrize(
    ("capability", "which", "count"),
    [
        (90, "first", 5),
        pytest.param(80, "all", 8, marks=pytest.mark.slow),
        pytest.param(90, "all", 9, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile(capability: int, which: str, count: int, tmp_path: Path) -> None:
    # In a process of its own: in this one, kernels are for the interpreter.
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, script, str(capability), which],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    for kernel in found:
        assert kernel["shared"] <= SHARED[capability], kernel
        if kernel["kernel"].startswith("path_attention"):
            assert kernel["products"] > 0, kernel
            # Keys are on their way while those before them are multiplied.
            assert kernel["copies"] > 0, kernel
