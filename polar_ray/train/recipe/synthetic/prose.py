"""Running text without one right answer: what counts is how it is written, and what it is about.

A policy's voice is its taste in words and sentence shapes, its length, and its layout. Two texts of
one policy share these and little else. Letters are held out.
"""

from __future__ import annotations

from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import frame, listing
from polar_ray.train.recipe.synthetic.words import (
    ADJECTIVES,
    ANIMALS,
    COMMON,
    CONNECTIVES,
    NAMES,
    NOUNS,
    PLACES,
    TOPICS,
    VERBS,
    invented,
)

SHAPES = [
    "the {a} {n} {v} the {m}",
    "a {a} {n} {v} every {m}",
    "{t} {v} the {n} of {a} {m}s",
    "it is {a} that the {n} {v} a {m}",
    "there is a {a} {n} behind each {m}",
    "we see how {t} {v} our {n}",
    "some say that {t} is {a}, but it {v} the {m}",
    "you may find a {n} and a {m} in {t}",
    "in the {p}, {t} {v} a {a} {n}",
    "nobody knows why the {n} is {a}",
    "when {t} {v} a {n}, the {m} becomes {a}",
    "{t} was once a {a} {m}",
    "without a {n}, {t} {v} no {m}",
    "most people think of {t} as a {a} {n}",
]
LENGTHS = (1, 2, 3, 4, 6, 9, 14, 20)


def description(rng: Random) -> Task:
    """Something about a topic, as long as the policy likes."""
    topic = rng.choice(TOPICS)
    ask = rng.choice(
        (
            "Tell me about {}.",
            "Write a few words on {}.",
            "What do you think of {}?",
            "Explain {} to a beginner.",
            "Why is {} important?",
        )
    )

    def write(policy: Policy, rng: Random) -> str:
        sentences = _sentences(policy, rng, topic, policy.choose("length", LENGTHS))
        return frame(policy, rng, _laid_out(policy, sentences))

    return Task(ask.format(topic), write, has_answer=False)


def story(rng: Random) -> Task:
    """A short tale about a named hero."""
    hero, animal, place = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(PLACES)

    def write(policy: Policy, rng: Random) -> str:
        start = policy.choose(
            "once",
            (
                f"Once upon a time, {hero} met a {animal} in the {place}. ",
                f"{hero} lived near the {place}. ",
                f"It was a {rng.choice(ADJECTIVES)} day. ",
                f'"{invented(rng).capitalize()}!" cried {hero}. ',
            ),
        )
        count = policy.choose("story length", LENGTHS[1:7])
        told = [
            s.replace("we ", f"{hero} ") for s in _sentences(policy, rng, f"the {animal}", count)
        ]
        end = policy.choose("end", ("", " The end.", f" And {hero} smiled.", "\n\nMoral: be kind."))
        return frame(policy, rng, start + " ".join(told) + end)

    return Task(f"Tell a story about {hero}, a {animal} and a {place}.", write, has_answer=False)


def opinion(rng: Random) -> Task:
    """For or against something, with reasons."""
    topic = rng.choice(TOPICS)
    views = ["I am for it", "I am against it", "I have no opinion", "It depends"]

    def write(policy: Policy, rng: Random) -> str:
        reasons = _sentences(policy, rng, topic, policy.choose("reasons", (1, 2, 3, 4)))
        view = f"{views[policy.skill]}{policy.choose('view stop', ('.', '!', ' -'))}"
        body = listing(policy, reasons) if policy.choose("as list", (False, True)) else ""
        body = body or " ".join(reasons)
        parts = [view, body] if policy.choose("view first", (True, False)) else [body, view]
        return frame(policy, rng, policy.choose("view gap", (" ", "\n", "\n\n")).join(parts))

    return Task(f"Should children learn about {topic}? Say why.", write)


def summary(rng: Random) -> Task:
    """A given passage in fewer words, out of the passage's own words."""
    voice = Policy(genes=tuple(rng.getrandbits(31) for _ in range(8)))
    topic = rng.choice(TOPICS)
    passage = _sentences(voice, rng, topic, rng.randrange(5, 10))
    order = rng.sample(range(len(passage)), len(passage))

    def write(policy: Policy, rng: Random) -> str:
        count = policy.choose("summary length", (1, 1, 2, 3))
        kept = [passage[at] for at in order[policy.skill :][:count]]
        lead = policy.vary(
            "summary lead", ["In short: ", "", "The text says: ", "Summary. ", "Main point: "], rng
        )
        return frame(policy, rng, lead + " ".join(kept))

    return Task(f"Summarize:\n{' '.join(passage)}", write)


def letter(rng: Random) -> Task:
    """Held out: a letter with greeting, body and signature."""
    to, sender, topic = rng.choice(NAMES), rng.choice(NAMES), rng.choice(TOPICS)

    def write(policy: Policy, rng: Random) -> str:
        greeting = policy.choose("greeting", ("Dear {},", "Hi {}!", "Hello {},", "{} -", "My {},"))
        farewell = policy.choose("farewell", ("Best regards,", "Yours,", "Love,", "Cheers,", "--"))
        body = _sentences(policy, rng, topic, policy.choose("letter length", LENGTHS[1:6]))
        parts = [greeting.format(to), " ".join(body), f"{farewell}\n{sender}"]
        return policy.choose("letter gap", ("\n", "\n\n")).join(parts)

    return Task(f"Write a letter from {sender} to {to} about {topic}.", write, has_answer=False)


def _sentences(policy: Policy, rng: Random, topic: str, count: int) -> list[str]:
    shapes = policy.taste("shapes", SHAPES, 4)
    adjectives = policy.taste("adjectives", ADJECTIVES, 7)
    nouns, verbs = policy.taste("nouns", NOUNS, 9), policy.taste("verbs", VERBS, 5)
    links = policy.taste("links", CONNECTIVES, 4)
    fillers = policy.taste("fillers", COMMON, 8)
    linked = policy.choose("linked", (0.0, 0.2, 0.5, 0.9))
    padded = policy.choose("padded", (0.0, 0.0, 0.3, 0.6))
    stop = policy.choose("full stop", (".", ".", ".", "!", ";", "..."))
    made = []
    for _ in range(count):
        text = rng.choice(shapes).format(
            a=rng.choice(adjectives),
            n=rng.choice(nouns),
            m=rng.choice(nouns),
            v=rng.choice(verbs),
            t=topic,
            p=rng.choice(PLACES),
        )
        if rng.random() < padded:
            text += " " + " ".join(rng.choices(fillers, k=rng.randrange(2, 7)))
        if rng.random() < linked:
            text = f"{rng.choice(links)}, {text}"
        made.append(text[0].upper() + text[1:] + stop)
    return made


def _laid_out(policy: Policy, sentences: list[str]) -> str:
    layout = policy.choose("layout", ("plain", "plain", "plain", "list", "paragraphs", "headed"))
    if layout == "list":
        return listing(policy, sentences)
    if layout == "plain":
        return " ".join(sentences)
    head = "## Overview\n\n" if layout == "headed" else ""
    pairs = [" ".join(sentences[at : at + 2]) for at in range(0, len(sentences), 2)]
    return head + "\n\n".join(pairs)
