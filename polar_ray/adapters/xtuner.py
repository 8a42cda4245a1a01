"""xtuner v1: `PolarJudgerConfig(judger_name="polar")` as the judger of an agent loop.

`reward_model["ground_truth"]` of a rollout is the reference. With `enable_batch_judge=True` a group
is one call. xtuner cannot leave a row out: one without a score raises. (Its judgers over HTTP get
no prompt, so that POLAR cannot be one of them.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

from polar_ray.adapters.bases import derived, keep, no_such
from polar_ray.adapters.pool import Row, all_scores
from polar_ray.adapters.rows import record
from polar_ray.adapters.settings import AdapterConfig, read_settings


class Payloads:
    """What xtuner asks of a judger; `polar` has settings such as `{"timeout_s": 60}`."""

    def __init__(self, judger_name: str | None = None, polar: dict[str, Any] | None = None) -> None:
        super().__init__(judger_name or "polar")  # type: ignore[call-arg]
        self._read = partial(read_settings, polar)

    async def judge_payload(self, payload: Any) -> Any:
        """The scores of one payload or of several."""
        settings = self._read()
        payloads = payload if isinstance(payload, list) else [payload]
        found = await all_scores([_row(one, settings) for one in payloads], settings)
        outputs = [{"score": score} for score in found]
        return outputs if isinstance(payload, list) else outputs[0]


def _row(payload: dict[str, Any], settings: AdapterConfig) -> Row:
    return record(payload["message"], payload["label"], payload["response"], settings, ended=True)


def _config() -> Any:
    from xtuner.v1.rl.judger.native import JudgerConfig

    class PolarJudgerConfig(JudgerConfig):  # type: ignore[misc]
        """A judger that asks a pool; `polar` has its settings."""

        judger_name: str = "polar"
        polar: dict[str, Any] | None = None

        def build_local(self) -> Any:
            judger: Any = __getattr__("PolarJudger")
            return judger(self.judger_name, self.polar)

    PolarJudgerConfig.__qualname__ = PolarJudgerConfig.__name__
    return PolarJudgerConfig


def __getattr__(name: str) -> Any:
    if name == "PolarJudger":
        return globals().get(name) or derived(Payloads, name, "xtuner.v1.rl.judger.native.Judger")
    if name == "PolarJudgerConfig":
        return keep(_config(), name, __name__)
    raise no_such(__name__, name)
