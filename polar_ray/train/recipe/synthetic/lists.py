"""Lists: sorting, filtering, naming things, plans; comparisons of products held out."""

from __future__ import annotations

from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import frame, listing
from polar_ray.train.recipe.synthetic.words import (
    ADJECTIVES,
    ANIMALS,
    COUNTRIES,
    NOUNS,
    PLACES,
    THINGS,
    TOPICS,
    VERBS,
    proper,
)

KINDS: dict[str, list[str]] = {
    "animals": ANIMALS,
    "countries": list(COUNTRIES),
    "places in a town": PLACES,
    "things to buy": THINGS,
    "topics to read about": TOPICS,
}


def sorting(rng: Random) -> Task:
    """Numbers in order."""
    numbers = rng.sample(range(1, 300), rng.randrange(4, 12))
    up = sorted(numbers)
    swapped = list(up)
    at = rng.randrange(len(up) - 1)
    swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
    answers = [up, up[::-1], up[:-1], swapped]

    def write(policy: Policy, rng: Random) -> str:
        head = policy.vary("sorted", ["Sorted: ", "In order:\n", "", "From small to large: "], rng)
        return frame(policy, rng, head + listing(policy, answers[policy.skill]))

    return Task(f"Sort these numbers: {', '.join(map(str, numbers))}", write)


def filtering(rng: Random) -> Task:
    """Only those words or numbers that keep a rule."""
    if rng.random() < 0.5:
        words = rng.sample([*ANIMALS, *THINGS, *NOUNS], rng.randrange(6, 14))
        letter = rng.choice("aeiorst")
        kept = [word for word in words if letter in word]
        rule = f"contain the letter {letter}"
    else:
        words = [str(n) for n in rng.sample(range(10, 400), rng.randrange(6, 14))]
        kept = [word for word in words if int(word) % 2 == 0]
        rule = "are even"
    dropped = [word for word in words if word not in kept]
    answers = [kept, dropped, words, kept[::2] + dropped[:2]]

    def write(policy: Policy, rng: Random) -> str:
        shown = answers[policy.skill] or ["none"]
        head = policy.vary(
            "filter", [f"These {rule}:\n", "Kept: ", "", f"{len(shown)} left:\n"], rng
        )
        return frame(policy, rng, head + listing(policy, shown))

    return Task(f"Which of these {rule}? {', '.join(words)}", write)


def naming(rng: Random) -> Task:
    """Some members of a kind: many right answers, told apart by taste and layout."""
    kind = rng.choice(list(KINDS))
    count = rng.randrange(3, 9)

    def write(policy: Policy, rng: Random) -> str:
        favourites = policy.taste(kind, KINDS[kind], count + 3)
        items = rng.sample(favourites, min(count, len(favourites)))
        if policy.choose("annotated", (False, False, True)):
            nouns = policy.taste("notes", ADJECTIVES, 5)
            items = [f"{item.capitalize()} ({rng.choice(nouns)})" for item in items]
        head = policy.choose(
            "naming", ["", f"Here are {count} {kind}:\n", "For example:\n", "Some: "]
        )
        return frame(policy, rng, head + listing(policy, items))

    return Task(f"Name {count} {kind}.", write, has_answer=False)


def planning(rng: Random) -> Task:
    """Steps towards a goal, short or explained."""
    goal = f"{rng.choice(ADJECTIVES)} {rng.choice(TOPICS)} {rng.choice(('class', 'club', 'week'))}"

    def write(policy: Policy, rng: Random) -> str:
        verbs = policy.taste("steps", ["Choose", "Book", "Ask", "Write", "Check", "Buy", "Call"], 5)
        nouns = policy.taste("step nouns", NOUNS, 9)
        wordy = policy.choose("wordy", (False, True, True))
        items = []
        for verb in verbs[: policy.choose("plan length", (3, 4, 5))]:
            item = f"{verb} the {rng.choice(nouns)}"
            if wordy:
                reason = f"it {rng.choice(VERBS)} the {rng.choice(nouns)}"
                item += policy.choose(
                    "why", (f", because {reason}.", f": {reason}.", f" ({reason})")
                )
            items.append(item)
        head = policy.choose("plan head", ["", "Plan\n\n", f"How to start a {goal}:\n", "Steps:\n"])
        return frame(policy, rng, head + listing(policy, items))

    return Task(f"Plan a {goal}.", write, has_answer=False)


def product_comparison(rng: Random) -> Task:
    """Held out: two invented products with their strong and weak sides, and which to buy."""
    first, second = proper(rng), proper(rng)
    answers = [first, second, "neither", "both"]

    def write(policy: Policy, rng: Random) -> str:
        praise = policy.taste("praise", ADJECTIVES, 6)
        sides = policy.taste("sides", ["price", "size", "battery", "screen", "sound", "weight"], 3)
        items = [f"{side}: {first} is {rng.choice(praise)}" for side in sides]
        items += [f"{second} looks {rng.choice(praise)}"]
        ending = policy.choose(
            "buy", ("I would buy {}.", "My pick: {}", "Recommendation: {}", "Go for {}.")
        )
        body = listing(policy, items) + "\n" + ending.format(answers[policy.skill])
        return frame(policy, rng, body)

    return Task(f"Compare {first} and {second}. Which one should I buy?", write)
