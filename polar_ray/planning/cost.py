"""What a pack costs: the exact floating-point operations of its forward pass, from shapes alone.

Counts matrix products, two operations for each multiply-add; norms, rotations and activations are
under one percent and left out. The last layer computes keys and values of all tokens and the rest
for the ends alone, as `polar_ray.model` does. Knows nothing of seconds or of devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from polar_ray.planning.pack import Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model's shape decides its cost; named as in config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int

    @property
    def pair_flops(self) -> int:
        """One query and one key of one layer, all heads: a product of each with K and with V."""
        return 4 * self.hidden_size

    @property
    def kv_flops(self) -> int:
        """Keys and values of one token in one layer."""
        head_dim = self.hidden_size // self.num_attention_heads
        return 4 * self.hidden_size * self.num_key_value_heads * head_dim

    @property
    def rest_flops(self) -> int:
        """One token's other linear maps in one layer: queries, output and feed-forward."""
        return 4 * self.hidden_size**2 + 6 * self.hidden_size * self.intermediate_size


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations of forward passes; costs add up."""

    linear: int
    attention: int

    @property
    def flops(self) -> int:
        """All of them."""
        return self.linear + self.attention

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.linear + other.linear, self.attention + other.attention)


def cost(shape: Shape, pack: Pack, *, block: int = 1) -> Cost:
    """The cost of one pack.

    `block` is how many query rows of a span an attention kernel computes against the same keys, of
    which it then masks the later ones: 1 counts causal pairs alone, the least there can be.
    """
    end_pairs = sum(int(pack.positions[end]) + 1 for end in pack.ends.tolist())
    pairs = attended_pairs(pack, block=block)
    return _cost(shape, pack.num_tokens, pairs, len(pack.ends), end_pairs)


def unshared(shape: Shape, lengths: Iterable[int]) -> Cost:
    """The cost of records of `lengths` tokens, each computed from its first token to its last."""
    filled = [length for length in lengths if length]
    pairs = sum(length * (length + 1) // 2 for length in filled)
    return _cost(shape, sum(filled), pairs, len(filled), sum(filled))


def attended_pairs(pack: Pack, *, block: int = 1) -> int:
    """Pairs of a query and a key that one layer computes, `block` query rows at a time."""
    total = 0
    for start, stop, _ in pack.spans:
        if start == stop:
            continue  # remembered from an earlier pack
        # A span's first token stands where its ancestors end, in this pack or an earlier one.
        before, size = int(pack.positions[start]), stop - start
        whole, rest = divmod(size, block)
        # Block i sees everything before the span and the blocks up to its own.
        total += whole * block * before + block * block * (whole * (whole + 1) // 2)
        total += rest * (before + size)
    return total


def _cost(shape: Shape, tokens: int, pairs: int, ends: int, end_pairs: int) -> Cost:
    """`pairs` in each layer but the last, which computes `end_pairs` for its `ends`."""
    layers = shape.num_hidden_layers - 1
    full = shape.kv_flops + shape.rest_flops
    head = 2 * shape.hidden_size
    return Cost(
        linear=layers * tokens * full + tokens * shape.kv_flops + ends * (shape.rest_flops + head),
        attention=(layers * pairs + end_pairs) * shape.pair_flops,
    )
