"""Records to try a model with, and the few scores that POLAR's authors have published."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polar_ray.model import ModelConfig
from polar_ray.planning import Ids

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


class Published(NamedTuple):
    """Scores that stand on a model card; their order is the check, their values to 0.1 or so."""

    record: dict[str, str]
    score: float


POLAR_7B = [
    Published(
        {"prompt": PROMPT, "reference": "Beijing.", "output": "Beijing."}, -0.5702977776527405
    ),
    Published(
        {"prompt": PROMPT, "reference": "Beijing.", "output": "Shanghai."}, -11.030370712280273
    ),
]


def is_polar_7b(name: str, config: ModelConfig) -> bool:
    """Whether a directory says that it is the published, fine-tuned POLAR-7B."""
    shape = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    own = name.rpartition("/")[2]  # without a hub's owner
    return shape == (4096, 32, 92544) and own.startswith("POLAR-7B") and "Base" not in own


def random_ids(config: ModelConfig, lengths: list[int], *, seed: int = 0) -> list[Ids]:
    """Sequences of arbitrary ids that end in the reward token; they need no tokenizer."""
    random = np.random.default_rng(seed)
    bodies = [random.integers(0, config.vocab_size, length - 1) for length in lengths]
    return [np.append(body, config.reward_token_id).astype(np.int32) for body in bodies]
