"""Trains a tiny model by TRL's GRPOTrainer, with rewards of a live pool, and prints what it logged.

`python train_trl.py ADDRESS STEPS`, in TRL's environment. Everything is seeded and made here. Says
"step N" before each step, and the log as JSON in the last line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    WANDB_DISABLED="true",
)

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from polar_ray.adapters.trl import make_reward

SEED = 7
PLAIN = ("loss", "reward", "reward_std", "grad_norm", "completions/mean_length")


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and two control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: at for at, text in enumerate(["<pad>", "<end>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def policy(vocabulary: int) -> Qwen2ForCausalLM:
    """Some 3 million random weights."""
    torch.manual_seed(SEED)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    )


class Steps(TrainerCallback):  # type: ignore[misc]
    """Tells the test where training is."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        sys.stdout.write(f"step {state.global_step}\n")
        sys.stdout.flush()


def train(address: str, steps: int) -> dict[str, Any]:
    """What TRL logged, and the sum of the weights that came out."""
    text = tokenizer()
    rows = [{"prompt": f"What is {n} plus {n}? ", "reference": str(2 * n)} for n in range(1, 17)]
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=12,
        learning_rate=1e-3,
        logging_steps=1,
        seed=SEED,
        beta=0.0,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        log_level="error",
    )
    trainer = GRPOTrainer(
        model=policy(len(text)),
        reward_funcs=make_reward(address=address, timeout_s=120),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=text,
        callbacks=[Steps()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights = [p.detach().double().sum().item() for p in trainer.model.parameters()]
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": [{k: h[k] for k in PLAIN} for h in trainer.state.log_history if "loss" in h],
        "advantages": [float(a) for a in trainer._logs["advantages"]],
        "completions": list(trainer._logs["completion"]),
        "weights": sum(weights),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = train(sys.argv[1], int(sys.argv[2]))
    sys.stdout.write(json.dumps(found) + "\n")
