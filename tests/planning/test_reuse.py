"""Prefixes get spans of their own; without cached spans, a pack holds the same records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.planning import Pack, pack, prefix_keys, without_spans
from polar_ray.planning.trie import build_forest_with_prefixes, sort_records

groups = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=1, max_size=8),
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)
"""Prefixes and what follows each of them; few ids, so that many begin alike."""


def flat(made: list[tuple[list[int], list[list[int]]]]) -> tuple[list[np.ndarray], list[int]]:
    rows = [(prefix + tail, len(prefix)) for prefix, tails in made for tail in tails]
    return [np.array(ids, dtype=np.int32) for ids, _ in rows], [size for _, size in rows]


def tokens(one: Pack, span: int) -> list[int]:
    """All tokens from the root to the end of a span."""
    start, stop, parent = one.spans[span]
    return (tokens(one, parent) if parent >= 0 else []) + one.ids[start:stop].tolist()


def records_of(one: Pack) -> dict[int, list[int]]:
    at = {stop - 1: number for number, (start, stop, _) in enumerate(one.spans) if stop > start}
    return {
        int(record): tokens(one, at[int(end)])
        for record, end in zip(one.records, one.ends, strict=True)
    }


@given(groups, st.integers(1, 4), st.integers(4, 60))
def test_prefix_lengths_change_no_record(
    made: list[tuple[list[int], list[list[int]]]], share: int, budget: int
) -> None:
    ids, lengths = flat(made)
    packs = list(pack(ids, max_tokens=budget, min_share=share, prefix_lengths=lengths))
    found = {k: v for one in packs for k, v in records_of(one).items()}
    assert found == {i: one.tolist() for i, one in enumerate(ids)}
    assert sum(len(one.records) for one in packs) == len(ids)
    for one in packs:
        ends = {tuple(tokens(one, number)) for number in one.reusable}
        assert ends <= {tuple(row[:size].tolist()) for row, size in zip(ids, lengths, strict=True)}
        stops = {one.spans[number].stop - 1 for number in one.reusable}
        assert not stops & set(one.ends.tolist())
        assert one.num_tokens <= max(budget, max(map(len, ids)))


@given(groups)
def test_with_a_share_of_one_every_prefix_is_reusable(
    made: list[tuple[list[int], list[list[int]]]],
) -> None:
    # As POLAR's template has it, something that no text contains stands before the outputs.
    ids, lengths = flat([([*prefix, 9], tails) for prefix, tails in made])
    [one] = pack(ids, max_tokens=10**6, min_share=1, prefix_lengths=lengths)
    ends = {tuple(tokens(one, number)) for number in one.reusable}
    assert ends == {tuple(r[:n].tolist()) for r, n in zip(ids, lengths, strict=True)}


def test_a_lone_record_is_cut_at_its_prefix() -> None:
    [one] = pack([np.arange(50, dtype=np.int32)], max_tokens=99, prefix_lengths=[30])
    assert [tuple(span) for span in one.spans] == [(0, 30, -1), (30, 50, 0)]
    assert one.reusable == (0,)


def test_a_short_prefix_is_no_span() -> None:
    [one] = pack([np.arange(50, dtype=np.int32)], max_tokens=99, prefix_lengths=[3])
    assert len(one.spans) == 1
    assert one.reusable == ()


def test_equal_prefixs_have_one_name_wherever_they_begin() -> None:
    prefix = np.arange(40, dtype=np.int32)
    one = np.append(prefix, [1, 2]).astype(np.int32)
    other = np.append(prefix[:20], [7] * 30).astype(np.int32)
    [alone] = pack([one], max_tokens=99, prefix_lengths=[40])
    [both] = pack([one, other], max_tokens=999, prefix_lengths=[40, 45])
    name = prefix_keys(alone)[0]
    named = prefix_keys(both)
    assert name in named.values()
    again = next(number for number, value in named.items() if value == name)
    assert both.spans[again] == (both.spans[again].start, both.spans[again].start + 20, 0)
    assert len(set(named.values())) == len(named)


def test_a_length_that_turns_the_angles_is_part_of_the_name() -> None:
    one, other = (np.arange(n, dtype=np.int32) for n in (50, 60))
    [short], [long] = (pack([ids], max_tokens=99, prefix_lengths=[30]) for ids in (one, other))
    assert prefix_keys(short) == prefix_keys(long)
    assert prefix_keys(short, scaled_above=40) != prefix_keys(long, scaled_above=40)
    assert prefix_keys(short, scaled_above=70) == prefix_keys(long, scaled_above=70)


@given(groups, st.data())
def test_what_is_known_is_left_out(
    made: list[tuple[list[int], list[list[int]]]], data: st.DataObject
) -> None:
    ids, lengths = flat(made)
    [one] = pack(ids, max_tokens=10**6, min_share=1, prefix_lengths=lengths)
    known = data.draw(st.sets(st.sampled_from(one.reusable))) if one.reusable else set()
    rest = without_spans(one, known)
    assert rest.num_tokens == one.num_tokens - sum(
        one.spans[number].stop - one.spans[number].start for number in known
    )
    for number, (span, left) in enumerate(zip(one.spans, rest.spans, strict=True)):
        wanted = [] if number in known else one.ids[span.start : span.stop].tolist()
        assert rest.ids[left.start : left.stop].tolist() == wanted
        places = slice(left.start, left.stop)
        assert rest.positions[places].tolist() == (
            [] if number in known else one.positions[span.start : span.stop].tolist()
        )
    assert rest.ids[rest.ends].tolist() == one.ids[one.ends].tolist()


def test_prefixs_of_different_sizes_nest() -> None:
    ids = [np.array(x, dtype=np.int32) for x in ([1, 1, 2], [1, 1, 3, 4])]
    order = sort_records(ids)
    forest, reusable = build_forest_with_prefixes(ids, order.shared, [1, 3], min_share=1)
    paths = [len(piece) for piece in forest.pieces]
    assert sum(paths) == 5
    assert len(reusable) == 2
