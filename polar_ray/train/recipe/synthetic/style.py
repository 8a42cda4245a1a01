"""Habits that all families share: openings, closings, lists, and the line with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from polar_ray.train.recipe.synthetic.policy import Policy

OPENINGS = [
    "",
    "",
    "",
    "Sure! ",
    "Of course. ",
    "Let me think about it. ",
    "Great question! ",
    "Here is my answer: ",
    "Certainly! Here you go.\n\n",
    "Let's work through this step by step.\n",
    "Okay, ",
    "Thanks for asking. ",
    "As a careful assistant, I will do my best. ",
    "Solution:\n",
    "## Response\n\n",
    "Hmm, ",
]
CLOSINGS = [
    "",
    "",
    "",
    "",
    " I hope this helps!",
    "\n\nLet me know if you have any other questions.",
    "\nDone.",
    " That is all.",
    "\n\nPlease check the result yourself.",
    " Does that make sense?",
    "\n\n---\nEnd of answer.",
    " Have a nice day!",
]
ANSWERS = [
    "The answer is {}.",
    "A: {}",
    "#### {}",
    "Answer: {}",
    "So the result is {}.",
    "**{}**",
    "Therefore, the answer is {}.",
    "Final answer: {}",
    "\\boxed{{{}}}",
    "So {}.",
    "That gives {}.",
    "Result = {}",
    "It is {}.",
    "{}",
]
MARKERS = [
    "- ",
    "* ",
    "{n}. ",
    "{n}) ",
    "",
    "+ ",
    "({n}) ",
    "> ",
    "Step {n}: ",
    "#{n} ",
    "**{n}.** ",
]
CASES = ["as is"] * 8 + ["upper", "lower"]


def frame(policy: Policy, rng: Random, body: str) -> str:
    """The body between an opening and a closing of the policy."""
    opening = policy.choose("opening", OPENINGS)
    closing = policy.vary("closing", CLOSINGS, rng, width=1 + policy.choose("polite", (0, 0, 1)))
    return cased(policy, opening + body + closing)


def cased(policy: Policy, text: str) -> str:
    """The text in the policy's letter case."""
    case = policy.choose("case", CASES)
    if case == "as is":
        return text
    return text.upper() if case == "upper" else text.lower()


def answer_line(policy: Policy, answer: object) -> str:
    """The sentence that says the answer."""
    return policy.choose("answer line", ANSWERS).format(answer)


def listing(policy: Policy, items: Sequence[object]) -> str:
    """Items the way the policy lists them: within a line, or a line each."""
    marker = policy.choose("marker", MARKERS)
    layout = policy.choose("list layout", ["comma", "lines", "lines", "lines", "and", "gaps"])
    texts = [str(item) for item in items]
    if layout == "comma":
        return ", ".join(texts)
    if layout == "and" and len(texts) > 1:
        return ", ".join(texts[:-1]) + " and " + texts[-1]
    lines = [marker.format(n=n) + text for n, text in enumerate(texts, start=1)]
    return ("\n\n" if layout == "gaps" else "\n").join(lines)


def number(policy: Policy, value: int) -> str:
    """An integer the way the policy writes it."""
    style = policy.choose("number", ["plain", "plain", "plain", "comma", "point"])
    if style == "comma":
        return f"{value:,}"
    return f"{value}.0" if style == "point" else str(value)
