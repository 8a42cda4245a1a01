"""The one command that makes the built-in model: `python -m polar_ray.train.recipe --out DIR`.

Owns the model's shape, its first weights and its recipe. Seeded: the same command on the same
machine with the same number of threads gives the same weights.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from polar_ray.assets import builtin_model_dir
from polar_ray.config import EncodingConfig
from polar_ray.encoding import Encoder, limits, load_tokenizer
from polar_ray.encoding.template import REWARD_TOKEN, SEPARATOR
from polar_ray.model import ModelConfig, RewardModel, load_model, save_model
from polar_ray.train.data import Comparison, Drops, pack_steps
from polar_ray.train.loop import StepReport, TrainConfig, fit
from polar_ray.train.recipe.first_weights import initialize
from polar_ray.train.recipe.synthetic import finishing_comparisons, training_comparisons
from polar_ray.train.recipe.tokenizer import CONTROLS, pieces, train_tokenizer

logger = logging.getLogger(__name__)

VOCAB_SIZE = 8192
LOG = "train.jsonl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

SHAPE = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    reward_token_id=CONTROLS.index(REWARD_TOKEN),
    rope_theta=1e10,
)
"""So large a theta leaves half of each head's dimensions unmoved by position: room for matching."""


def build_encoder(model_dir: Path, config: ModelConfig) -> Encoder:
    """The encoder of a checkpoint directory with the default limits of scoring."""
    return Encoder(
        load_tokenizer(model_dir),
        limits(EncodingConfig(), config.window),
        reward_id=config.reward_token_id,
    )


def main(
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint, made if missing.")],
    steps: Annotated[int, typer.Option(help="Steps of at most --tokens tokens.")] = 2000,
    tokens: Annotated[int, typer.Option(help="Tokens of a step.")] = 4096,
    finishing_steps: Annotated[int, typer.Option(help="Steps with excerpts after these.")] = 400,
    start: Annotated[
        Path | None, typer.Option(help="A checkpoint that has had the first steps.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest of the schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of first weights and data.")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    compute: Annotated[
        str, typer.Option(help="float32, or bfloat16 where it is fast.")
    ] = "float32",
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    retrain_tokenizer: Annotated[
        bool, typer.Option(help="Also make the tokenizer anew; needs no more than Python.")
    ] = False,
) -> None:
    """Trains the built-in model on synthetic policies, and in the end on excerpts too.

    The tokenizer is the shipped one unless asked otherwise: it depends on the documentation of the
    Python that trained it, the rest does not.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    if retrain_tokenizer:
        train_tokenizer(out, seed=seed, vocab_size=VOCAB_SIZE)
    elif out.resolve() != builtin_model_dir().resolve():
        for name in TOKENIZER_FILES:
            shutil.copyfile(builtin_model_dir() / name, out / name)
    (out / LOG).unlink(missing_ok=True)
    encoder = build_encoder(out, SHAPE)
    texts = pieces(out)

    def train(model: RewardModel, stream: Iterator[Comparison], count: int, rate: float) -> None:
        drops = Drops()
        config = TrainConfig.model_validate(
            {"steps": count, "learning_rate": rate, "compute": compute}
        )
        packed = pack_steps(stream, encoder, max_tokens=tokens, drops=drops)
        fit(model, packed, config, on_step=_reporter(model, out, save_every))
        save_model(model, out, dtype=torch.float16)
        logger.info("%d comparisons, %d dropped as too long", drops.kept, drops.too_long)

    if start is None:
        torch.manual_seed(seed)
        model = first_model(encoder)
        train(model, training_comparisons(seed, texts), steps, learning_rate)
    else:
        model = load_model(start, dtype=torch.float32)
    train(model, finishing_comparisons(seed, texts), finishing_steps, learning_rate / 4)


def first_model(encoder: Encoder) -> RewardModel:
    """The model before the first step; draws from torch's generator."""
    model = RewardModel(SHAPE)
    tokenizer = encoder.tokenizer
    initialize(
        model,
        [tokenizer.decode([index]) for index in range(VOCAB_SIZE)],
        bos_id=tokenizer.bos_id,
        separator_id=tokenizer.control_id(SEPARATOR),
    )
    return model


def _reporter(model: RewardModel, out: Path, save_every: int) -> Callable[[StepReport], None]:
    """Writes a line of train.jsonl every 20 steps, and a checkpoint every `save_every`."""
    started = time.monotonic()
    log = out / LOG
    recent: list[StepReport] = []
    total = 0

    def report(step: StepReport) -> None:
        nonlocal total
        total += step.num_tokens
        recent.append(step)
        if len(recent) == 20:
            line = {
                "step": step.step + 1,
                "loss": round(sum(r.loss for r in recent) / len(recent), 4),
                "accuracy": round(sum(r.accuracy for r in recent) / len(recent), 4),
                "grad_norm": round(max(r.grad_norm for r in recent), 3),
                "tokens": total,
                "seconds": round(time.monotonic() - started, 1),
            }
            logger.info("%s", line)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            recent.clear()
        if (step.step + 1) % save_every == 0:
            save_model(model, out, dtype=torch.float16)

    return report


if __name__ == "__main__":
    typer.run(main)
