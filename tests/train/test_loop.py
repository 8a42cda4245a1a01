"""The loop learns, repeats itself, and leaves a checkpoint that scores."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch

from polar_ray.config import ScorerConfig
from polar_ray.model import RewardModel, load_config, load_model, save_model
from polar_ray.scorer import Scorer
from polar_ray.train.data import Comparison, pack_steps
from polar_ray.train.loop import StepReport, TrainConfig, fit

LESSONS = [
    Comparison(prompt=p, reference=r, outputs=(r, wrong), grades=(1.0, 0.0))
    for p, r, wrong in (
        ("1 + 1", "2", "5"),
        ("2 + 2", "4", "7"),
        ("capital of France", "Paris", "China"),
        ("capital of China", "Beijing", "Paris"),
    )
]


def train(folder: Path, scorer: Scorer, steps: int) -> tuple[RewardModel, list[StepReport]]:
    """A fresh copy of the checkpoint `folder` after `steps`, and what each step reported."""
    model = load_model(folder, dtype=torch.float32, device="cpu")
    reports: list[StepReport] = []
    fit(
        model,
        itertools.cycle(pack_steps(LESSONS, scorer.encoder, max_tokens=256)),
        TrainConfig(steps=steps, learning_rate=5e-3),
        on_step=reports.append,
    )
    return model, reports


def test_training_learns_and_its_checkpoint_scores(
    tiny_dir: Path, scorer: Scorer, tmp_path: Path
) -> None:
    model, reports = train(tiny_dir, scorer, 30)
    assert reports[-1].loss < 0.1 < reports[0].loss
    assert reports[-1].accuracy == 1.0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_dir / name, tmp_path / name)
    save_model(model, tmp_path)
    assert load_config(tmp_path) == model.config
    trained = Scorer(ScorerConfig(model=str(tmp_path)))
    for lesson in LESSONS:
        rows = [
            {"prompt": lesson.prompt, "reference": lesson.reference, "output": output}
            for output in lesson.outputs
        ]
        right, wrong = trained.score(rows)["score"].to_pylist()
        assert right > wrong
    assert trained.provenance["model_digest"] != scorer.provenance["model_digest"]


def test_training_repeats_itself(tiny_dir: Path, scorer: Scorer) -> None:
    first, second = (train(tiny_dir, scorer, 3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_learning_rate_rises_then_falls() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, warmup_ratio=0.1, final_ratio=0.2)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.2)
    middle = 0.2 + 0.8 * (1 + math.cos(math.pi * 45 / 89)) / 2
    assert rates[55] == pytest.approx(middle)
