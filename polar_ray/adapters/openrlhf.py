"""OpenRLHF: this file as `--reward.remote_url`, whose `reward_func` OpenRLHF loads by its path.

`rewards` has POLAR's score, `scores` the same between 0 and 1: OpenRLHF filters groups by it, in
that range. OpenRLHF logs and drops whatever a reward function raises, and fails much later without
the reason, so a row without a score gets a reward that raises it where it is used.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from polar_ray.adapters.no_reward import NoReward
from polar_ray.adapters.pool import all_scores_now
from polar_ray.adapters.rows import aligned, record
from polar_ray.adapters.settings import read_settings
from polar_ray.errors import RecordError

logger = logging.getLogger(__name__)


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **kwargs: Any
) -> dict[str, Any]:
    """The rewards of some rollouts; OpenRLHF passes one. The label is the reference."""
    try:
        settings = read_settings()
        rows = [
            record(prompt, label, response_of(query, prompt), settings, ended=True)
            for query, prompt, label in aligned(queries=queries, prompts=prompts, labels=labels)
        ]
        rewards = all_scores_now(rows, settings)
    except Exception as error:  # of any kind: it would be dropped
        logger.error("no reward: %s: %s", type(error).__name__, error)
        none = [NoReward(error)] * len(queries)
        return {"rewards": none, "scores": none, "extra_logs": {}}
    return {
        "rewards": rewards,
        "scores": [squashed(reward) for reward in rewards],
        "extra_logs": {"polar": rewards},
    }


def response_of(query: str, prompt: str) -> str:
    """What follows the prompt in a query. OpenRLHF decodes both together, which may put a token
    that begins texts in front. Raises `RecordError`: nothing is cut off by guess."""
    if not (isinstance(query, str) and isinstance(prompt, str)):
        raise RecordError(f"a query and its prompt are texts, not {query!r:.80} and {prompt!r:.80}")
    if not prompt:
        raise RecordError("an empty prompt: where it ends in a query nobody can say")
    at = next((place for place in _starts(query) if query.startswith(prompt, place)), None)
    if at is None:
        raise RecordError(
            "a query does not begin with its prompt: the tokenizer gives other text back than it "
            "was given, or the prompt was cut (a longer --data.max_len?)"
        )
    return query[at + len(prompt) :]


BEGIN = re.compile(r"<[^<>\s]{1,30}>\s?")
"""A token that begins texts, such as <|begin_of_text|>."""


def _starts(query: str) -> Iterator[int]:
    """Where a query's prompt may begin: at once, or behind a token or two."""
    yield (at := 0)
    for _ in range(2):
        if (token := BEGIN.match(query, at)) is None:
            return
        yield (at := token.end())


def squashed(score: float) -> float:
    """A score between 0 and 1, in the same order."""
    return 1 / (1 + math.exp(-score)) if score > -700 else 0.0
