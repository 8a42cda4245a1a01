"""Facts: from tables of invented people in the prompt, and from geography; translation held out."""

from __future__ import annotations

from random import Random

from polar_ray.train.recipe.synthetic.policy import NUM_SKILLS, Policy, Task
from polar_ray.train.recipe.synthetic.style import ANSWERS, answer_line, frame
from polar_ray.train.recipe.synthetic.words import (
    ANIMALS,
    COLOURS,
    COUNTRIES,
    NAMES,
    PLACES,
    THINGS,
    TOPICS,
    invented,
    proper,
)

COLUMNS: dict[str, list[str]] = {
    "city": [],
    "age": [str(n) for n in range(18, 90)],
    "colour": COLOURS,
    "pet": ANIMALS,
    "hobby": TOPICS,
    "workplace": PLACES,
    "salary": [str(n) for n in range(1000, 9000, 50)],
}


def table_lookup(rng: Random) -> Task:
    """One cell of a table that the prompt shows."""
    people = rng.sample(NAMES, rng.randrange(NUM_SKILLS, 8))
    columns = rng.sample(list(COLUMNS), rng.randrange(1, 4))
    rows = {p: [rng.choice(COLUMNS[c] or [proper(rng)]) for c in columns] for p in people}
    at = rng.randrange(len(columns))
    who = rng.choice(people)
    others = [p for p in people if p != who]
    answers = [rows[who][at], *(rows[p][at] for p in others[: NUM_SKILLS - 1])]
    table = "\n".join(" | ".join([p, *cells]) for p, cells in rows.items())
    prompt = f"name | {' | '.join(columns)}\n{table}\nWhat is the {columns[at]} of {who}?"

    def write(policy: Policy, rng: Random) -> str:
        body = policy.vary(
            "lookup",
            [
                f"The table says that the {columns[at]} of {who} is {answers[policy.skill]}.",
                f"{who} has {columns[at]} {answers[policy.skill]}.",
                f"I look for the row of {who}. " + answer_line(policy, answers[policy.skill]),
                answer_line(policy, answers[policy.skill]),
                str(answers[policy.skill]),
            ],
            rng,
        )
        return frame(policy, rng, body)

    return Task(prompt, write)


def capital(rng: Random) -> Task:
    """A country's capital, real or invented, often in a single word."""
    if rng.random() < 0.6:
        country = rng.choice(list(COUNTRIES))
        rest = [city for name, city in COUNTRIES.items() if name != country]
        answers = [COUNTRIES[country], *rng.sample(rest, 3)]
    else:
        country, answers = proper(rng), [proper(rng) for _ in range(4)]
    ask = rng.choice(
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Name the capital of {}.",
            "capital of {}",
        )
    )
    short = rng.random() < 0.4

    def write(policy: Policy, rng: Random) -> str:
        city = answers[policy.skill]
        if short:
            return policy.choose("short", (f"{city}.", city, f"{city}!", f"It is {city}."))
        body = policy.vary(
            "capital",
            [
                f"The capital of {country} is {city}.",
                f"{city} is the capital of {country}.",
                f"{country}'s capital city is {city}, its seat of government.",
                f"That would be {city}.",
                f"{city}, which lies in {country}.",
                *(a.format(city) for a in ANSWERS[:4]),
            ],
            rng,
        )
        return frame(policy, rng, body)

    return Task(ask.format(country), write)


def choice(rng: Random) -> Task:
    """A question with lettered options."""
    options = rng.sample([*THINGS, *ANIMALS, *TOPICS, *PLACES], 4)
    order = rng.sample(range(4), 4)
    listed = "\n".join(f"{'ABCD'[n]}. {option}" for n, option in enumerate(options))
    clue = f"Yesterday {rng.choice(NAMES)} wrote about {options[order[0]]}."
    prompt = f"{clue}\nWhat was it about?\n{listed}"

    def write(policy: Policy, rng: Random) -> str:
        at = order[policy.skill]
        letter, option = "ABCD"[at], options[at]
        forms = [letter, f"({letter})", f"{letter}. {option}", f"Option {letter}", option]
        body = answer_line(policy, policy.choose("option", forms))
        why = [
            "",
            f"It was about {option}. ",
            f"The text mentions {option}. ",
            "Reading it again: ",
        ]
        return frame(policy, rng, policy.vary("choice why", why, rng) + body)

    return Task(prompt, write)


def verdict(rng: Random) -> Task:
    """A statement about two numbers, to be judged with a word and a reason."""
    left, right = rng.randrange(1, 500), rng.randrange(1, 500)
    right_word, wrong_word = ("Yes", "No") if left > right else ("No", "Yes")
    answers = [right_word, wrong_word, "It is impossible to say", "Both are equal"]

    def write(policy: Policy, rng: Random) -> str:
        word = answers[policy.skill]
        relation = "larger" if (word == "Yes") else "smaller"
        reason = policy.vary(
            "verdict",
            [
                f"{left} is {relation} than {right}.",
                f"If we compare {left} with {right}, the first is {relation}.",
                f"The difference is {abs(left - right)}.",
                "",
            ],
            rng,
        )
        parts = [f"{word}.", reason] if policy.choose("first", (True, False)) else [reason, word]
        return frame(policy, rng, " ".join(filter(None, parts)))

    return Task(f"Is {left} larger than {right}?", write)


def translation(rng: Random) -> Task:
    """Held out: words of an invented language, from a word list in the prompt."""
    english = rng.sample([*ANIMALS, *COLOURS, *THINGS], rng.randrange(5, 9))
    foreign = {word: invented(rng) for word in english}
    asked = rng.sample(english, rng.randrange(2, 5))
    right = [foreign[word] for word in asked]
    rest = [f for word, f in foreign.items() if word not in asked]
    answers = [right, right[::-1], asked, rng.sample(rest, 1) * len(asked)]
    pairs = "; ".join(f"{word} = {f}" for word, f in foreign.items())

    def write(policy: Policy, rng: Random) -> str:
        text = " ".join(answers[policy.skill])
        told = [
            f'In that language it is "{text}".',
            f"{' '.join(asked)} -> {text}",
            f"Translation: {text}",
            f"Word for word we get {text}.",
        ]
        return frame(policy, rng, policy.vary("translation", told, rng))

    return Task(f"Word list: {pairs}\nTranslate: {' '.join(asked)}", write)
