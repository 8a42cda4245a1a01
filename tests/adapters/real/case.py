"""What the programs of this folder share: addresses, a group of records, and what they report.

Each program runs in its trainer's own environment, with this project on its path, and calls the
trainer's own reward code. `tests/adapters/test_real.py` starts them and reads their reports.
"""

from __future__ import annotations

import json
import math
import os
import traceback
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DEDUP_LOGS="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    WANDB_DISABLED="true",
)

LIVE = os.environ["POLAR_TEST_LIVE"]
"""A pool that scores."""

DYING = os.environ["POLAR_TEST_DYING"]
"""The same, by a way that breaks when `die` was called."""

SILENT = os.environ["POLAR_TEST_SILENT"]
"""Takes calls and never answers."""

PROMPT = "What is the capital of China?"
REFERENCE = "Beijing."
ANSWERS = ["Beijing.", "It is Beijing.", "Shanghai.", "I do not know."]
SHORT_S = 3.0
"""Deadline of the calls that get no answer."""


def use(address: str, timeout_s: float = 60.0) -> None:
    """From now on adapters of this process ask there."""
    os.environ["POLAR_RAY_ADDRESS"] = address
    os.environ["POLAR_RAY_TIMEOUT_S"] = str(timeout_s)


def die() -> None:
    """The next call to `DYING` gets no answer, and later ones no connection."""
    with suppress(OSError):
        urllib.request.urlopen(f"{DYING}/die", timeout=10).close()


def wanted(outputs: Sequence[Any] = ANSWERS, prompt: Any = PROMPT) -> list[float]:
    """What the pool itself says of these answers."""
    from polar_ray import connect

    with connect(address=LIVE, timeout_s=60) as client:
        rows = [{"prompt": prompt, "reference": REFERENCE, "output": text} for text in outputs]
        return [float(score) for score in client.score(rows) if score is not None]


def close(found: Sequence[Any], expected: Sequence[float]) -> bool:
    """Whether these are the same scores in the same order."""
    return len(found) == len(expected) and all(
        math.isclose(float(a), b, abs_tol=2e-5) for a, b in zip(found, expected, strict=True)
    )


def report(case: str, **facts: Any) -> None:
    """One line for the test."""
    print("REPORT " + json.dumps({"case": case, **facts}, default=str), flush=True)


def outcome(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call returns, or all that was said on the way to its exception."""
    try:
        return {"returned": call(), "raised": None}
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return {"returned": None, "raised": text[-6000:]}


def stops(run: Callable[[], Any], broken: Callable[[], Any]) -> None:
    """The cases that are the same wherever a trainer stops: `run` scores the group, `broken` the
    group with one row that has no score."""
    use(LIVE)
    report("group", right=close(run(), wanted()))
    report("unscored", **outcome(broken))
    use(DYING, SHORT_S)
    report("before", right=close(run(), wanted()))
    die()
    report("dying", **outcome(run))
    use(SILENT, SHORT_S)
    report("deadline", **outcome(run))


def tokenizer() -> Any:
    """A tokenizer of bytes, made here, whose text comes back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<|im_start|>", "<|im_end|>", *alphabet]
    inner = Tokenizer(models.BPE(vocab={w: at for at, w in enumerate(words)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
    )
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return made
