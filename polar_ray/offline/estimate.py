"""A dry run: what a job would do and cost, from the files' own headers and a sample of rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from polar_ray.config import RescoreConfig, StubEngineConfig
from polar_ray.data.formats import Reader, Unreadable
from polar_ray.data.splits import cut
from polar_ray.data.storage import place
from polar_ray.errors import JobStopped
from polar_ray.offline.executor import THREADS
from polar_ray.offline.inputs import Input
from polar_ray.planning import pack
from polar_ray.scorer import Scorer

SAMPLE_SPLITS = 4
SAMPLE_ROWS = 512
"""Of each sampled split: one run of neighbours, so that what they share shows."""


def estimate(config: RescoreConfig, given: Input, tokens_per_s: float | None) -> dict[str, Any]:
    """What there is, and by the sample how many tokens it has; `hours` where a speed is given.

    A pool's tokenizer is not known here, so with a pool there are no tokens.
    """
    splits = cut(given.extents, config.rows_per_part)
    rows = given.rows
    found: dict[str, Any] = {
        "files": len(given.files),
        "skipped": [asdict(problem) for problem in given.skipped],
        "bytes": given.size_bytes,
        "rows": rows,
        "columns": asdict(given.columns),
        "kept_columns": given.schema.names,
        "parts": len(splits),
        "most_rows_redone_after_a_kill": min(
            rows, config.rows_per_part * config.in_flight * max(1, THREADS * config.num_workers)
        ),
    }
    if config.uses_pool or not splits:
        return found
    step = max(1, len(splits) // SAMPLE_SPLITS)
    # Tokens need no weights.
    scorer = Scorer(config.scorer.model_copy(update={"engine": StubEngineConfig()}))
    reader = Reader(place(given.source).filesystem, given.schema)
    tokens = computed = seen = truncated = 0
    errors: Counter[str] = Counter()
    for split in splits[::step][:SAMPLE_SPLITS]:
        try:
            table = reader.read(split).table
        except Unreadable as error:
            raise JobStopped(str(error)) from None
        mapped = given.columns.apply(table.slice(0, SAMPLE_ROWS))
        encoded = scorer.encode(mapped.table)
        good = [one for one in encoded if one.error is None]
        errors.update(str(one.error).partition(":")[0] for one in encoded if one.error)
        truncated += sum(one.truncated for one in good)
        seen += len(encoded)
        tokens += sum(len(one.ids) for one in good)
        packs = pack([one.ids for one in good], max_tokens=scorer.max_tokens)
        computed += sum(one.num_tokens for one in packs)
    reader.close()
    scale = rows / max(1, seen)
    found |= {
        "sampled_rows": seen,
        "sampled_errors": dict(errors),
        "truncated_share": round(truncated / max(1, seen), 4),
        "tokens": round(tokens * scale),
        "tokens_after_sharing": round(computed * scale),
    }
    if tokens_per_s is not None:
        found["hours"] = round(tokens * scale / tokens_per_s / 3600, 3)
    return found
