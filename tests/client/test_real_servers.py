"""RewardModelClient at the real sglang and the real vllm: text in, our own engine's scores out.

POLAR_RAY_SGLANG and POLAR_RAY_VLLM name the environments that have them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from checkpoints import make_checkpoint
from sample_records import GROUPS

from polar_ray import RewardModelClient
from polar_ray.config import ScorerConfig
from polar_ray.errors import RecordError
from polar_ray.pool.http.port import free_port
from polar_ray.scorer import Scorer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"
"""
COMMANDS = {
    "sglang": (
        "-m sglang.launch_server --model-path {model} --port {port} --device cpu --dtype float32 "
        "--attention-backend torch_native --is-embedding --trust-remote-code "
        "--context-length 1024 --max-total-tokens 8192 --log-level warning"
    ),
    "vllm": (
        "-m vllm.entrypoints.cli.main serve {model} --port {port} --runner pooling "
        "--trust-remote-code --dtype float32 --enforce-eager --max-model-len 1024"
    ),
}
NEEDS = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "no_proxy": "127.0.0.1",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As those servers load it: with a config class and a tokenizer that puts BOS first."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    folder = make_checkpoint(
        tmp_path_factory.mktemp("served") / "tiny", hidden_size=128, intermediate_size=128
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(str(folder / "served"))
    (folder / "configuration_internlm2.py").write_text(CONFIG)
    path = folder / "config.json"
    auto = {"AutoConfig": "configuration_internlm2.InternLM2Config"}
    more = {"auto_map": auto, "torch_dtype": "float32", "tie_word_embeddings": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return folder


@pytest.fixture(scope="module", params=["sglang", "vllm"])
def server(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Its kind and address."""
    kind, port = request.param, free_port()
    environment = os.environ.get(f"POLAR_RAY_{kind.upper()}")
    if environment is None:
        pytest.skip(f"POLAR_RAY_{kind.upper()} names no environment with {kind}")
    model = tmp_path_factory.mktemp(kind) / "tiny"
    model.mkdir()
    for path in [*checkpoint.glob("*.*"), *(checkpoint / "served").iterdir()]:
        (model / path.name).unlink(missing_ok=True)
        (model / path.name).write_bytes(path.read_bytes())
    words = COMMANDS[kind].format(model=model, port=port).split()
    log = (model / "log").open("w")
    python = Path(environment) / "bin" / "python"
    process = subprocess.Popen(
        [str(python), *words],
        env={**os.environ, **NEEDS, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", model / "log")
        yield kind, f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    while process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


def test_text_is_scored_as_by_our_own_engine(server: tuple[str, str], checkpoint: Path) -> None:
    kind, address = server
    client = RewardModelClient(checkpoint, 1024, 256, server_type=kind, server_address=address)
    rows = [*GROUPS, {**GROUPS[0], "wrapper": "pretrain"}]
    expected = Scorer(ScorerConfig(model=str(checkpoint))).score(rows)["score"].to_pylist()
    assert client(rows) == pytest.approx(expected, abs=1e-4)
    assert client(rows[0]) == pytest.approx(expected[:1], abs=1e-4)
    long = {**GROUPS[0], "output": "b " * 3000}
    wide = RewardModelClient(checkpoint, 16384, 4096, server_type=kind, server_address=address)
    with pytest.raises(RecordError, match="answered 4"):
        wide(long)
