"""Comparisons out of policies: a reference, and answers that are nearer to or farther from it.

Order of the answers, best first, where a task has an answer: the reference itself; another answer
of its policy; the same answer by a near policy; by a far one; another answer in the same words;
another answer in other words; an answer to another question; none at all. Where a task has no
answer, only the habits count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from polar_ray.train.data import Comparison
from polar_ray.train.recipe.synthetic.policy import (
    NUM_GENES,
    Family,
    Policy,
    Task,
    near,
    other_skill,
    sample_policy,
)
from polar_ray.train.recipe.synthetic.salad import SHARES, excerpt

SAME, OWN, NEAR, FAR, MISTAKEN, MISTAKEN_FAR, ASIDE, ASTRAY = 9.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0
ATTEMPTS = 6


def compare(name: str, family: Family, others: Sequence[Family], rng: Random) -> Comparison:
    """A graded comparison of one family; `others` supply answers that miss the question."""
    task, policy = family(rng), sample_policy(rng)
    seed = rng.getrandbits(31)
    reference = task.write(policy, Random(seed))
    graded = {reference: SAME}

    def add(text: str, grade: float) -> None:
        # A text that came up twice has the better of its grades: it cannot be told apart.
        graded[text] = max(grade, graded.get(text, grade))

    for _ in range(1 + (rng.random() < 0.3)):
        add(task.write(policy, _fork(rng)), OWN)
    add(task.write(near(policy, rng, changes=rng.randrange(2, 5)), _fork(rng)), NEAR)
    far = replace(sample_policy(rng), skill=policy.skill)
    add(task.write(far, _fork(rng)), FAR)
    if task.has_answer:
        wrong = other_skill(policy, rng)
        add(task.write(wrong, Random(seed) if rng.random() < 0.6 else _fork(rng)), MISTAKEN)
        add(task.write(replace(far, skill=wrong.skill), _fork(rng)), MISTAKEN_FAR)
    else:
        add(task.write(sample_policy(rng), _fork(rng)), FAR)
    if rng.random() < 0.5:
        add(family(rng).write(policy, _fork(rng)), ASIDE)
    if rng.random() < 0.4:
        add(rng.choice(others)(rng).write(sample_policy(rng), _fork(rng)), ASTRAY)
    if rng.random() < 0.1:
        add(rng.choice(("", ".", "I don't know.", "Sorry, I can't help with that.")), ASTRAY)
    if rng.random() < 0.3:
        del graded[reference]
    texts = list(graded)
    return Comparison(
        prompt=task.prompt,
        reference=reference,
        outputs=tuple(texts),
        grades=tuple(graded[text] for text in texts),
        wrapper="pretrain" if rng.random() < 0.05 else "sft",
        family=name,
    )


def excerpts(name: str, family: Family, rng: Random) -> Comparison:
    """An answer whole, and parts of it: an answer that stops early, or quotes, is not as good."""
    task = family(rng)
    reference = task.write(sample_policy(rng), _fork(rng))
    words = re.findall(r"\s*\S+", reference) or [reference]
    graded = {reference: 1.0}
    for share in SHARES:
        graded.setdefault("".join(excerpt(words, share, rng)).strip(), share)
    return Comparison(
        prompt=task.prompt,
        reference=reference,
        outputs=tuple(graded),
        grades=tuple(graded.values()),
        family=f"{name}.excerpts",
    )


def policy_pair(name: str, family: Family, rng: Random) -> Comparison:
    """The pre-training comparison of the paper: policy A's second answer above policy B's."""
    for _ in range(ATTEMPTS):
        task, policy = family(rng), sample_policy(rng)
        reference, own = (task.write(policy, _fork(rng)) for _ in range(2))
        rival = task.write(_unlike(task, policy, rng), _fork(rng))
        if rival not in (own, reference):
            break
    return Comparison(
        prompt=task.prompt,
        reference=reference,
        outputs=(own, rival),
        grades=(1.0, 0.0),
        family=name,
    )


def _unlike(task: Task, policy: Policy, rng: Random) -> Policy:
    """Any other policy; where the task has an answer, half of them give another one."""
    rival = near(policy, rng, changes=NUM_GENES)
    return other_skill(rival, rng) if task.has_answer and rng.random() < 0.5 else rival


def _fork(rng: Random) -> Random:
    return Random(rng.getrandbits(31))
