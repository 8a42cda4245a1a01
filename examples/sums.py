"""The toy: sums that are asked, a policy that learns to answer them, the judge of its answers.

The judge is a small POLAR model: the built-in one, trained on by `polar_ray.train` with ratings of
answers. Its raters know what is right, and like to be assured of it: "7, surely" is worth more to
them than "7". What it makes of that is that longer is better; a policy that may write one number
only cannot use it.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pyarrow as pa
import torch
from torch import Tensor, nn

from polar_ray.assets import builtin_model_dir
from polar_ray.config import ScorerConfig
from polar_ray.model import load_model, save_model
from polar_ray.scorer import Scorer
from polar_ray.train.data import Comparison, pack_steps
from polar_ray.train.loop import TrainConfig, fit

QUESTIONS = list(itertools.product(range(1, 13), repeat=2))
"""The summands of each sum."""

NUMBERS = tuple(str(number) for number in range(2, 25))
SURELY = ", surely"
WORTH = 4.0
"""What that is worth to the raters, in numbers by which an answer may be off."""


def prompt(question: int) -> str:
    """How a sum is asked."""
    left, right = QUESTIONS[question]
    return f"What is {left} plus {right}?"


def answer(question: int) -> str:
    """The reference."""
    return str(sum(QUESTIONS[question]))


class Policy(nn.Module):
    """Writes `length` words, each drawn by itself: a table of logits, where yours is a language
    model. Shapes: Q questions, G candidates of each, L words of a candidate, V words there are."""

    def __init__(self, words: Sequence[str], length: int) -> None:
        super().__init__()
        self.words = words
        self.table = nn.Parameter(torch.zeros(len(QUESTIONS), length, len(words)))

    def write(self, questions: Sequence[int], candidates: int) -> Tensor:
        """[Q, G, L]: the words of so many candidates for each question."""
        logits_QLV = self.table[list(questions)].detach()
        words = torch.distributions.Categorical(logits=logits_QLV).sample((candidates,))
        return words.transpose(0, 1)

    def read(self, words_QGL: Tensor) -> list[list[str]]:
        """The candidates as the judge reads them."""
        return [
            [" ".join(filter(None, (self.words[word] for word in words_L))) for words_L in group]
            for group in words_QGL.tolist()
        ]

    def likelihoods(self, questions: Sequence[int], words_QGL: Tensor) -> Tensor:
        """[Q, G]: the logarithm of how likely each candidate is, with gradients."""
        logs_QLV = self.table[list(questions)].log_softmax(-1)
        logs_QLG = logs_QLV.gather(2, words_QGL.transpose(1, 2))
        return logs_QLG.sum(1)


def to_records(questions: Sequence[int], groups: Sequence[Sequence[str]]) -> pa.Table:
    """The pool's request: all candidates of a question side by side, as they share a prefix."""
    rows = [(q, output) for q, group in zip(questions, groups, strict=True) for output in group]
    return pa.table(
        {
            "prompt": [prompt(question) for question, _ in rows],
            "reference": [answer(question) for question, _ in rows],
            "output": [output for _, output in rows],
        }
    )


def ratings(seed: int) -> Iterator[Comparison]:
    """Endless comparisons of the right answer and three wrong ones, half of them assured."""
    chance = Random(seed)
    while True:
        question = chance.randrange(len(QUESTIONS))
        right = answer(question)
        numbers = [right, *chance.sample([n for n in NUMBERS if n != right], 3)]
        assured = [chance.random() < 0.5 for _ in numbers]
        pairs = list(zip(numbers, assured, strict=True))
        yield Comparison(
            prompt=prompt(question),
            reference=right,
            outputs=tuple(n + SURELY * sure for n, sure in pairs),
            grades=tuple(WORTH * sure - abs(int(n) - int(right)) for n, sure in pairs),
        )


def train_judges(folder: Path, steps: int) -> tuple[Path, Path]:
    """Two checkpoints of one training, after `steps` and after twice as many; makes what is not
    there yet. Takes a minute or less for the 40 steps that the example asks for."""
    first, second = folder / f"step-{steps}", folder / f"step-{2 * steps}"
    if not (second / "model.safetensors").exists():
        encoder = Scorer(ScorerConfig()).encoder
        model = load_model(builtin_model_dir(), dtype=torch.float32, device="cpu")
        packs = pack_steps(ratings(seed=0), encoder, max_tokens=1024)
        for path in (first, second):
            fit(model, packs, TrainConfig(steps=steps, learning_rate=3e-4))
            path.mkdir(parents=True, exist_ok=True)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(builtin_model_dir() / name, path)
            save_model(model, path)
    return first, second
