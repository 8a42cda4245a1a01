"""Engines of others: each is measured by a script in a virtual environment of its own."""

from __future__ import annotations

from pathlib import Path

VLLM = "vllm"
SGLANG = "sglang"
SGLANG_IN_TURNS = "sglang, first member first"

SCRIPTS = {
    VLLM: ("vllm", "vllm_worker.py"),
    SGLANG: ("sglang", "sglang_worker.py"),
    SGLANG_IN_TURNS: ("sglang", "sglang_worker.py"),
}
"""Competitor to the package that its environment must have, and the script."""

Environments = dict[str, Path | None]
"""Package to the virtual environment that has it."""


def command(engine: str, environments: Environments) -> list[str]:
    """How a foreign competitor's script is started; empty if no environment was named for it."""
    package, script = SCRIPTS[engine]
    environment = environments[package]
    if environment is None:
        return []
    return [str(environment / "bin/python"), str(Path(__file__).with_name(script))]
