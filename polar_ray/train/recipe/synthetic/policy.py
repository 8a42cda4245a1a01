"""Policies: what makes two answers to one task alike or unlike.

A policy is a set of habits and a skill. Habits decide how it writes (wording, layout, length);
they come from a few genes, so that two policies are as near as the genes they share. The skill
decides what it answers: 0 is right, every other number is a mistake of its own, made every time.
A policy knows nothing of tasks: a task asks it to choose among options under a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar
from zlib import crc32

NUM_GENES = 8
NUM_SKILLS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One way of answering."""

    genes: tuple[int, ...]
    skill: int = 0

    def choose(self, name: str, options: Sequence[T]) -> T:
        """The option that this policy always takes under `name`."""
        return options[self._number(name) % len(options)]

    def vary(self, name: str, options: Sequence[T], rng: Random, *, width: int = 2) -> T:
        """One of the `width` options among which this policy hesitates under `name`."""
        favourites = Random(self._number(name)).sample(
            range(len(options)), min(width, len(options))
        )
        return options[rng.choice(favourites)]

    def taste(self, name: str, options: Sequence[T], size: int) -> list[T]:
        """The `size` options that this policy uses under `name`, in its own order."""
        return Random(self._number(name)).sample(list(options), min(size, len(options)))

    def _number(self, name: str) -> int:
        key = crc32(name.encode())
        return crc32(f"{self.genes[key % NUM_GENES]}/{name}".encode())


def sample_policy(rng: Random) -> Policy:
    """Any policy; half of them answer rightly."""
    skill = 0 if rng.random() < 0.5 else rng.randrange(1, NUM_SKILLS)
    return Policy(genes=tuple(rng.getrandbits(31) for _ in range(NUM_GENES)), skill=skill)


def near(policy: Policy, rng: Random, *, changes: int) -> Policy:
    """The same skill with `changes` of the genes exchanged."""
    genes = list(policy.genes)
    for index in rng.sample(range(NUM_GENES), changes):
        genes[index] = rng.getrandbits(31)
    return replace(policy, genes=tuple(genes))


def other_skill(policy: Policy, rng: Random) -> Policy:
    """The same habits with another answer."""
    return replace(policy, skill=(policy.skill + rng.randrange(1, NUM_SKILLS)) % NUM_SKILLS)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, and how any policy answers it."""

    prompt: str
    write: Callable[[Policy, Random], str]
    """One answer; the generator decides only what the policy leaves open."""

    has_answer: bool = True
    """Whether a policy's skill shows; without, all that counts is how it writes."""


Family = Callable[[Random], Task]
"""Makes a task; tasks of one family share a kind, not their content."""
