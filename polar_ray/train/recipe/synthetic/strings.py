"""Work on words: reversing, counting, changing case, replacing; sorting letters held out."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy, Task
from polar_ray.train.recipe.synthetic.style import answer_line, frame, listing
from polar_ray.train.recipe.synthetic.words import ANIMALS, COMMON, NOUNS, PLACES, THINGS, invented


def reversal(rng: Random) -> Task:
    """A word spelled backwards."""
    word = _word(rng)
    right = word[::-1]
    answers = [right, word, right[1:] + right[:1], right[:-1]]
    return _task(
        rng,
        answers,
        [
            f"Reverse the word '{word}'.",
            f"Spell {word} backwards.",
            f"What is {word} from its end?",
        ],
        [
            f"The letters of {word} are {', '.join(word)}. ",
            f"Going from the last letter of {word}: ",
        ],
    )


def letter_count(rng: Random) -> Task:
    """How often a letter stands in a word."""
    word = _word(rng) + _word(rng)
    letter = rng.choice(word)
    right = word.count(letter)
    answers = [right, right + 1, len(word), right + 2]
    return _task(
        rng,
        answers,
        [
            f"How many times does the letter {letter} occur in {word}?",
            f"Count the letter '{letter}' in '{word}'.",
        ],
        [
            f"Going through {word} letter by letter, I look for {letter}. ",
            f"'{word}' has {len(word)} letters. ",
            f"The word is {'-'.join(word)}. ",
        ],
    )


def casing(rng: Random) -> Task:
    """A sentence in another letter case."""
    sentence = " ".join(rng.choices(COMMON, k=rng.randrange(4, 16)))
    answers = [
        sentence.upper(),
        sentence.title(),
        sentence,
        " ".join(w.upper() if n % 2 else w for n, w in enumerate(sentence.split())),
    ]
    ask = [f"Write in capital letters: {sentence}", f'Turn "{sentence}" into upper case.']
    return _task(rng, answers, ask, ["I change every letter. ", "In capitals this becomes: "])


def replacement(rng: Random) -> Task:
    """One word of a sentence exchanged for another."""
    words = rng.choices(COMMON, k=rng.randrange(5, 14))
    old, new, wrong = rng.choice(words), rng.choice(ANIMALS), rng.choice(PLACES)
    answers = [
        " ".join(new if w == old else w for w in words),
        " ".join(words),
        " ".join(wrong if w == old else w for w in words),
        " ".join(w for w in words if w != old),
    ]
    text = " ".join(words)
    ask = [f"Replace {old} by {new} in: {text}", f"In the text '{text}', write {new} for {old}."]
    return _task(rng, answers, ask, [f"{old} becomes {new}. ", f"I look for {old}. ", "New text: "])


def letter_sorting(rng: Random) -> Task:
    """Held out: the letters of several words in alphabetical order, one result for each word."""
    words = [_word(rng) for _ in range(rng.randrange(2, 6))]
    done = ["".join(sorted(word)) for word in words]
    backwards = ["".join(sorted(word, reverse=True)) for word in words]
    answers = [done, backwards, words[::-1], sorted(words)]

    def write(policy: Policy, rng: Random) -> str:
        head = policy.vary("sorting", ["Sorted letters:\n", "Result:\n", "a to z -> ", ""], rng)
        return frame(policy, rng, head + listing(policy, answers[policy.skill]))

    return Task(f"Sort the letters within each word: {' '.join(words)}", write)


def _word(rng: Random) -> str:
    if rng.random() < 0.4:
        return invented(rng, syllables=rng.randrange(2, 4))
    return rng.choice(rng.choice((ANIMALS, THINGS, NOUNS, PLACES)))


def _task(rng: Random, answers: Sequence[object], ask: list[str], why: list[str]) -> Task:
    def write(policy: Policy, rng: Random) -> str:
        lead = policy.vary("string lead", [*why, "", ""], rng)
        return frame(policy, rng, lead + answer_line(policy, answers[policy.skill]))

    return Task(rng.choice(ask), write)
