"""slime: `--custom-rm-path polar_ray.adapters.slime.polar`, with and without --group-rm.

The label is the reference. slime leaves the token that ends a response in it: it is not scored. One
row without a score makes NaN of a group there, so it raises. Settings can also be attributes of
slime's arguments (`--custom-config-path`), with `polar_` before their names.
"""

from __future__ import annotations

from typing import Any

from polar_ray.adapters.pool import Row, all_scores
from polar_ray.adapters.rows import record
from polar_ray.adapters.settings import AdapterConfig, own_settings, read_settings


async def polar(args: Any, samples: Any, **kwargs: Any) -> float | list[float]:
    """The reward of one sample, or those of a list, in order."""
    settings = read_settings(own_settings(vars(args)))
    if isinstance(samples, list):
        return await all_scores([_row(sample, settings) for sample in samples], settings)
    (score,) = await all_scores([_row(samples, settings)], settings)
    return score


def _row(sample: Any, settings: AdapterConfig) -> Row:
    return record(sample.prompt, sample.label, sample.response, settings, ended=True)
