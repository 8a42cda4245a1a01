"""Ready-made text: what POLAR's template has made of a record, cut into its two trajectories again.

Clients of other servers run the template by themselves. Of the control strings in their text, two
were put there by the template: the separator in the middle and the reward token at the end; all
others are somebody's text. A policy writes only what stands behind the true separator, so that the
first one in a text is never the policy's, and no other is ever taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from polar_ray.encoding.template import JOINTS, REWARD_TOKEN, SEPARATOR
from polar_ray.errors import row_error
from polar_ray.records import Trajectories, Unread

EXPECTED = (
    f"send p + '\\n' + reference + '{SEPARATOR}' + p + '\\n' + output + '{REWARD_TOKEN}', as "
    "POLAR's client makes it, or send records to POST /score"
)

Texts = Callable[[], Iterable[object]]
"""Gives the texts of one request, from the first on, whenever it is called."""


def cut_texts(texts: Texts) -> Iterator[Trajectories | Unread]:
    """The trajectories of each text in order, or why it has none.

    A text with several separators that could each be the template's is cut like the others of its
    group, which are not to be mistaken; without such neighbours it is refused.
    """
    known: set[str] | None = None
    for text in texts():
        row = cut(text)
        if row is None:
            if known is None:
                known = set(_certain(texts()))
            row = _first(str(text))
            if row.reference not in known:
                row = _bad(
                    f"has several {SEPARATOR}, and it is not certain which is the template's"
                )
        yield row


def cut(text: object) -> Trajectories | Unread | None:
    """The trajectories of a text, or why there are none; None where it is not certain."""
    if not isinstance(text, str):
        return _bad(f"is {_kind(text)}")
    if not text.endswith(REWARD_TOKEN):
        return _bad(f"does not end with {REWARD_TOKEN}")
    separators = text.count(SEPARATOR)
    if not separators:
        return _bad(f"has no {SEPARATOR}")
    return _first(text) if separators == 1 or _is_first(text) else None


def same_prompt(reference: str, candidate: str) -> bool:
    """Whether two trajectories begin with the same line, as those of one prompt do."""
    line = _line(reference)
    return line != "" and candidate.startswith(line)


def _is_first(text: str) -> bool:
    """Whether the first of several separators must be the template's: both trajectories begin with
    the prompt, and behind no later one does a text begin with it."""
    first, *others = _behind(text)
    # Wrapper pretrain puts no line break behind the prompt, of which one character is known then.
    prompt = _line(text[: first - len(SEPARATOR)])
    if not (prompt and text.startswith(prompt, first)):
        prompt = text[: min(1, first - len(SEPARATOR))]
    return (
        prompt != ""
        and text.startswith(prompt, first)
        and not any(text.startswith(prompt, at) for at in others)
    )


def _certain(texts: Iterable[object]) -> Iterator[str]:
    """What is before the separator, in those texts that have one only."""
    for text in texts:
        if isinstance(text, str) and text.count(SEPARATOR) == 1:
            yield text.partition(SEPARATOR)[0]


def _first(text: str) -> Trajectories:
    reference, _, candidate = text.removesuffix(REWARD_TOKEN).partition(SEPARATOR)
    return Trajectories(reference, candidate)


def _behind(text: str) -> list[int]:
    """The places behind all separators."""
    found, at = list[int](), text.find(SEPARATOR)
    while at >= 0:
        found.append(at + len(SEPARATOR))
        at = text.find(SEPARATOR, at + 1)
    return found


def _line(trajectory: str) -> str:
    """The first line with the break that ends it; "" where none does."""
    joint = JOINTS["sft"]
    return trajectory[: trajectory.find(joint) + len(joint)] if joint in trajectory else ""


def _kind(text: object) -> str:
    if isinstance(text, int | list):
        return "token ids, which the pool makes by itself"
    return type(text).__name__


def _bad(what: str) -> Unread:
    return Unread(row_error("bad_template", f"the text {what}; {EXPECTED}"))
