"""What a model is tried with: records, and known answers that somebody has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt

from polar_ray.json_object import parse, read_object

PROMPT = "What is the capital of China?"
RECORDS: list[dict[str, str]] = [
    {"prompt": prompt, "reference": reference, "output": output}
    for prompt, reference, outputs in [
        (PROMPT, "Beijing.", ["Beijing.", "Shanghai.", "", "北京。"]),
        (
            "Add 12 and 24, then double it.",
            "12 + 24 = 36, and 2 * 36 = 72.",
            ["72", "The sum is 36; doubled, it is 72.", "36", "I would rather not. " * 30],
        ),
        (
            "写一句话介绍长城。",
            "长城是中国古代的防御工程。",
            ["长城很长。", "def wall():\n    return 21_196\n", "长城是古代修建的城墙。" * 12],
        ),
    ]
    for output in outputs
]
"""Three groups, short and long, in several scripts."""


class Case(BaseModel):
    """A known answer."""

    input_ids: Annotated[list[NonNegativeInt], Field(min_length=1)]
    reward: FiniteFloat


class Golden(BaseModel):
    """A file of known answers."""

    cases: Annotated[list[Case], Field(min_length=1)]


def load_golden(path: Path) -> list[Case]:
    """The known answers of a file; `ConfigError` where it holds none."""
    return parse(Golden, read_object(path, 1 << 28), path).cases
