"""What sglang is started with, by its settings; GPUs are known here by their arguments alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from pydantic import ValidationError

from polar_ray.config import ScorerConfig, SGLangEngineConfig
from polar_ray.engine import check_engine, fits_beside
from polar_ray.engine.sglang import child
from polar_ray.engine.sglang.arguments import environment, server_args
from polar_ray.engine.sglang.log import Log
from polar_ray.engine.sglang.view import make_view
from polar_ray.errors import ConfigError
from polar_ray.model import load_config

VIEW = Path("/view")


def resolved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> dict[str, object]:
    """Arguments of sglang's, on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    config = SGLangEngineConfig(**settings)  # type: ignore[arg-type]
    return child.resolve(server_args(config, load_config(folder), VIEW))


ALWAYS = {
    "model_path": "/view",
    "context_length": 2056,
    "is_embedding": True,
    "skip_tokenizer_init": True,
    "log_level": "info",
}


def test_on_a_gpu(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolved(
        tiny_dir,
        monkeypatch,
        tensor_parallel_size=4,
        data_parallel_size=2,
        mem_fraction=0.8,
        max_total_tokens=100_000,
        server_args={"chunked_prefill_size": "4096", "schedule_policy": "lpm"},
    )
    assert found == {
        **ALWAYS,
        "device": "cuda",
        "dtype": "bfloat16",
        "tp_size": 4,
        "dp_size": 2,
        "mem_fraction_static": 0.8,
        "max_total_tokens": 100_000,
        "chunked_prefill_size": 4096,
        "schedule_policy": "lpm",
    }
    assert "SGLANG_USE_CPU_ENGINE" not in os.environ


def test_on_a_cpu(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved(tiny_dir, monkeypatch, device="cpu") == {
        **ALWAYS,
        "device": "cpu",
        "dtype": "float32",
        "tp_size": 1,
        "dp_size": 1,
        "attention_backend": "torch_native",
        "max_total_tokens": 4104,
    }
    assert os.environ["SGLANG_USE_CPU_ENGINE"] == "1"
    other = {"attention_backend": "intel_amx"}
    found = resolved(tiny_dir, monkeypatch, device="cpu", dtype="bfloat16", server_args=other)
    assert (found["attention_backend"], found["dtype"]) == ("intel_amx", "bfloat16")


def test_a_missing_gpu_is_said(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = server_args(SGLangEngineConfig(device="cuda"), load_config(tiny_dir), VIEW)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA device"):
        child.resolve(arguments)


def test_records_are_no_longer_than_the_model_reads(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "long", max_position_embeddings=1 << 18)
    shape = load_config(folder)
    lengths = [
        server_args(SGLangEngineConfig(context_length=given), shape, VIEW)["context_length"] - 8
        for given in (None, 100_000)
    ]
    assert lengths == [17408, 100_000]
    with pytest.raises(ConfigError, match="over the model's window of 262144"):
        check_engine(SGLangEngineConfig(context_length=1 << 20), folder)


def test_nothing_of_our_python_gets_into_its_environment() -> None:
    own = {"PYTHONPATH": "/ours", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "3", "TMPDIR": "/big"}
    found = environment(SGLangEngineConfig(num_threads=2), own, Path("/folder"))
    assert found == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": "/folder/modules",
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        "TMPDIR": "/folder",
    }


def test_more_arguments_come_as_text_or_numbers() -> None:
    config = ScorerConfig.model_validate(
        {
            "engine.type": "sglang",
            "engine.server_args.chunked_prefill_size": "512",
            "engine.server_args.disable_overlap_schedule": "true",
            "engine.server_args.schedule_policy": "lpm",
            "engine.server_args.schedule_conservativeness": 0.5,
        }
    )
    assert isinstance(config.engine, SGLangEngineConfig)
    assert config.engine.server_args == {
        "chunked_prefill_size": 512,
        "disable_overlap_schedule": True,
        "schedule_policy": "lpm",
        "schedule_conservativeness": 0.5,
    }
    assert hash(config) == hash(ScorerConfig.model_validate(config.model_dump()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"server_args": {"model_path": "x", "tp_size": 2}}, "has model_path, tp_size, which"),
        ({"max_total_tokens": 1000, "context_length": 1000}, "at least 8 above"),
        ({"mem_fraction": 1}, "less than 1"),
        ({"start_timeout_s": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SGLangEngineConfig(**settings)  # type: ignore[arg-type]


def test_a_second_sglang_never_stands_beside_the_first(tiny_dir: Path) -> None:
    assert not fits_beside(SGLangEngineConfig(), tiny_dir)


def test_a_view_has_the_weights_and_no_code_but_ours(tiny_dir: Path, tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    for path in tiny_dir.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    theirs = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (model / "config.json").write_text(json.dumps({**config, "auto_map": theirs}))
    (model / "theirs.py").write_text("raise SystemExit")
    view = make_view(model, tmp_path / "view")
    names = {"config.json", "configuration_internlm2.py", "model.safetensors"}
    assert {path.name for path in view.iterdir()} == names
    assert (view / "model.safetensors").samefile(model / "model.safetensors")
    seen = json.loads((view / "config.json").read_text())
    assert seen.pop("auto_map") == {"AutoConfig": "configuration_internlm2.InternLM2Config"}
    assert seen == {**config, "pad_token_id": None}


def test_the_log_tells_what_was_computed() -> None:
    log = Log()
    log.read(
        [
            "[2026-11-22 19:43:18] Prefill batch, #new-seq: 1, #new-token: 221, "
            "#cached-token: 0, token usage: 0.01, #running-req: 0\n",
            "[2026-11-22 19:43:18 TP0] Prefill batch [7], #new-seq: 15, #new-token: 315, "
            "#cached-token: 3000, token usage: 0.01\n",
            "loading ...\n",
            "\n",
            "x" * 400 + "\n",
        ]
    )
    assert (log.forwards, log.tokens_computed, log.tokens_cached) == (2, 536, 3000)
    assert log.text == "loading ...\n" + "x" * 400
    assert log.gist == "its log ends: loading ... | " + "x" * 300
    assert Log().gist == "it has logged nothing"
