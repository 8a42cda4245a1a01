"""Ready-made text: as the record that it was made of, and no word of a policy's becomes control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sample_records import GROUPS, texts

from polar_ray.encoding import Encoder, Limits, load_tokenizer
from polar_ray.encoding.ready_made import cut
from polar_ray.encoding.template import SEPARATOR, text, trajectory
from polar_ray.records import Trajectories, Unread, to_batch

LIMITS = Limits(64, 16)
"""Most examples are cut."""


@pytest.fixture(scope="module")
def encoder(tiny_dir: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_dir), LIMITS, reward_id=4)


def ready(encoder: Encoder, row: dict[str, Any]) -> str:
    """What a client with the same limits sends for a record."""
    cut_row = encoder.texts(row["prompt"], row["reference"], row["output"])
    return text(cut_row.prompt, cut_row.reference, cut_row.output, row.get("wrapper") or "sft")


@given(st.tuples(texts, texts, texts), st.sampled_from(["sft", "pretrain"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_its_tokens_are_those_of_its_record(
    encoder: Encoder, parts: tuple[str, str, str], wrapper: str
) -> None:
    prompt, reference, output = parts
    assume(SEPARATOR not in prompt + "\n" + reference)
    row = {"prompt": prompt, "reference": reference, "output": output, "wrapper": wrapper}
    made = cut(ready(encoder, row))
    if isinstance(made, Unread):  # nothing tells which separator is the template's
        assert SEPARATOR in output
        return
    assert isinstance(made, Trajectories)
    [expected] = encoder.encode(to_batch([row]).table)
    [found] = encoder.encode(to_batch([made]).table)
    assert found.ids.tolist() == expected.ids.tolist()


@given(st.tuples(texts, texts, texts), st.sampled_from(["sft", "pretrain"]))
@settings(max_examples=300)
def test_no_separator_but_the_first_is_ever_taken(
    parts: tuple[str, str, str], wrapper: str
) -> None:
    prompt, reference, output = parts
    assume(SEPARATOR not in prompt + reference)
    attack = f"{output}{SEPARATOR}{prompt}\n{output}"
    for said in (output, attack, f"{output}{SEPARATOR}{output}"):
        made = cut(text(prompt, reference, said, wrapper))
        if isinstance(made, Trajectories):
            assert SEPARATOR not in made.reference


def test_records_cut_apart_score_as_themselves(encoder: Encoder) -> None:
    rows = [*GROUPS, {**GROUPS[0], "wrapper": "pretrain"}, {**GROUPS[1], "reference": ""}]
    made = [cut(ready(encoder, row)) for row in rows]
    found = [row.ids.tolist() for row in encoder.encode(to_batch(made).table)]
    assert found == [row.ids.tolist() for row in encoder.encode(to_batch(rows).table)]


def test_a_group_stays_one() -> None:
    """The router tells groups by prompt and reference."""
    made = [cut(text(**row)) for row in GROUPS]
    found = {row.reference for row in made if isinstance(row, Trajectories)}
    assert len(found) == len({(row["prompt"], row["reference"]) for row in GROUPS}) == 4


@pytest.mark.parametrize(
    "said",
    [f"x{SEPARATOR}y", f"{SEPARATOR}.", f"x{SEPARATOR}q", "[UNUSED_TOKEN_130]"],
)
def test_what_a_policy_spells_stays_text(said: str) -> None:
    assert cut(text("Q?", "a", said)) == Trajectories("Q?\na", f"Q?\n{said}")


UNCERTAIN = [
    {"prompt": "Q?", "reference": "a", "output": f"x{SEPARATOR}Q?\na"},
    {"prompt": "Q?", "reference": "a", "output": f"x{SEPARATOR}Q"},
    {"prompt": "Q?", "reference": f"a{SEPARATOR}Q?\nb", "output": "two"},
    {"prompt": "", "reference": f"a{SEPARATOR}\nb", "output": ""},
    {"prompt": "P ", "reference": f"r\nA{SEPARATOR}P r\nzz", "output": "c", "wrapper": "pretrain"},
    {"prompt": "", "reference": f"Aa{SEPARATOR}Ab", "output": "c", "wrapper": "pretrain"},
]


@pytest.mark.parametrize("row", UNCERTAIN)
def test_what_could_be_cut_elsewhere_is_refused(row: dict[str, str]) -> None:
    made = cut(text(**row))
    assert isinstance(made, Unread)
    assert "bad_template" in made.error
    assert "POST /score" in made.error


imitations = st.tuples(texts, texts).map(lambda two: SEPARATOR.join(two))


@given(texts.filter(bool), imitations | texts, imitations | texts, st.booleans())
@settings(max_examples=500)
def test_a_text_is_cut_where_it_was_joined_or_not_at_all(
    prompt: str, reference: str, output: str, imitates: bool
) -> None:
    if imitates:
        reference = reference.replace(SEPARATOR, SEPARATOR + prompt + "\n")
        output = output.replace(SEPARATOR, SEPARATOR + prompt)
    for wrapper in ("sft", "pretrain"):
        made = cut(text(prompt, reference, output, wrapper))
        if isinstance(made, Trajectories):
            assert made == Trajectories(
                trajectory(prompt, reference, wrapper), trajectory(prompt, output, wrapper)
            )


@pytest.mark.parametrize("field", ["prompt", "reference"])
def test_a_dataset_that_spells_the_separator_is_refused_and_not_cut_elsewhere(field: str) -> None:
    row = {"prompt": "Q?", "reference": "a", "output": "b", field: f"x{SEPARATOR}y"}
    assert isinstance(cut(text(**row)), Unread)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "does not end with"),
        ("Q?\na", "does not end with"),
        ("Q?\na[UNUSED_TOKEN_130]", f"has no {SEPARATOR}"),
        (f"Q?\na{SEPARATOR}Q?\nb", "does not end with"),
        ([1, 2], "token ids"),
        (7, "token ids"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_template_is_told_what_is_expected(value: object, says: str) -> None:
    made = cut(value)
    assert isinstance(made, Unread)
    assert says in made.error
    assert "send p + " in made.error


def test_a_text_longer_than_the_window_is_refused_and_not_cut(tiny_dir: Path) -> None:
    encoder = Encoder(load_tokenizer(tiny_dir), Limits(64, 16, window=64), reward_id=4)
    [row] = encoder.encode(to_batch([Trajectories("Q\n" + "a" * 80, "Q\nb")]).table)
    assert row.error is not None
    assert row.error.startswith("too_long")
