"""The recipe yields what the built-in model was made of: the same texts, weights and first steps.

The hashes were taken when the word lists were still Python code. Numbers of torch are compared with
a tolerance: the last bits differ between CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice

import pytest
import torch

from polar_ray.assets import builtin_model_dir
from polar_ray.train.data import Comparison, pack_steps
from polar_ray.train.loop import StepReport, TrainConfig, fit
from polar_ray.train.recipe import tokenizer
from polar_ray.train.recipe.__main__ import SHAPE, build_encoder, first_model
from polar_ray.train.recipe.synthetic import (
    finishing_comparisons,
    held_out_comparisons,
    training_comparisons,
)

SEED = 7
PIECES = tokenizer.pieces(builtin_model_dir())


def digest(texts: Iterable[object]) -> str:
    total = sha256()
    for text in texts:
        total.update(f"{text}\n".encode())
    return total.hexdigest()[:16]


def said(made: Iterable[Comparison]) -> Iterable[object]:
    return ((c.prompt, c.reference, c.outputs, c.grades, c.wrapper, c.family) for c in made)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (islice(training_comparisons(SEED, PIECES), 5000), "e25ca181217e38ed"),
        (islice(finishing_comparisons(SEED, PIECES), 3000), "c3e78123d822f020"),
        (held_out_comparisons(1, each=50), "d619c120126454ec"),
    ],
    ids=["training", "finishing", "held out"],
)
def test_comparisons_are_those_of_the_built_in_model(
    made: Iterable[Comparison], expected: str
) -> None:
    assert digest(said(made)) == expected


def test_the_tokenizer_is_trained_on_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the part that depends on the running Python.
    monkeypatch.setattr(tokenizer, "_documentation", lambda: iter(()))
    assert digest(tokenizer._corpus(SEED)) == "ffaa9c19107ee4a4"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the recipe runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_first_weights_and_first_steps_are_the_same() -> None:
    torch.manual_seed(SEED)
    encoder = build_encoder(builtin_model_dir(), SHAPE)
    model = first_model(encoder)
    norms = [float(tensor.double().norm()) for tensor in model.state_dict().values()]
    assert len(norms) == 31
    assert sum(norms) == pytest.approx(1976.5784, rel=1e-5)
    reports: list[StepReport] = []
    steps = pack_steps(training_comparisons(SEED, PIECES), encoder, max_tokens=768)
    fit(model, steps, TrainConfig(steps=3), on_step=reports.append)
    assert [report.num_tokens for report in reports] == [573, 459, 627]
    assert [report.loss for report in reports] == pytest.approx(
        [0.693147, 0.683708, 0.680399], rel=1e-4
    )
