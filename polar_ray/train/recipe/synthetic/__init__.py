"""Synthetic policies: families of tasks, policies that answer them, graded comparisons.

Everything is generated; the same seed gives the same texts on every machine and Python version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import polar_ray.train.recipe.synthetic.arithmetic as arithmetic
import polar_ray.train.recipe.synthetic.chinese as chinese
import polar_ray.train.recipe.synthetic.code as code
import polar_ray.train.recipe.synthetic.facts as facts
import polar_ray.train.recipe.synthetic.lists as lists
import polar_ray.train.recipe.synthetic.prose as prose
import polar_ray.train.recipe.synthetic.strings as strings
from polar_ray.train.data import Comparison
from polar_ray.train.recipe.synthetic.compare import compare, excerpts, policy_pair
from polar_ray.train.recipe.synthetic.policy import Family
from polar_ray.train.recipe.synthetic.salad import Salad

TRAINED: dict[str, Family] = {
    "arithmetic.sums": arithmetic.sums,
    "arithmetic.word_problem": arithmetic.word_problem,
    "arithmetic.units": arithmetic.units,
    "arithmetic.series": arithmetic.series,
    "strings.reversal": strings.reversal,
    "strings.letter_count": strings.letter_count,
    "strings.casing": strings.casing,
    "strings.replacement": strings.replacement,
    "facts.table_lookup": facts.table_lookup,
    "facts.capital": facts.capital,
    "facts.choice": facts.choice,
    "facts.verdict": facts.verdict,
    "lists.sorting": lists.sorting,
    "lists.filtering": lists.filtering,
    "lists.naming": lists.naming,
    "lists.planning": lists.planning,
    "code.function": code.function,
    "code.aggregate": code.aggregate,
    "code.shell": code.shell,
    "prose.description": prose.description,
    "prose.story": prose.story,
    "prose.opinion": prose.opinion,
    "prose.summary": prose.summary,
    "chinese.sums": chinese.sums,
    "chinese.capital": chinese.capital,
    "chinese.description": chinese.description,
}

HELD_OUT: dict[str, Family] = {
    "arithmetic.percentage": arithmetic.percentage,
    "strings.letter_sorting": strings.letter_sorting,
    "facts.translation": facts.translation,
    "lists.product_comparison": lists.product_comparison,
    "code.query": code.query,
    "prose.letter": prose.letter,
    "chinese.naming": chinese.naming,
}
"""Families that no training comparison is made of; what the quality report measures (c)."""

WEIGHTS: dict[str, float] = {
    "arithmetic.word_problem": 5.0,
    "prose.description": 2.0,
    "prose.story": 2.0,
    "facts.capital": 2.0,
}
"""How often a trained family is drawn, where not once."""


def training_comparisons(
    seed: int, pieces: Sequence[str], *, max_size: int = 600, ramp: int = 20_000
) -> Iterator[Comparison]:
    """Endless comparisons of `TRAINED` families, and salads of `pieces` that grow in length.

    A salad's reference has up to `max_size` pieces after `ramp` comparisons.
    """
    rng = Random(seed)
    salad = Salad(pieces)
    names = list(TRAINED)
    weights = [WEIGHTS.get(name, 1.0) for name in names]
    families = list(TRAINED.values())
    for number in range(1_000_000_000):
        kind = rng.random()
        if kind < 0.8:
            (name,) = rng.choices(names, weights)
            yield compare(name, TRAINED[name], families, rng)
            continue
        largest = 40 + (max_size - 40) * min(1.0, number / ramp)
        size = max(1, int(largest ** rng.uniform(0.3, 1.0)))
        make = salad.edits if kind < 0.92 else salad.tastes
        yield make(rng, size=size, num_outputs=rng.randrange(3, 6))


def finishing_comparisons(seed: int, pieces: Sequence[str]) -> Iterator[Comparison]:
    """Endless comparisons for the end of training: half as before, half with excerpts of the
    reference, which hold nothing that is wrong and still are less than the whole."""
    rng = Random(f"{seed}/finishing")
    salad = Salad(pieces)
    names = list(TRAINED)
    for usual in training_comparisons(seed + 1, pieces, ramp=1):
        kind = rng.random()
        if kind < 0.5:
            yield usual
        elif kind < 0.75:
            size = max(4, int(600 ** rng.uniform(0.3, 1.0)))
            yield salad.excerpts(rng, size=size, num_outputs=rng.randrange(3, 6))
        else:
            name = rng.choice(names)
            yield excerpts(name, TRAINED[name], rng)


def held_out_comparisons(seed: int, *, each: int) -> Iterator[Comparison]:
    """`each` policy pairs of every held-out family."""
    for name, family in HELD_OUT.items():
        rng = Random(f"{seed}/{name}")
        for _ in range(each):
            yield policy_pair(name, family, rng)


__all__ = [
    "HELD_OUT",
    "TRAINED",
    "Family",
    "Salad",
    "compare",
    "excerpts",
    "finishing_comparisons",
    "held_out_comparisons",
    "policy_pair",
    "training_comparisons",
]
