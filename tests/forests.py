"""Spans of packs as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from polar_ray.model.attention import SpanTuple

Forest = tuple[list[SpanTuple], list[int]]


@st.composite
def forests(draw: st.DrawFn, *, most_tokens: int, most_spans: int) -> Forest:
    """Spans of up to `most_tokens` in an order that packs may have, and some tokens at which one of
    them ends."""
    sizes = draw(st.lists(st.integers(1, most_tokens), min_size=1, max_size=most_spans))
    spans: list[SpanTuple] = []
    start = 0
    for number, size in enumerate(sizes):
        spans.append((start, start + size, draw(st.integers(-1, number - 1))))
        start += size
    stops = [stop - 1 for _, stop, _ in spans]
    return spans, draw(st.lists(st.sampled_from(stops), min_size=1, max_size=6))
