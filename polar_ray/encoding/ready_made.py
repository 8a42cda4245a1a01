"""Ready-made text: what POLAR's template has made of a record, cut into its two trajectories again.

Clients of other servers run the template by themselves. Of the control strings in their text, two
were put there by the template: the separator in the middle and the reward token at the end; all
others are somebody's text. A policy writes only what stands behind the true separator, so that the
first one in a text is never the policy's, and no other is ever taken. Where a reference could have
spelled the first one, too, the text is refused.
"""

from __future__ import annotations

from polar_ray.encoding.template import JOINTS, REWARD_TOKEN, SEPARATOR
from polar_ray.errors import row_error
from polar_ray.records import Trajectories, Unread

EXPECTED = (
    f"send p + '\\n' + reference + '{SEPARATOR}' + p + '\\n' + output + '{REWARD_TOKEN}', as "
    "POLAR's client makes it, or send records to POST /score"
)


def cut(text: object) -> Trajectories | Unread:
    """The trajectories of a text, or why there are none."""
    if not isinstance(text, str):
        return _bad(f"is {_kind(text)}")
    if not text.endswith(REWARD_TOKEN):
        return _bad(f"does not end with {REWARD_TOKEN}")
    body = text.removesuffix(REWARD_TOKEN)
    if SEPARATOR not in body:
        return _bad(f"has no {SEPARATOR}")
    if body.count(SEPARATOR) > 1 and not _is_first(body):
        return _bad(f"has several {SEPARATOR}, and it is not certain which is the template's")
    reference, _, candidate = body.partition(SEPARATOR)
    return Trajectories(reference, candidate)


def same_prompt(reference: str, candidate: str) -> bool:
    """Whether two trajectories begin with the same line, as those of one prompt do."""
    line = _line(reference)
    return line != "" and candidate.startswith(line)


def _is_first(body: str) -> bool:
    """Whether the first of several separators must be the template's.

    Behind the template's stands the prompt again. So both sides of the first must begin with the
    same line, and behind no other one may stand so much as the prompt's first character: then a
    reference that spells separators, and prompts, is refused. Nothing at all behind one would be
    an empty prompt and an empty output.
    """
    first, *others = _behind(body)
    return same_prompt(body[: first - len(SEPARATOR)], body[first:]) and not any(
        at == len(body) or body.startswith(body[0], at) for at in others
    )


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
