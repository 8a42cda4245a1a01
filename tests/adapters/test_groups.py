"""Groups without a reference: the best answer so far, or another policy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_pool import FakePool, score_of

from polar_ray.adapters.groups import BestSoFar
from polar_ray.adapters.pool import all_scores_now
from polar_ray.adapters.settings import AdapterConfig
from polar_ray.errors import RecordError

ASKED = [{"role": "user", "content": "2+2="}]


def test_another_policys_answer_stays_until_one_has_a_merit() -> None:
    best = BestSoFar()
    assert best.offer("2+2=", "it is 4")
    assert not best.offer("2+2=", "it is four")
    assert best.offer("2+2=", "4", 0.5)
    assert not best.offer("2+2=", "five", 0.5)
    assert best.offer("2+2=", "4.", 0.7)
    assert best.reference("2+2=") == "4."


@pytest.mark.parametrize("merit", [None, math.nan])
def test_a_row_without_a_score_is_never_the_best(merit: float | None) -> None:
    best = BestSoFar()
    assert not best.offer("2+2=", "4", merit)
    with pytest.raises(RecordError, match=r"no answer to '2\+2=' yet"):
        best.reference("2+2=")


@pytest.mark.parametrize("answer", [None, 5, [], {"text": "4"}])
def test_what_is_no_text_is_never_the_best(answer: object) -> None:
    best = BestSoFar()
    with pytest.raises(RecordError, match="answer"):
        best.offer("2+2=", answer, 1.0)
    assert best.offer("2+2=", "4", 0.5)


def test_messages_are_the_same_prompt_as_their_text() -> None:
    best = BestSoFar()
    answer = [{"role": "assistant", "content": "4"}]
    best.offer(ASKED, answer, 1.0)
    assert best.reference("2+2=") == answer
    array = np.empty(1, dtype=object)
    array[0] = {"role": "user", "content": np.str_("2+2=")}
    assert best.reference(array) == answer
    with pytest.raises(RecordError, match="prompt is int"):
        best.offer(4, "4", 1.0)


def test_a_group_has_one_reference_and_can_be_scored(pool: FakePool) -> None:
    best = BestSoFar()
    best.offer(ASKED, "4", 0.0)
    rows = best.group(ASKED, ["four", [{"role": "assistant", "content": "5"}]])
    found = all_scores_now(rows, AdapterConfig(address=pool.address))
    assert found == [score_of("2+2=", "4", text) for text in ("four", "5")]


def test_the_prompts_seen_least_lately_are_forgotten() -> None:
    best = BestSoFar(max_prompts=2)
    for prompt in ("a", "b"):
        best.offer(prompt, prompt.upper(), 1.0)
    best.reference("a")
    best.offer("c", "C", 1.0)
    assert best.reference("a") == "A"
    with pytest.raises(RecordError, match="no answer to 'b'"):
        best.reference("b")
