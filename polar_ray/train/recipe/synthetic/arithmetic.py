"""Numbers: bare sums, word problems with worked solutions, units, series; percentages held out.

A mistake is a wrong step that is carried on to the end, so that a wrong solution shares most of
its numbers with the right one. Right solutions of different policies differ in wording, order and
in how many steps they write down.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import answer_line, cased, frame, number
from polar_ray.train.recipe.synthetic.words import NAMES, PLACES, THINGS

SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


class Step(NamedTuple):
    """One step of a chain: the value so far, a sign, a given number, and what is counted."""

    sign: str
    given: int
    what: str


def sums(rng: Random) -> Task:
    """A bare expression."""
    left, right = rng.randrange(2, 400), rng.randrange(2, 60)
    sign = rng.choice("+-*")
    right_answer = SIGNS[sign](left, right)
    wrong = rng.sample([n for n in range(-30, 31) if n], 3)
    answers = [right_answer, *(right_answer + n for n in wrong)]
    ask = rng.choice(("What is {}?", "Compute {}.", "{} = ?", "How much is {}?", "Work out {}"))

    def write(policy: Policy, rng: Random) -> str:
        answer = number(policy, answers[policy.skill])
        body = answer_line(policy, answer)
        if policy.choose("show", (True, False)):
            body = f"{left} {sign} {right} = {answer}{policy.choose('stop', ('. ', chr(10)))}{body}"
        return frame(policy, rng, body)

    return Task(ask.format(f"{left} {sign} {right}"), write)


def word_problem(rng: Random) -> Task:
    """Two to five steps about things that somebody owns."""
    name, thing, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    start = rng.randrange(4, 90)
    steps = [_step(rng, thing) for _ in range(rng.randrange(2, 5))]
    if "*" not in [step.sign for step in steps] and rng.random() < 0.7:
        steps[0] = Step("*", rng.randrange(2, 9), "times as many")
    events = " ".join(_event(rng, name, step) for step in steps)
    ask = rng.choice(
        ("How many {t} does {n} have now?", "How many {t} are there in the end?", "How many {t}?")
    ).format(t=thing, n=name)
    prompt = f"{name} has {start} {thing} at the {place}. {events} {ask}"
    chains = [_values(start, steps)]
    while len(chains) < 4:
        wrong = _values(start, _mistake(rng, steps))
        if wrong[-1] not in [chain[-1] for chain in chains]:
            chains.append(wrong)
        else:
            chains.append(
                [*chains[0][:-1], chains[0][-1] + rng.choice((-10, -2, -1, 1, 2, 10, 20))]
            )

    def write(policy: Policy, rng: Random) -> str:
        values = chains[policy.skill]
        return _solution(policy, rng, name, thing, start, steps, values)

    return Task(prompt, write)


def units(rng: Random) -> Task:
    """A quantity in a smaller unit."""
    unit, small, factor = rng.choice(
        [
            ("hours", "minutes", 60),
            ("meters", "centimeters", 100),
            ("kilograms", "grams", 1000),
            ("weeks", "days", 7),
            ("feet", "inches", 12),
            ("days", "hours", 24),
            ("dozen", "pieces", 12),
        ]
    )
    amount = rng.randrange(2, 80)
    factors = [factor, factor * 10, factor // 2 + 1, factor + 5]

    def write(policy: Policy, rng: Random) -> str:
        used = factors[policy.skill]
        lines = [
            f"There are {used} {small} in one {unit.rstrip('s')}, so we multiply.",
            f"{amount} {unit} times {used} is {number(policy, amount * used)} {small}.",
            f"{amount} * {used} = {amount * used}",
        ]
        shown = policy.taste("unit lines", lines, policy.choose("unit count", (1, 2, 3)))
        gap = policy.choose("gap", (" ", "\n"))
        return frame(
            policy, rng, gap.join([*shown, answer_line(policy, f"{amount * used} {small}")])
        )

    return Task(f"Convert {amount} {unit} to {small}.", write)


def series(rng: Random) -> Task:
    """The next number of a row."""
    first, by, length = rng.randrange(1, 50), rng.randrange(2, 30), rng.randrange(4, 8)
    row = [first + by * n for n in range(length)]
    answers = [row[-1] + by, row[-1] + by + 1, row[-1] * 2, row[-1] + by * 2]
    shown = ", ".join(map(str, row))

    def write(policy: Policy, rng: Random) -> str:
        answer = answers[policy.skill]
        why = policy.vary(
            "series why",
            [
                f"Each number is {by} more than the one before. ",
                f"The difference is {by}. ",
                f"{row[-1]} + {answer - row[-1]} = {answer}. ",
                "",
                f"Looking at {shown}, a rule appears.\n",
            ],
            rng,
        )
        return frame(policy, rng, why + answer_line(policy, answer))

    return Task(f"Which number comes next: {shown}, ...?", write)


def percentage(rng: Random) -> Task:
    """Held out: a share of a price."""
    price, percent = rng.randrange(2, 90) * 20, rng.choice((5, 10, 15, 20, 25, 30, 40, 60))
    part = price * percent // 100
    answers = [price - part, price + part, part, price - percent]
    item = rng.choice(("coat", "phone", "ticket", "bicycle", "table", "guitar"))

    def write(policy: Policy, rng: Random) -> str:
        last = answers[policy.skill]
        tale = policy.taste(
            "percentage",
            [
                f"{percent} % of {price} is {part}.",
                f"The discount on the {item} comes to {part} dollars.",
                f"You pay {number(policy, last)} for it.",
                f"We start from ${price} and end at ${last}.",
            ],
            policy.choose("percentage length", (1, 2, 3)),
        )
        return frame(policy, rng, " ".join(tale) + "\n" + answer_line(policy, last))

    return Task(f"A {item} costs ${price}. It is sold at {percent}% off. What is paid?", write)


def _step(rng: Random, thing: str) -> Step:
    sign = rng.choice("++--*")
    given = rng.randrange(2, 7) if sign == "*" else rng.randrange(2, 40)
    return Step(sign, given, thing)


def _event(rng: Random, name: str, step: Step) -> str:
    told = {
        "+": ("{n} finds {g} more.", "A friend gives {n} {g}.", "{n} buys another {g}."),
        "-": ("{n} loses {g} of them.", "{n} gives away {g}.", "Then {g} are sold."),
        "*": ("Then that becomes {g} times as many.", "{n} makes it {g} times as much."),
    }
    return rng.choice(told[step.sign]).format(n=name, g=step.given)


def _values(start: int, steps: list[Step]) -> list[int]:
    values = [start]
    for step in steps:
        values.append(SIGNS[step.sign](values[-1], step.given))
    return values


def _mistake(rng: Random, steps: list[Step]) -> list[Step]:
    """One step done with a wrong sign or number, or left out."""
    wrong, at = list(steps), rng.randrange(len(steps))
    kind = rng.choice(("sign", "number", "skip"))
    if kind == "sign":
        wrong[at] = wrong[at]._replace(sign=rng.choice([s for s in SIGNS if s != steps[at].sign]))
    elif kind == "number":
        wrong[at] = wrong[at]._replace(given=steps[at].given + rng.choice((-1, 1, 2, 10)))
    else:
        wrong[at] = wrong[at]._replace(sign="+", given=0)
    return wrong


def _solution(
    policy: Policy,
    rng: Random,
    name: str,
    thing: str,
    start: int,
    steps: list[Step],
    values: list[int],
) -> str:
    lines: list[str] = []
    manner = policy.choose("solution", ("each", "each", "each", "ends", "formula", "bare"))
    if manner == "formula":
        inner = str(start)
        for step in steps:
            inner = f"({inner} {step.sign} {step.given})"
        lines = [f"{inner} = {values[-1]}"]
    elif manner != "bare":
        told = list(zip(steps, values, values[1:], strict=False))
        for step, before, after in told if manner == "each" else told[-1:]:
            lines.append(_line(policy, rng, name, thing, step, before, after))
    gap = policy.choose("gap", ("\n", "\n", " ", "\n\n"))
    ending = answer_line(policy, number(policy, values[-1]))
    return cased(policy, gap.join([*lines, ending])) if lines else frame(policy, rng, ending)


def _line(
    policy: Policy, rng: Random, name: str, thing: str, step: Step, before: int, after: int
) -> str:
    tight = policy.choose("tight", (True, False))
    plain = f"{before}{step.sign}{step.given}" if tight else f"{before} {step.sign} {step.given}"
    sums_up = policy.choose(
        "sum", (f"{plain} = {after}", f"{plain}=<<{plain}={after}>>{after}", f"{plain} = {after}")
    )
    return policy.vary(
        "line",
        [
            f"{name} has {sums_up} {thing}.",
            f"{sums_up}",
            f"That makes {sums_up}.",
            f"Then there are {sums_up} {thing}",
            f"Now we get {after}, because {sums_up}.",
            f"{thing.capitalize()}: {sums_up}",
            f"After this {name} owns {after} {thing} ({sums_up}).",
            f"We compute {sums_up} {thing} for {name}.",
        ],
        rng,
        width=3,
    )
