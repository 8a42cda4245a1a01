"""Comparisons become packs whose scores are those of the records alone; bad files are named."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from polar_ray.errors import RecordError
from polar_ray.records import Record
from polar_ray.scorer import Scorer
from polar_ray.train.data import Comparison, Drops, pack_steps, read_preferences
from polar_ray.train.loop import score_pack

GRADED = Comparison(
    prompt="What is the capital of China?",
    reference="Beijing.",
    outputs=("Beijing.", "It is Beijing, in China.", "Paris."),
    grades=(2.0, 1.0, 0.0),
    family="facts",
)
PAIR = Comparison(prompt="12 + 24", reference="36", outputs=("35", "36"), grades=(0.0, 1.0))


def test_a_step_scores_like_its_records_alone(scorer: Scorer) -> None:
    (step,) = pack_steps([GRADED, PAIR], scorer.encoder, max_tokens=512)
    records = [Record(c.prompt, c.reference, o) for c in (GRADED, PAIR) for o in c.outputs]
    alone = [scorer.score([record])["score"][0].as_py() for record in records]
    with torch.no_grad():
        packed = score_pack(scorer.engine.model, step.pack)
    np.testing.assert_allclose(packed.numpy(), alone, atol=1e-5)


def test_pairs_follow_the_grades_and_comparisons_count_alike(scorer: Scorer) -> None:
    (step,) = pack_steps([GRADED, PAIR], scorer.encoder, max_tokens=512)
    pairs = list(zip(step.better.tolist(), step.worse.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 2), (4, 3)]
    assert step.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])
    assert step.families == ("facts", "facts", "facts", "")


def test_shared_tokens_stand_in_a_step_once(scorer: Scorer) -> None:
    (step,) = pack_steps([GRADED], scorer.encoder, max_tokens=512)
    alone = [
        len(next(pack_steps([only(GRADED, i)], scorer.encoder, max_tokens=512)).pack.ids)
        for i in (1, 2)
    ]
    assert step.pack.num_tokens < sum(alone)


def only(comparison: Comparison, other: int) -> Comparison:
    """The first output against one other."""
    return Comparison(
        prompt=comparison.prompt,
        reference=comparison.reference,
        outputs=(comparison.outputs[0], comparison.outputs[other]),
        grades=(1.0, 0.0),
    )


def test_steps_keep_the_budget_and_the_order(scorer: Scorer) -> None:
    made = list(pack_steps([GRADED, PAIR] * 10, scorer.encoder, max_tokens=150))
    assert len(made) > 1
    assert all(step.pack.num_tokens <= 150 for step in made)
    assert (
        list(itertools.chain(*(step.families for step in made)))
        == ["facts"] * 3 + [""] + (["facts"] * 3 + [""]) * 9
    )


def test_what_cannot_be_used_is_counted(scorer: Scorer) -> None:
    drops = Drops()
    ties = Comparison(prompt="a", reference="b", outputs=("c", "d"), grades=(1.0, 1.0))
    long = Comparison(prompt="x " * 400, reference="b", outputs=("c", "d"), grades=(1.0, 0.0))
    made = list(pack_steps([ties, long, PAIR], scorer.encoder, max_tokens=150, drops=drops))
    assert len(made) == 1
    assert (drops.without_pairs, drops.too_long, drops.kept) == (1, 1, 1)


def write(path: Path, *rows: object) -> Path:
    path.write_bytes(
        b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)
    )
    return path


GOOD = {"prompt": "p", "reference": "r", "chosen": "c", "rejected": "x"}


def test_preference_files_are_read(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    path = write(
        tmp_path / "p.jsonl", GOOD, b"", {**GOOD, "prompt": messages, "wrapper": "pretrain"}
    )
    first, second = read_preferences(path)
    assert (first.outputs, first.grades, first.wrapper) == (("c", "x"), (1.0, 0.0), "sft")
    assert (second.prompt, second.wrapper) == ("a\nb", "pretrain")


def test_preferences_are_read_from_parquet_too(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD, {**GOOD, "chosen": None}]), path)
    found = read_preferences(path)
    assert next(found).outputs == ("c", "x")
    with pytest.raises(RecordError, match=r"row 2 of .*p\.parquet: .*chosen is null"):
        next(found)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"{", "is not JSON"),
        ([1], "is list, not an object"),
        ({"prompt": "p", "reference": "r", "chosen": "c"}, "rejected is null or not there"),
        ({**GOOD, "chosen": None}, "chosen is null"),
        ({**GOOD, "chosen": 5}, "chosen is int; send a string or a list of messages"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "message 0 of prompt has no text content"),
        ({**GOOD, "wrapper": "chat"}, "wrapper is 'chat'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, words: str) -> None:
    path = write(tmp_path / "p.jsonl", GOOD, row)
    with pytest.raises(RecordError, match=f"line 2.*{words}"):
        list(read_preferences(path))
