"""What is wrong with a foreign engine's or a server's scores, named. Pure: scores in, words out.

Every known fault has a form of its own, so that the true scores of a few short sequences tell which
it is: what the faulty server should answer is computed here and compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polar_ray.engine.protocol import Scores

SHORT = 16
"""Tokens within which a wrong rotary table shows."""

ROUNDING = 0.05
"""Share of the scores' spread above which a difference is no rounding."""

FAR = 8
FEW = 1 / 16
"""In 16 bits, a few of many sequences are so many times farther off than what the rest allow."""

SQUASHED = "squashed by a sigmoid"
UNSQUASH = 'send "use_activation": false with each request'


_LEFT_OUT = {
    "unbiased": (
        "biases are left out: the checkpoint has them (bias=true)",
        "this engine computes InternLM2 without any; use the native one",
    ),
    "stretched": (
        "wrong dynamic RoPE: every record's angles are those of the longest there can be",
        "they must go by the record's own length, as in the native engine",
    ),
    "unscaled": (
        "dynamic RoPE is left out: long records' angles are not scaled",
        "they must be, by the record's own length, as in the native engine",
    ),
}
"""What some engines do not compute of a checkpoint: its fault's name, and what to do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A form that wrong scores can have, and what to do about it."""

    name: str
    scores: Scores
    """float32 [cases], what a server with this fault answers."""

    remedy: str


def known_faults(truth: Scores, others: Mapping[str, Scores]) -> list[Fault]:
    """Faults to look for. `others` has the true scores of altered sequences: "unrotated" (no
    position is known), "unended" (without the reward token), "first" (the first token alone),
    "doubled" (with BOS twice) and "unbegun" (without BOS). Where the checkpoint has what others
    leave out, also "unbiased" (without biases), "stretched" and "unscaled" (dynamic RoPE that goes
    by the model's longest record, or not at all). All of these may come squashed as well."""
    of_scores = [
        Fault(SQUASHED, _squashed(truth), UNSQUASH),
        Fault(
            "squashed by a softmax", np.ones_like(truth), 'send "use_activation": false, or "raw"'
        ),
        Fault(
            "normalised", np.sign(truth), "turn normalisation of embeddings off: all scores are +-1"
        ),
        Fault("of the other sign", -truth, "the head's sign is turned somewhere on the way"),
    ]
    of_inputs = [
        Fault(
            "wrong rotary table: no position is turned",
            others["unrotated"],
            "the rotary table is empty (transformers 5 leaves a remote model's uninitialised); use "
            "a server that builds it from the config",
        ),
        Fault(
            "read one token too early",
            others["unended"],
            "the reward token at the end is lost: send token ids that end with it",
        ),
        Fault("read at the first token", others["first"], "pooling must take the last token"),
        Fault(
            "wrong token ids: BOS stands there twice",
            others["doubled"],
            "the server adds BOS to what begins with it; turn special tokens off",
        ),
        Fault(
            "wrong token ids: BOS is missing",
            others["unbegun"],
            "the server's tokenizer does not put it before text; send token ids",
        ),
    ]
    of_models = [
        Fault(name, others[key], remedy)
        for key, (name, remedy) in _LEFT_OUT.items()
        if key in others
    ]
    of_both = [
        Fault(f"{f.name}, and {SQUASHED}", _squashed(f.scores), f"{f.remedy}; {UNSQUASH}")
        for f in [*of_inputs, *of_models]
    ]
    return [*of_scores, *of_inputs, *of_models, *of_both]


def _squashed(scores: Scores) -> Scores:
    return (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)


