"""ROLL: `worker_cls: polar_ray.adapters.roll.PolarRewardWorker` of a domain under `rewards`.

`ground_truth` is the reference. Scores stay in float32: ROLL's own workers round to float16, which
is 0.008 at -11. ROLL takes 0 for what its remote rewards fail at, and makes NaN of a group from one
row: a row without a score raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polar_ray.adapters.bases import keep, no_such
from polar_ray.adapters.pool import Row, all_scores_now
from polar_ray.adapters.rows import column, record
from polar_ray.adapters.settings import AdapterConfig, read_settings

REFERENCE = ("ground_truth", "reference")


def rewards_of(data: Any, tokenizer: Any) -> list[float]:
    """Rewards of a batch (a shard of one, or the candidates of one prompt), in order."""
    settings = read_settings()
    texts = tokenizer.batch_decode(data.batch["responses"], skip_special_tokens=True)
    asked = tokenizer.batch_decode(data.batch["prompts"], skip_special_tokens=True)
    columns = {**data.non_tensor_batch}  # ROLL's own kind of mapping has `keys` and items, no more
    return all_scores_now(_rows(columns, asked, texts, settings), settings)


def _rows(
    columns: Mapping[str, Any],
    asked: Sequence[str],
    texts: Sequence[str],
    settings: AdapterConfig,
) -> list[Row]:
    usual = ("messages", "prompt", "")
    prompts = column({**columns, "": asked}, settings.prompt_column, usual, "prompt")
    references = column(columns, settings.reference_column, REFERENCE, "reference")
    return [
        record(prompt, reference, text, settings)
        for prompt, reference, text in zip(prompts, references, texts, strict=True)
    ]


def _worker() -> Any:
    import torch
    from roll.distributed.executor.worker import Worker
    from roll.distributed.scheduler.decorator import Dispatch, register
    from roll.distributed.scheduler.protocol import DataProto
    from roll.models.model_providers import default_tokenizer_provider

    class PolarRewardWorker(Worker):  # type: ignore[misc]
        """A reward worker that asks a pool; it needs no GPU."""

        @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
        def initialize(self, pipeline_config: Any) -> None:
            super().initialize(pipeline_config)
            self.tokenizer = default_tokenizer_provider(model_args=self.worker_config.model_args)

        @register(  # type: ignore[untyped-decorator]
            dispatch_mode=Dispatch.DP_MP_COMPUTE, clear_cache=False
        )
        def compute_rewards(self, data: DataProto) -> DataProto:
            scores = torch.tensor(rewards_of(data, self.tokenizer), dtype=torch.float32)
            per_token = torch.zeros_like(data.batch["responses"], dtype=torch.float32)
            return DataProto.from_dict(
                tensors={
                    "token_level_rewards": per_token,
                    "response_level_rewards": scores,
                    "scores": scores,
                }
            )

    PolarRewardWorker.__qualname__ = PolarRewardWorker.__name__
    return PolarRewardWorker


def __getattr__(name: str) -> Any:
    if name != "PolarRewardWorker":
        raise no_such(__name__, name)
    return keep(_worker(), name, __name__)
