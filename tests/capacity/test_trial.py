"""The trial on this machine's CPU, and the command around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from capacity.test_speed import polar
from typer.testing import CliRunner

from polar_ray.capacity import DEVICES, Load, make_plan, measured
from polar_ray.capacity.trial import Words, tokens_per_word
from polar_ray.cli import cli
from polar_ray.cli.capacity import rows
from polar_ray.config import PoolConfig, StubEngineConfig
from polar_ray.errors import ConfigError
from polar_ray.scorer import Scorer


def test_texts_have_the_tokens_that_are_asked_for(scorer: Scorer) -> None:
    load = Load(1, prompt=60, reference=60, output=80, group=4)
    words = Words(tokens_per_word(scorer), np.random.default_rng(3))
    tokens = scorer.score(words.groups(load, 4))["num_tokens"].to_pylist()
    assert np.mean(tokens) == pytest.approx(load.tokens, rel=0.2)


def test_a_groups_records_share_what_they_should(scorer: Scorer) -> None:
    batch = Words(1.0, np.random.default_rng(3)).groups(Load(1, 9, 9, 9, group=4), 3)
    assert batch.num_rows == 12
    assert len(set(batch["prompt"].to_pylist())) == 3
    assert len(set(batch["output"].to_pylist())) == 12


def test_a_scorer_is_tried(tiny_dir: Path) -> None:
    load = Load(1, prompt=10, reference=10, output=10, group=4)
    assert measured(PoolConfig(model=str(tiny_dir)), load, seconds=0.1) > 0


def test_stubs_are_not_tried() -> None:
    with pytest.raises(ConfigError, match=r"engine\.type=stub"):
        measured(PoolConfig(engine=StubEngineConfig()), Load(1, 1, 1, 1))


def run(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(cli, ["plan", *words])
    assert done.exit_code == 0, done.output
    found: dict[str, object] = orjson.loads(done.stdout)
    return found


def test_the_command_plans_a_gpu_pool_without_fetching_its_model() -> None:
    found = run("--records-per-s", "1000", "--gpu", "h200", "model=internlm/POLAR-1_8B")
    assert found["devices"] == 1
    made = [f"num_replicas={found['replicas']}", "num_routers=1", "num_gpus=1"]
    assert found["settings"] == ["model=internlm/POLAR-1_8B", *made]


def test_the_settings_of_a_plan_keep_what_it_was_made_for() -> None:
    found = run("encoding.max_length=8192", "engine.dtype=fp8", "num_gpus=1", "num_replicas=9")
    made = [f"num_replicas={found['replicas']}", "num_routers=1", "num_gpus=1"]
    given = ["encoding.max_length=8192", "engine.dtype=fp8"]
    assert found["settings"] == ["model=internlm/POLAR-7B", *given, *made], "not the built-in one"
    assert run("model=internlm/POLAR-1_8B")["settings"][0] == "model=internlm/POLAR-1_8B"


def test_a_person_reads_of_one_gpu_and_of_several() -> None:
    load = Load(100, prompt=300, reference=500, output=800)
    found = make_plan(PoolConfig(), polar("POLAR-7B"), load, device=DEVICES["H200"])
    assert dict(rows(found))["each"].startswith("1 GPU, ")
    assert dict(rows(replace(found, devices=4)))["each"].startswith("4 GPUs, ")
    assert dict(rows(replace(found, devices=0, cpus=0.5)))["each"].startswith("0.5 cores, ")


def test_the_command_tries_a_cpu(tiny_dir: Path) -> None:
    words = ("--gpu", "cpu", "--seconds", "1", "--tokens", "10,10,10", f"model={tiny_dir}")
    found = run("--records-per-s", "1", "--group", "2", *words)
    assert (found["devices"], found["replicas"]) == (0, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tokens", "300"], "prompt,reference,output"),
        (["--gpu", "TPU"], "there are A100"),
        (["--gpu", "A100", "engine.dtype=fp8"], "which has none"),
        (["--records-per-s", "0"], "from 0.001"),
        (["--records-per-s", "1e300"], "from 0.001"),
        (["--tokens", "1_000,5,5"], "prompt,reference,output"),
        (["--group", "1000000000"], "from 1 to 4,096"),
        (["engine.device=cpu"], "--gpu cpu"),
        (["num_gpus=0"], "less than one replica uses"),
        (["num_gpus=4"], "more than one replica uses"),
        (["--gpu", "cpu", "num_cpus=4096"], "tried here"),
        (["--gpu", "cpu", "num_cpus=1", "engine.num_threads=2"], "more than num_cpus=1"),
        (["encoding.max_length=999999"], "window"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, ["plan", *words])
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output
