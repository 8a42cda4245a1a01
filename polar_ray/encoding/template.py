"""POLAR's text template: how prompt, reference and output become one text.

Source: POLAR's repository, `src/polar/reward_func.py`; checked against golden/encode.jsonl. Knows
nothing of tokens.
"""

from __future__ import annotations

from polar_ray.tables import WHOLE

TEMPLATE_VERSION = "polar-1"
"""Changes whenever the same record would be encoded to other tokens; part of every provenance."""

SEPARATOR = "<|reward|>"
"""Stands between the reference trajectory and the candidate trajectory; one token id."""

REWARD_TOKEN = "[UNUSED_TOKEN_130]"
"""How POLAR's own clients write the token at which the reward is read, the last of the text."""

JOINTS = {"sft": "\n", "pretrain": "", WHOLE: ""}
"""What stands between a prompt and its response, by wrapper."""


def trajectory(prompt: str, response: str, wrapper: str = "sft") -> str:
    """One of the two halves of the text."""
    return f"{prompt}{JOINTS[wrapper]}{response}"


def text(prompt: str, reference: str, output: str, wrapper: str = "sft") -> str:
    """The whole text as POLAR's client sends it to a server that tokenises by itself."""
    first, second = trajectory(prompt, reference, wrapper), trajectory(prompt, output, wrapper)
    return f"{first}{SEPARATOR}{second}{REWARD_TOKEN}"
