"""`polar-ray verify MODEL`: sound checkpoints pass, and each kind of damage fails its check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.config import ScorerConfig
from polar_ray.model import load_config
from polar_ray.scorer import Scorer
from polar_ray.verify import verify_model
from polar_ray.verify.reference import LlamaReference
from polar_ray.verify.samples import is_polar_7b

NAMES = ["deep", "gqa", "mha_bias", "mqa", "rope_dynamic", "rope_linear"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


def statuses(model: Path, golden: Path | None = None) -> dict[str, str]:
    config = ScorerConfig(model=str(model), max_tokens=256)
    return {one.name: one.status for one in verify_model(config, golden)}


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "copy"))


def test_a_sound_checkpoint_passes_every_check(tiny_dir: Path) -> None:
    done = run(tiny_dir)
    assert done.exit_code == 0, done.output
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    skipped = {name for name, one in found.items() if one["status"] == "skip"}
    assert skipped == {"known answers", "published examples"}
    assert len(found) == 12
    assert Scorer(ScorerConfig(model=str(tiny_dir))).info.digest in found["digest"]["detail"]
    assert "largest difference" in found["native = transformers"]["detail"]


def test_the_built_in_model_passes() -> None:
    done = run("builtin")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_rewards_of_internlms_code(golden: Path, name: str) -> None:
    # So that a native engine that agrees with it agrees with POLAR.
    folder = golden / "model" / name
    cases = json.loads((folder / "rewards.json").read_text())["cases"]
    ids = [np.array(case["input_ids"], dtype=np.int32) for case in cases]
    expected = np.array([case["reward"] for case in cases])
    np.testing.assert_allclose(LlamaReference(folder).score(ids), expected, atol=1e-4)


def test_known_answers_are_compared(tiny_dir: Path, tmp_path: Path) -> None:
    ids = [1, 5, 6, 4]
    truth = float(LlamaReference(tiny_dir).score([np.array(ids, dtype=np.int32)])[0])
    path = tmp_path / "golden.json"
    for reward, status in ((truth, "pass"), (truth + 0.01, "fail")):
        path.write_text(json.dumps({"cases": [{"input_ids": ids, "reward": reward}]}))
        assert statuses(tiny_dir, path)["known answers"] == status


def edit(folder: Path, **changes: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, **{n.replace("__", "."): t for n, t in changes.items()}}, path)


def test_weights_that_are_not_finite_fail(copy: Path) -> None:
    norm = load_file(copy / "model.safetensors")["model.norm.weight"]
    norm[3] = float("nan")
    edit(copy, model__norm__weight=norm)
    found = statuses(copy)
    assert found["weights"] == "fail"
    assert found["native = transformers"] == "fail"


def test_an_untrained_head_fails(copy: Path) -> None:
    edit(copy, v_head__weight=torch.zeros(1, 32))
    assert statuses(copy)["weights"] == "fail"


def test_cut_weights_fail_and_say_so(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run(copy)
    assert done.exit_code == 1
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found["weights"]["status"] == found["loads"]["status"] == "fail"
    assert "damaged" in found["weights"]["detail"]
    assert found["tokenizer"]["status"] == "pass"


def test_a_vocabulary_beyond_the_embeddings_fails(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "small", vocab_size=390)
    found = statuses(folder)
    assert (found["tokenizer"], found["loads"]) == ("fail", "fail")


def test_another_reward_token_than_the_tokenizers_fails(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "reward_token_id": 77}))
    assert statuses(copy)["control tokens"] == "fail"


def test_a_separator_that_no_tokenizer_knows_fails(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text().replace("<|reward|>", "<|other|>"))
    assert statuses(copy)["control tokens"] == "fail"


def test_a_folder_that_is_none_is_one_line() -> None:
    done = run("no/such/model")
    assert done.exit_code == 2
    assert "'no/such/model' is not a directory" in done.stderr


def test_published_examples_are_for_the_published_model(golden: Path) -> None:
    config = load_config(golden / "model" / "gqa")
    assert not is_polar_7b("POLAR-7B", config)
