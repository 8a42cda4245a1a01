"""ms-swift: compute_rewards_per_func and compute_advantages, plain and async.

`PYTHONPATH=. python tests/adapters/real/run_ms_swift.py`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from case import ANSWERS, LIVE, PROMPT, REFERENCE, close, outcome, report, stops, use, wanted
from swift.rewards import orms
from swift.rl_core.advantage import compute_advantages
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func
from swift.utils.utils import import_external_file

torch.set_num_threads(1)
PLUGIN = Path(tempfile.mkdtemp()) / "plugin.py"
PLUGIN.write_text("from polar_ray.adapters.ms_swift import register\nregister()\n")
import_external_file(str(PLUGIN))


def rows(bad: int | None = None) -> list[Any]:
    return [
        GRPOSample.from_row(
            {
                "messages": [
                    {"role": "user", "content": PROMPT},
                    {"role": "assistant", "content": text},
                ],
                "reference": None if at == bad else REFERENCE,
                "prompt_id": "p",
                "request_id": f"r{at}",
                "finish_reason": "stop",
                "response_token_ids": [1, 2],
            }
        )
        for at, text in enumerate(ANSWERS)
    ]


def table(name: str, bad: int | None = None) -> Any:
    reward = orms[name](args=None)
    return compute_rewards_per_func(rows(bad), [reward], None, torch.device("cpu"))


def rewards(name: str = "polar", bad: int | None = None) -> list[float]:
    return [float(one) for one in table(name, bad).flatten()]


def main() -> None:
    stops(rewards, lambda: rewards(bad=1))
    use(LIVE)
    clean = not any(Path(path, "trl.py").exists() for path in sys.path)
    report("trap", name="no trainer's name is hidden", right=clean)
    for turn in ("first", "second"):  # each in a loop of its own, which ms-swift closes
        report("trap", name=f"async, {turn} loop", right=close(rewards("polar_async"), wanted()))
    report("unscored", **outcome(lambda: rewards("polar_async", bad=1)))
    advantages, _ = compute_advantages(table("polar"), torch.ones(1), num_generations=4)
    report("advantages", of=advantages.tolist())


if __name__ == "__main__":
    main()
