"""Synthetic policies: repeatable, graded, and held-out families kept apart."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest

from polar_ray.train.recipe.synthetic import (
    HELD_OUT,
    TRAINED,
    WEIGHTS,
    Family,
    Salad,
    compare,
    excerpts,
    finishing_comparisons,
    held_out_comparisons,
    policy_pair,
    training_comparisons,
)
from polar_ray.train.recipe.synthetic.policy import NUM_SKILLS, near, other_skill, sample_policy

PIECES = ["alpha", " beta", " gamma", "1", "2", " delta", "\n", " epsilon", " zeta", " eta"]
FAMILIES = [*TRAINED.items(), *HELD_OUT.items()]
each_family = pytest.mark.parametrize(
    ("name", "family"), FAMILIES, ids=[name for name, _ in FAMILIES]
)


def test_a_seed_gives_the_same_comparisons() -> None:
    first, second, other = (
        list(islice(training_comparisons(seed, PIECES), 200)) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_held_out_families_are_never_trained_on() -> None:
    assert not set(TRAINED) & set(HELD_OUT)
    assert not set(map(id, TRAINED.values())) & set(map(id, HELD_OUT.values()))
    assert set(WEIGHTS) <= set(TRAINED)
    seen = {one.family for one in islice(training_comparisons(1, PIECES), 3000)}
    assert seen == {*TRAINED, "salad.edits", "salad.tastes"}


@each_family
def test_every_family_can_be_told_apart(name: str, family: Family) -> None:
    rng = Random(name)
    useful = 0
    for _ in range(20):
        one = policy_pair(name, family, rng)
        assert one.prompt
        assert one.reference
        useful += one.outputs[0] != one.outputs[1]
    assert useful >= 18


@each_family
def test_another_skill_gives_another_answer(name: str, family: Family) -> None:
    rng = Random(name)
    changed = 0
    for _ in range(20):
        task, policy = family(rng), sample_policy(rng)
        own = task.write(policy, Random(1))
        assert own == task.write(policy, Random(1))
        changed += own != task.write(other_skill(policy, rng), Random(1))
    assert changed >= 15 if family(rng).has_answer else changed == 0


@each_family
def test_comparisons_grade_the_reference_first(name: str, family: Family) -> None:
    rng = Random(name)
    for _ in range(20):
        one = compare(name, family, [family], rng)
        assert len(one.outputs) == len(one.grades) == len(set(one.outputs))
        if one.reference in one.outputs:
            assert one.grades[one.outputs.index(one.reference)] == max(one.grades)


def test_near_policies_share_most_habits() -> None:
    rng = Random(0)
    policy = sample_policy(rng)
    close = near(policy, rng, changes=2)
    assert close.skill == policy.skill
    assert sum(a != b for a, b in zip(policy.genes, close.genes, strict=True)) == 2
    names = [f"habit {n}" for n in range(400)]
    same = sum(policy.choose(n, range(1000)) == close.choose(n, range(1000)) for n in names)
    assert 0.6 < same / len(names) < 0.9
    assert other_skill(policy, rng).skill in set(range(NUM_SKILLS)) - {policy.skill}


def test_edits_are_worse_the_more_was_edited() -> None:
    one = Salad(PIECES).edits(Random(3), size=60, num_outputs=5)
    assert one.outputs[one.grades.index(max(one.grades))] == one.reference
    assert list(one.grades) == sorted(one.grades, reverse=True)


@each_family
def test_excerpts_are_parts_of_the_reference(name: str, family: Family) -> None:
    one = excerpts(name, family, Random(name))
    assert one.outputs[0] == one.reference
    assert all(output in one.reference for output in one.outputs)
    assert list(one.grades) == sorted(one.grades, reverse=True)


def test_excerpts_of_salad_are_parts_too() -> None:
    one = Salad(PIECES).excerpts(Random(1), size=40, num_outputs=4)
    assert one.outputs[0] == one.reference
    assert all(output in one.reference for output in one.outputs)
    assert [len(a) > len(b) for a, b in pairwise(one.outputs)] == [True] * 3


def test_the_end_of_training_knows_no_held_out_family_either() -> None:
    made = list(islice(finishing_comparisons(1, PIECES), 2000))
    families = {one.family.removesuffix(".excerpts") for one in made}
    assert not families & set(HELD_OUT)
    assert sum(one.family.endswith("excerpts") for one in made) > 800
    assert made == list(islice(finishing_comparisons(1, PIECES), 2000))


def test_held_out_comparisons_cover_every_family() -> None:
    made = list(held_out_comparisons(1, each=3))
    assert [one.family for one in made] == [name for name in HELD_OUT for _ in range(3)]
    assert all(one.grades == (1.0, 0.0) for one in made)
