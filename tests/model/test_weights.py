"""Checkpoint directories: what is wrong is named, nothing is executed, nothing is copied twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polar_ray.errors import ConfigError
from polar_ray.model import digest, load_model, save_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tiny_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return shutil.copytree(tiny_dir, tmp_path / "copy")


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(path)).items()}, path)


HEAD = "v_head.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != HEAD}, "lacks 1 tensor.*v_head.weight"),
        (lambda t: {**t, "lm_head.weight": t[HEAD]}, "'lm_head.weight', which this model does not"),
        (lambda t: {**t, HEAD: torch.zeros(2, 32)}, r"'v_head.weight' has shape \(2, 32\)"),
        (lambda t: {**t, HEAD: torch.zeros(1, 32, dtype=torch.int64)}, "not a floating-point"),
    ],
    ids=["missing", "extra", "misshapen", "integer"],
)
def test_a_wrong_tensor_is_named(
    checkpoint: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    rewrite(checkpoint, change)
    with pytest.raises(ConfigError, match=message):
        load_model(checkpoint)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_a_truncated_file_is_named(checkpoint: Path, keep: float) -> None:
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        load_model(checkpoint)


def test_pickle_files_are_never_loaded(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickle files .* are never loaded"):
        load_model(checkpoint)


def shard(folder: Path) -> None:
    """Splits a checkpoint into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_sharded_checkpoints_load_alike(checkpoint: Path, tiny_dir: Path) -> None:
    shard(checkpoint)
    whole, parts = load_model(tiny_dir).state_dict(), load_model(checkpoint).state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    shard(checkpoint)
    (checkpoint / "model-1.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model-1\.safetensors is missing"):
        load_model(checkpoint)


def test_an_index_cannot_leave_its_folder(checkpoint: Path) -> None:
    for name in ("../other/model.safetensors", "..", "", "config.json", "x" * 300, 5, None):
        index = {"weight_map": {"v_head.weight": name}}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ConfigError, match=r"outside its folder|must name files"):
            load_model(checkpoint)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_an_index_that_places_a_weight_elsewhere_is_refused(checkpoint: Path, name: str) -> None:
    shard(checkpoint)
    path = checkpoint / "model.safetensors.index.json"
    places = json.loads(path.read_text())["weight_map"]
    other = {"model-0.safetensors": "model-1.safetensors"}.get(places.get(name, ""))
    places[name] = other or "model-0.safetensors"
    path.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ConfigError, match=f"places '{name}' in '{places[name]}'; "):
        load_model(checkpoint)


def test_saved_models_load_alike(tiny_dir: Path, tmp_path: Path) -> None:
    model = load_model(tiny_dir)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_weights_are_mapped_and_not_copied(tiny_dir: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux")
    model = load_model(tiny_dir)
    assert str(tiny_dir / "model.safetensors") in maps.read_text()
    del model


def test_other_bytes_have_another_digest_whatever_their_times_say(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    before, status = digest(path.parent), path.stat()
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    with path.open("r+b") as file:
        file.write(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(path.parent) != before


def test_dtype_is_changed_on_request(tiny_dir: Path) -> None:
    model = load_model(tiny_dir, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_the_digest_changes_with_anything_that_makes_a_score(
    checkpoint: Path, tiny_dir: Path
) -> None:
    assert digest(checkpoint) == digest(tiny_dir)
    assert digest(checkpoint, "float32") != digest(checkpoint, "bfloat16")
    rewrite(checkpoint, lambda tensors: {**tensors, HEAD: tensors[HEAD] * 1.01})
    assert digest(checkpoint) != digest(tiny_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "polar_ray scores with InternLM2ForRewardModel"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling type 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_factor=None"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
            "both of type 'linear' and of rope_type 'dynamic'",
        ),
        ({"quantization_config": {"bits": 4}}, "has a quantization_config"),
        ({"head_dim": 7}, "head_dim=7, but hidden_size over num_attention_heads is"),
        ({"rope_scaling": 5}, "rope_scaling=5 is no object"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' is no object"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads=3"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "no multiple of num_attention"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_attention_heads": 32, "num_key_value_heads": 32}, "heads of 1, which RoPE"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": 1e300}, "num_hidden_layers=1e[+]300"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"hidden_size": 2**60}, "hidden_size=1152921504606846976"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"architectures": 5}, "is for 5"),
        ({"reward_token_id": 400}, "reward_token_id=400 is outside the vocabulary of 400"),
        ({"vocab_size": None}, "vocab_size is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_cannot_work_is_named(
    checkpoint: Path, change: dict[str, object], message: str
) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        load_model(checkpoint)


def test_a_config_in_transformers_5s_words_is_refused(checkpoint: Path) -> None:
    # rope_theta would be 10000 without a word.
    path = checkpoint / "config.json"
    raw = json.loads(path.read_text())
    raw["rope_parameters"] = {"rope_theta": raw.pop("rope_theta"), "rope_type": "default"}
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="has rope_parameters"):
        load_model(checkpoint)


@pytest.mark.parametrize("depth", [1000, 2000, 1_000_000])
def test_deep_json_is_refused(checkpoint: Path, depth: int) -> None:
    # At 1000, orjson reads what Python's repr cannot write.
    deep = '{"a":' * depth + "1" + "}" * depth
    path = checkpoint / "config.json"
    path.write_text(path.read_text().replace('"vocab_size": 400', f'"vocab_size": {deep}'))
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_model(checkpoint)


def test_a_header_that_promises_gigabytes_is_not_read(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ConfigError, match="its header would have 1099511627776 bytes"):
        load_model(checkpoint)


def test_eight_bit_weights_without_their_scales_are_refused(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda t: {**t, HEAD: t[HEAD].to(torch.float8_e4m3fn)})
    with pytest.raises(ConfigError, match=r"'v_head\.weight' is F8_E4M3"):
        load_model(checkpoint)


def test_a_directory_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a checkpoint directory"):
        load_model(tmp_path)
