"""What is scored: records as token ids, in arrival order.

W1 to W5 have POLAR's form: a group shares its prompt twice, the reference and 3 control tokens, and
each record adds its output and one more. Ids and lengths are random; the seeds are those whose
padding comes closest to planned figures (padded / unique tokens 1.52 for W3, 3.12 for W5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.assets import builtin_model_dir
from polar_ray.config import EncodingConfig
from polar_ray.encoding import Encoder, limits, load_tokenizer
from polar_ray.planning import Ids
from polar_ray.planning.trie import sort_records

BATCH = 8
"""Records of a padded batch, as POLAR's users run transformers."""

LARGEST_ID = 92000
"""Random ids stay below InternLM2's control tokens."""

Random = np.random.Generator


def grouped(random: Random, shared: int, own: Sequence[int]) -> list[Ids]:
    """One group: `shared` tokens in common, then each record's own."""
    prefix = random.integers(5, LARGEST_ID, shared)
    tails = [random.integers(5, LARGEST_ID, count) for count in own]
    return [np.concatenate([prefix, tail]).astype(np.int32) for tail in tails]


def group_of(size: int, prompt: int, reference: int, output: int, *, seed: int = 0) -> list[Ids]:
    """One group whose fields have these many tokens."""
    random = np.random.default_rng(seed)
    return grouped(random, 2 * prompt + reference + 3, [output + 1] * size)


def lognormal(random: Random, median: float, sigma: float, size: int) -> list[int]:
    """Lengths between 16 and 4096."""
    lengths = median * np.exp(sigma * random.standard_normal(size))
    return [int(length) for length in np.clip(lengths, 16, 4096)]


def loners() -> list[Ids]:
    """W3: 24 records that share nothing."""
    random = np.random.default_rng(50)
    return [grouped(random, 0, [n])[0] for n in lognormal(random, 500, 0.4, 24)]


def mixed() -> list[Ids]:
    """W5: three groups of 8, every length its own."""
    random = np.random.default_rng(64)
    records: list[Ids] = []
    for _ in range(3):
        prompt, reference = lognormal(random, 150, 0.6, 2)
        own = lognormal(random, 150, 0.6, 8)
        records += grouped(random, 2 * prompt + reference + 3, own)
    return records


def long() -> list[Ids]:
    """Two records of 4 k tokens behind one prefix of 3 k, and one of 16 k."""
    random = np.random.default_rng(7)
    return grouped(random, 3072, [1024, 1024]) + grouped(random, 0, [16384])


MADE: dict[str, Callable[[], list[Ids]]] = {
    "W1": lambda: group_of(16, 256, 256, 256),
    "W2": lambda: group_of(8, 128, 384, 384),
    "W3": loners,
    "W4": lambda: group_of(16, 64, 256, 1024),
    "W5": mixed,
    "long": long,
}

NAMES = [*MADE, "rollouts"]


def rollouts(data: Path, groups: int) -> list[Ids]:
    """`groups` groups of 16 policies' answers, evenly spaced over the file in its own order.

    Tokenised by the InternLM2 tokenizer beside the data, else by the built-in model's. Without the
    file, records of its statistics: 870 tokens in the mean, 1630 at p95, 60 % of them shared.
    """
    path = data / "rollouts.parquet"
    if not path.is_file():
        return _like_rollouts(groups)
    table = pq.read_table(path, columns=["group", "prompt", "reference", "output"])
    number = table["group"].to_numpy()
    known = np.unique(number)
    chosen = known[np.arange(groups) * len(known) // groups] if groups < len(known) else known
    rows = table.filter(pa.array(np.isin(number, chosen))).drop_columns("group")
    folder = data.parent / "tokenizer"
    tokenizer = load_tokenizer(folder if folder.is_dir() else builtin_model_dir())
    reward = "[UNUSED_TOKEN_130]"
    encoder = Encoder(
        tokenizer, limits(EncodingConfig(), None), reward_id=tokenizer.control_id(reward)
    )
    return [one.ids for one in encoder.encode(rows)]


def _like_rollouts(groups: int) -> list[Ids]:
    random = np.random.default_rng(11)
    records: list[Ids] = []
    for _ in range(groups):
        [shared] = lognormal(random, 465, 0.6, 1)
        records += grouped(random, shared, lognormal(random, 260, 0.6, 16))
    return records


def padded_tokens(ids: Sequence[Ids], batch: int = BATCH) -> int:
    """Tokens that right-padded batches compute in the order given."""
    batches = [ids[at : at + batch] for at in range(0, len(ids), batch)]
    return sum(len(one) * max(map(len, one)) for one in batches)


def unique_tokens(ids: Sequence[Ids]) -> int:
    """Nodes of the records' trie: what must be computed at the least."""
    return sum(map(len, ids)) - int(sort_records(ids).shared.sum())
