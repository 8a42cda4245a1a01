"""One pool, several engines: native, sglang embedded, vllm behind it. Which is fastest when?

    python benchmarks/pool_engines.py --groups 3 --vllm DIR --sglang DIR

All score the same records of one random model in float32, each by one thread: groups that come as
whole batches, and records that each have a prompt of their own. The last line is one JSON document.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import psutil
import typer
from engines.groups import groups
from engines.real_servers import RealServer, real_server
from engines.workloads import unique_tokens

from polar_ray.client import Client, connect
from polar_ray.config import (
    EngineConfig,
    NativeEngineConfig,
    PoolConfig,
    RemoteEngineConfig,
    ScorerConfig,
    SGLangEngineConfig,
)
from polar_ray.pool.local import pool
from polar_ray.records import to_batch
from polar_ray.scorer import Scorer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from checkpoints import make_mild_checkpoint

Name = Literal["native", "sglang", "vllm"]
SHAPES = {
    "prototype": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
    "tiny": {"max_position_embeddings": 4096},
}

SETTLE_S = 2.0
ONE = {"prompt": "1 + 1?", "reference": "2", "output": "2"}


@dataclass(frozen=True, slots=True)
class Report:
    """What one engine did under the pool."""

    engine: str
    rows_per_s_in_groups: float
    rows_per_s_alone: float
    computed_per_unique_token: float
    memory_gib: float
    start_s: float
    largest_difference: float


@contextmanager
def engine_of(
    name: Name, environment: Path | None, model: Path, folder: Path
) -> Iterator[tuple[EngineConfig, RealServer | None]]:
    """Its settings, and the server where it needs one."""
    if name == "native":
        yield NativeEngineConfig(), None
    elif environment is None:
        raise typer.BadParameter(f"--{name} DIR names no environment")
    elif name == "sglang":
        yield SGLangEngineConfig(python=str(environment / "bin" / "python")), None
    else:
        with real_server("vllm", environment, model, folder, window=4096) as real:
            yield RemoteEngineConfig(server="vllm", addresses=(real.url,)), real


def replica_bytes() -> int:
    """What the replica and its children hold for themselves."""
    found = 0
    for process in psutil.process_iter(["cmdline"]):
        if any("ServeReplica" in part and "Replica" in part for part in process.info["cmdline"]):
            if any("Router" in part for part in process.info["cmdline"]):
                continue
            for one in [process, *process.children(recursive=True)]:
                found += one.memory_full_info().uss
    return found


def timed(client: Client, batches: list[list[dict[str, str]]]) -> tuple[list[float], float]:
    """All scores, and the seconds that they took."""
    began = time.perf_counter()
    scores = [score for batch in batches for score in client.score(batch, timeout_s=3600)]
    return scores, time.perf_counter() - began


def measure(
    name: Name,
    environment: Path | None,
    model: Path,
    folder: Path,
    work: dict[str, list[list[dict[str, str]]]],
    truth: dict[str, np.ndarray],
    unique: int,
) -> Report:
    """One engine under a pool of one replica."""
    began = time.perf_counter()
    with engine_of(name, environment, model, folder) as (engine, server), ExitStack() as stack:
        config = PoolConfig(model=str(model), engine=engine, num_cpus=1)
        url = stack.enter_context(pool(config))
        start_s = time.perf_counter() - began
        client = stack.enter_context(connect(address=url))
        rates, worst = {}, 0.0
        for kind, batches in work.items():
            scores, took_s = timed(client, batches)
            rates[kind] = len(scores) / took_s
            worst = max(worst, float(np.abs(np.array(scores) - truth[kind]).max()))
        memory = replica_bytes() + (0 if server is None else server.memory_bytes)
        computed = tokens_computed(ScorerConfig(model=str(model), engine=engine), work["groups"])
    return Report(
        engine=name,
        rows_per_s_in_groups=rates["groups"],
        rows_per_s_alone=rates["alone"],
        computed_per_unique_token=computed / unique,
        memory_gib=memory / 2**30,
        start_s=start_s,
        largest_difference=worst,
    )


def tokens_computed(config: ScorerConfig, batches: list[list[dict[str, str]]]) -> int:
    """By the same engine without a pool, which does not tell; vllm computes all that it is sent."""
    scorer = Scorer(config)

    def count() -> int:
        """sglang tells by its log, which is behind, and reads it with an answer."""
        time.sleep(SETTLE_S)
        scorer.score([ONE])
        counts = scorer.counters
        return counts.get("tokens_computed", counts.get("tokens_sent", 0))

    before = count()
    for batch in batches:
        scorer.score(batch)
    after = count()
    scorer.close()
    return after - before


def main(
    count: Annotated[int, typer.Option("--groups")] = 3,
    size: Annotated[int, typer.Option()] = 16,
    shape: Annotated[str, typer.Option()] = "prototype",
    vllm: Annotated[Path | None, typer.Option()] = None,
    sglang: Annotated[Path | None, typer.Option()] = None,
    prompt: Annotated[int, typer.Option(help="Words of a prompt.")] = 200,
    output: Annotated[int, typer.Option(help="Words of an output.")] = 20,
) -> None:
    """Prints a line for each engine."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_mild_checkpoint(folder / "model", **SHAPES[shape])
        made = groups(count, size=size, prompt=prompt, output=output)
        loners = groups(count * size // 2, size=1, prompt=prompt, output=output, seed=1)
        work = {"groups": made, "alone": [[record for [record] in loners]]}
        scorer = Scorer(ScorerConfig(model=str(model)))
        truth = {
            kind: np.array(
                [x for batch in batches for x in scorer.score(batch)["score"].to_pylist()]
            )
            for kind, batches in work.items()
        }
        unique = sum(
            unique_tokens([row.ids for row in scorer.encode(to_batch(group).table)])
            for group in made
        )
        scorer.close()
        environments: dict[Name, Path | None] = {"native": None, "sglang": sglang, "vllm": vllm}
        reports = []
        for name, environment in environments.items():
            if name != "native" and environment is None:
                print(f"{name}: no environment was named, left out")
                continue
            report = measure(name, environment, model, folder, work, truth, unique)
            print(report, flush=True)
            reports.append(asdict(report))
    print(json.dumps(reports))


if __name__ == "__main__":
    typer.run(main)
