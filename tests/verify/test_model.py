"""`polar-ray verify MODEL`: sound checkpoints pass, and each kind of damage fails its check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from polar_ray.assets import builtin_model_dir
from polar_ray.cli import cli
from polar_ray.config import EngineConfig, NativeEngineConfig, ScorerConfig, StubEngineConfig
from polar_ray.model import ModelConfig, load_config
from polar_ray.model.config import to_json
from polar_ray.scorer import Scorer
from polar_ray.scores import provenance
from polar_ray.verify import verify_model
from polar_ray.verify.check import Failed, Skip
from polar_ray.verify.published import POLAR, compare, is_polar_7b
from polar_ray.verify.reference import LlamaReference
from polar_ray.verify.samples import RECORDS

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
    assert skipped == {
        "known answers",
        "published config",
        "published examples",
        "values beside weights",
    }
    assert len(found) == 14
    assert "largest difference" in found["native = transformers"]["detail"]


@pytest.mark.parametrize("engine", [NativeEngineConfig(dtype="bfloat16"), StubEngineConfig()])
def test_the_digest_is_that_of_the_scores_provenance(tiny_dir: Path, engine: EngineConfig) -> None:
    config = ScorerConfig(model=str(tiny_dir), engine=engine)
    scores = Scorer(config).score(RECORDS)
    [found] = [one for one in verify_model(config) if one.name == "digest"]
    assert found.detail.split(",")[0] == provenance(scores)["model_digest"]


def test_what_is_skipped_is_counted(tiny_dir: Path) -> None:
    assert run(tiny_dir).stderr.splitlines()[-1] == (
        "14 checks: 10 passed, 0 failed, 4 skipped "
        "(published config, known answers, published examples, values beside weights)"
    )


def test_the_built_in_model_passes() -> None:
    done = run("builtin")
    assert done.exit_code == 0, done.output
    found = {one["name"]: one["status"] for one in map(json.loads, done.stdout.splitlines())}
    assert found["published config"] == found["values beside weights"] == "pass"


def test_another_rope_theta_beside_known_weights_fails(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(builtin_model_dir(), tmp_path / "copy"))
    with_value(folder, rope_theta=123)
    with pytest.raises(Failed, match=r"rope_theta=123.0, but 10000000000.0 as published"):
        compare(folder)


def test_another_rope_theta_beside_unknown_weights_is_said_to_be_unproven(copy: Path) -> None:
    with_value(copy, rope_theta=123)
    found = {one.name: one for one in verify_model(ScorerConfig(model=str(copy)))}
    assert found["published config"].status == "skip"
    assert found["values beside weights"].status == "skip"
    assert "rope_theta=123.0" in found["values beside weights"].detail


def test_polars_published_values_are_compared_by_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.verify.published.weights_digest", lambda folder: str(folder))
    known = {**POLAR["POLAR-7B"], "max_position_embeddings": 32768}
    save_config(tmp_path, **known)
    assert "digest of its published weights is not known" in compare(tmp_path)
    save_config(tmp_path, **{**known, "num_attention_heads": 16, "num_key_value_heads": 4})
    with pytest.raises(Failed, match=r"num_attention_heads=16, but 32 as published of POLAR-7B"):
        compare(tmp_path)
    save_config(tmp_path, **{**known, "vocab_size": 92545})
    with pytest.raises(Skip, match="nothing is published here"):
        compare(tmp_path)


@pytest.mark.parametrize("name", ["gqa", "rope_dynamic"])
def test_known_answers_need_no_tokenizer(golden: Path, name: str) -> None:
    folder = golden / "model" / name
    done = run(folder, "--golden", folder / "rewards.json")
    assert done.exit_code == 0, done.output
    found = {one["name"]: one["status"] for one in map(json.loads, done.stdout.splitlines())}
    text = {"tokenizer", "control tokens", "text stays text"}
    assert {found.pop(name) for name in text} == {"skip"}
    assert found["known answers"] == found["values beside weights"] == "pass"
    assert "fail" not in found.values()


def test_a_checkpoint_without_a_tokenizer_does_not_load(golden: Path) -> None:
    found = statuses(golden / "model" / "gqa")
    assert found["tokenizer"] == "skip"
    assert found["loads"] == "fail"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold a JSON object"),
        ("{}", "cases is missing"),
        ('{"cases": [1]}', "cases.0=1"),
        ('{"cases": []}', "cases="),
        ('{"cases": [{"input_ids": [1], "reward": null}]}', "cases.0.reward=None"),
        ('{"cases": [{"input_ids": [], "reward": 1}]}', "cases.0.input_ids="),
    ],
)
def test_known_answers_that_are_none_are_one_line(
    tiny_dir: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "golden.json"
    path.write_text(text)
    done = run(tiny_dir, "--golden", path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {path}")
    assert message in done.stderr


def test_known_answers_beyond_the_vocabulary_fail(tiny_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text('{"cases": [{"input_ids": [1, 400], "reward": 1}]}')
    assert statuses(tiny_dir, path)["known answers"] == "fail"


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


def with_value(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def save_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps(to_json(ModelConfig(**values))))


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


def test_weights_that_are_none_are_not_hashed(copy: Path) -> None:
    with (copy / "model.safetensors").open("wb") as file:
        file.truncate(1 << 36)
    done = run(copy)
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert (done.exit_code, found["weights"]["status"]) == (1, "fail")
    assert found["published config"]["status"] == "skip"


def test_a_vocabulary_beyond_the_embeddings_fails(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "small", vocab_size=390)
    found = statuses(folder)
    assert (found["tokenizer"], found["loads"]) == ("fail", "fail")


def test_another_reward_token_than_the_tokenizers_fails(copy: Path) -> None:
    with_value(copy, reward_token_id=77)
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