def diagnose(
    found: Scores,
    truth: Scores,
    faults: Sequence[Fault],
    lengths: Sequence[int],
    *,
    tolerance: float,
    again: Scores | None = None,
) -> str | None:
    """None if the scores are true within `tolerance`, else one sentence that names the fault.

    `lengths` are the tokens of each case; a single token needs no rotary table. `again` are the
    answers to the same questions asked a second time.
    """
    if not np.isfinite(found).all():
        return f"{int((~np.isfinite(found)).sum())} of {len(found)} scores are not finite"
    if again is not None and np.abs(found - again).max() > tolerance:
        return (
            f"not repeatable: the same sequence differs by {np.abs(found - again).max():.3g} when "
            "asked again; memory that nobody wrote (a rotary table?) is being read"
        )
    if _near(found, truth, tolerance):
        return None
    for fault in faults:
        # A fault that looks like the truth on these cases explains nothing.
        if _near(found, fault.scores, tolerance) and not _near(fault.scores, truth, tolerance):
            return f"{fault.name}; {fault.remedy}"
    if np.ptp(found) <= tolerance < np.ptp(truth):
        return f"every sequence gets {found[0]:.4g}: the input does not reach the model"
    wrong = np.abs(found - truth) > tolerance
    size = f"{int(wrong.sum())} of {len(found)} scores are off, by up to {_worst(found, truth):.3g}"
    if _is_rounding(found, truth):
        return f"{size}, {_rounded(truth)}"
    counts = np.array(lengths)
    shortest = int(counts[wrong].min())
    if shortest > SHORT and (counts < shortest).any():
        return (
            f"{size}, all of {shortest} tokens or more: a shorter window, or another rope_scaling"
        )
    if (counts == 1).any() and not wrong[counts == 1].any():
        return (
            f"wrong rotary table: {size}, but single tokens, which need none, are right; check "
            "rope_theta and rope_scaling, and that the table is initialised"
        )
    if _is_ordered(found, truth):
        return f"{size}, but in the right order: scaled"
    return f"{size}: other weights, or another model"


def diagnose_embeddings(found: Scores, truth: Scores, *, tolerance: float) -> str | None:
    """The same of many short sequences of other ids each, by who has given the answers to a few
    sequences of all lengths. `tolerance` is for most: see `FAR`."""
    off = np.abs(found - truth)
    wrong = ~(off <= tolerance)
    if wrong.sum() <= FEW * len(found) and (off <= FAR * tolerance).all():
        return None
    size = f"{int(wrong.sum())} of {len(found)} sequences of more ids are off"
    if not np.isfinite(found).all():
        return f"{size}, {int((~np.isfinite(found)).sum())} of them not finite: wrong embeddings"
    size = f"{size}, by up to {_worst(found, truth):.3g}"
    if _is_rounding(found, truth):
        return f"{size}, {_rounded(truth)}; or wrong embeddings"
    return (
        f"{size}, where those of a few are right: wrong embeddings (a vocabulary that was resized "
        "or cut in parts?), or now and then another model behind the same address"
    )


def diagnose_long(found: float, truth: float, num_tokens: int, *, tolerance: float) -> str | None:
    """The same of one sequence that is longer than all others, which are right."""
    if abs(found - truth) <= FAR * tolerance:
        return None
    return (
        f"a sequence of {num_tokens} tokens is off by {abs(found - truth):.3g}, where shorter ones "
        "are right: a shorter window, or another rope_scaling"
    )


def _near(one: Scores, other: Scores, tolerance: float) -> bool:
    return _worst(one, other) <= tolerance


def _worst(one: Scores, other: Scores) -> float:
    return float(np.abs(one - other).max())


def _is_ordered(found: Scores, truth: Scores) -> bool:
    moved = np.ptp(found) > 0 < np.ptp(truth)
    return bool(moved and np.corrcoef(found, truth)[0, 1] > 0.99)


def _is_rounding(found: Scores, truth: Scores) -> bool:
    return _is_ordered(found, truth) and _worst(found, truth) < ROUNDING * float(np.ptp(truth))


def _rounded(truth: Scores) -> str:
    return (
        f"little beside their spread of {np.ptp(truth):.3g}: rounded to a coarser type "
        "(bfloat16?); a larger tolerance forgives it"
    )
