"""Groups of records to send to pools: a prompt, a reference and candidates, in words."""

from __future__ import annotations

from random import Random

TEXT = (
    "count the boxes in a row and say how many pencils are left when each child has taken one of "
    "them home to draw the river the wall and the old town under a clear sky in spring"
)
WORDS = TEXT.split()


def text(random: Random, words: int) -> str:
    """So many words."""
    return " ".join(random.choices(WORDS, k=words))


def groups(
    count: int, *, size: int = 16, prompt: int = 40, output: int = 20, seed: int = 0
) -> list[list[dict[str, str]]]:
    """`count` groups of `size` records; lengths in words."""
    random = Random(seed)
    made = []
    for _ in range(count):
        shared = {"prompt": text(random, prompt), "reference": text(random, output)}
        made.append([{**shared, "output": text(random, output)} for _ in range(size)])
    return made
