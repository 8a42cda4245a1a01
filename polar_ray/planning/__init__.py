"""Who is scored with whom: shards across replicas, packs within one forward. No torch, no ray."""

from polar_ray.planning.pack import Pack, Span, build_pack, pack
from polar_ray.planning.reuse import prefix_keys, without_spans
from polar_ray.planning.shard import merge, shard
from polar_ray.planning.trie import Counts, Ids

__all__ = [
    "Counts",
    "Ids",
    "Pack",
    "Span",
    "build_pack",
    "merge",
    "pack",
    "prefix_keys",
    "shard",
    "without_spans",
]
