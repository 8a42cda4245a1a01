"""TRL: GRPOTrainer.train() with plain and async rewards, and a tiny model that is made here.

`PYTHONPATH=. python tests/adapters/real/run_trl.py`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from case import DYING, LIVE, SHORT_S, SILENT, close, die, outcome, report, tokenizer, use
from datasets import Dataset
from transformers import PrinterCallback, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from polar_ray import connect
from polar_ray.adapters.trl import polar_reward, polar_reward_async

torch.set_num_threads(1)
TOKENIZER = tokenizer()
ROWS = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": f"{n} + 1?"}], "reference": f"{n + 1}"}
        for n in (1, 2)
    ]
)
SEEN: list[dict[str, Any]] = []


def train(reward: Callable[..., Any], steps: int = 1) -> list[float]:
    """The advantages of the last step."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(TOKENIZER),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        )
    )
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        scale_rewards="none",
        log_level="error",
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=args,
        train_dataset=ROWS,
        processing_class=TOKENIZER,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert not weights.isnan().any()
    return [float(one) for one in list(trainer._logs["advantages"])[:4]]


def keep(given: dict[str, Any], found: Any) -> Any:
    SEEN.append({"given": given, "found": found})
    return found


def sync(**given: Any) -> Any:
    return keep(given, polar_reward(**given))


async def awaited(**given: Any) -> Any:
    return keep(given, await polar_reward_async(**given))


def one_row_fails(completions: Any, **given: Any) -> Any:
    broken = [None if at == 1 else one for at, one in enumerate(completions)]
    return keep({**given, "completions": completions}, polar_reward(completions=broken, **given))


def direct(given: dict[str, Any]) -> list[float | None]:
    """What the pool says of the rows that TRL passed."""
    with connect(address=LIVE) as client:
        columns = zip(given["prompts"], given["reference"], given["completions"], strict=True)
        return client.score([{"prompt": p, "reference": r, "output": o} for p, r, o in columns])


def main() -> None:
    use(LIVE)
    for reward in (sync, awaited):
        advantages = train(reward)
        seen = SEEN[-1]
        report("group", right=close(seen["found"], direct(seen["given"])))
    report("advantages", of=advantages)
    advantages = train(one_row_fails)
    found = SEEN[-1]["found"]
    others = [at for at in (0, 2, 3) if found[at] is not None]
    mean = sum(found[at] for at in others) / 3
    without = [found[at] - mean for at in others]
    report(
        "left out",
        none=found[1] is None,
        zero=advantages[1] == 0,
        same=close([advantages[at] for at in others], without),
        of=advantages,
    )

    calls = 0

    def dies(**given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            die()
        return polar_reward(**given)

    use(DYING, SHORT_S)
    report("dying", **outcome(lambda: train(dies, steps=3)), calls=calls)
    report("before", right=calls == 2)
    use(SILENT, SHORT_S)
    report("deadline", **outcome(lambda: train(polar_reward_async)))


if __name__ == "__main__":
    main()
