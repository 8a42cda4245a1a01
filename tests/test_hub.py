"""Models by name, from a hub on this machine: what is fetched, and what is said where that fails.

huggingface_hub reads its environment when it is imported, so each fetch has a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub

from polar_ray.checkpoint import model_dir
from polar_ray.errors import ConfigError
from polar_ray.hub import is_name, model_name, pinned
from polar_ray.model.weights import check_model

REPO = "internlm/POLAR-tiny"
CODE = "modeling_internlm2.py"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def checkpoint(tiny_dir: Path, tmp_path: Path) -> Path:
    """One with what repositories have beside it."""
    folder = shutil.copytree(tiny_dir, tmp_path / "checkpoint")
    for name in (CODE, "pytorch_model.bin", "README.md"):
        (folder / name).write_text("raise SystemExit")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_text("not this one")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The cache of a machine."""
    return tmp_path / "home"


def start(hub: Hub, home: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    """Python that sees this hub and no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={
            **kept,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(hub: Hub, home: Path, script: str, **environment: str) -> str:
    """What the script prints last."""
    process = start(hub, home, script, **environment)
    printed, logged = process.communicate(timeout=120)
    assert process.returncode == 0, logged
    return printed.strip().splitlines()[-1]


SCORE = """
import json
from polar_ray.config import ScorerConfig
from polar_ray.scorer import Scorer
record = {"prompt": "1 + 1 =", "reference": "2", "output": "2"}
result = Scorer(ScorerConfig(model=%r, max_tokens=256)).score([record])
meta = {k.decode(): v.decode() for k, v in result.schema.metadata.items()}
print(json.dumps([result["score"][0].as_py(), meta]))
"""

FETCH = """
from polar_ray.checkpoint import model_dir
from polar_ray.errors import ConfigError
try:
    print(model_dir(%r))
except ConfigError as error:
    print(error)
"""


def test_a_model_by_name_scores_as_its_directory_does(
    hub: Hub, home: Path, checkpoint: Path
) -> None:
    commit = hub.add(REPO, checkpoint)
    score, found = json.loads(run(hub, home, SCORE % REPO))
    expected, known = json.loads(run(hub, home, SCORE % str(checkpoint)))
    assert score == expected
    where = next(key for key, value in found.items() if value == f"{REPO}@{commit}")
    assert {**found, where: known[where]} == known  # the digest among them
    assert sorted(hub.fetched()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_what_is_in_the_cache_needs_no_hub(hub: Hub, home: Path, checkpoint: Path) -> None:
    commit = hub.add(REPO, checkpoint)
    folder = run(hub, home, FETCH % REPO)
    assert Path(folder).name == commit
    hub.asked.clear()
    for model in (REPO, f"{REPO}@{commit}"):
        assert run(hub, home, FETCH % model, HF_HUB_OFFLINE="1") == folder
    assert hub.asked == []
    assert run(hub, home, FETCH % REPO, HF_ENDPOINT="http://127.0.0.1:9") == folder


def test_a_revision_is_what_is_asked_for(
    hub: Hub, home: Path, checkpoint: Path, other_dir: Path
) -> None:
    first = hub.add(REPO, checkpoint)
    hub.add(REPO, other_dir, "v2/final")
    assert Path(run(hub, home, FETCH % f"{REPO}@{first}")).name == first
    second = hub.refs[REPO]["v2/final"]
    assert Path(run(hub, home, FETCH % f"{REPO}@v2/final")).name == second


def test_a_directory_of_the_name_comes_first(
    hub: Hub, home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, checkpoint)
    shutil.copytree(checkpoint, tmp_path / "work" / REPO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.chdir(tmp_path / "work")
    assert not is_name(REPO)
    assert run(hub, home, FETCH % REPO) == REPO
    assert hub.asked == []


def test_processes_that_fetch_at_once_do_not_spoil_it(
    hub: Hub, home: Path, checkpoint: Path
) -> None:
    hub.add(REPO, checkpoint)
    both = [start(hub, home, SCORE % REPO) for _ in range(3)]
    printed = {process.communicate(timeout=120)[0].splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0, 0]
    assert len(printed) == 1
    assert hub.fetched().count("model.safetensors") == 1


def test_every_failure_says_what_to_do(hub: Hub, home: Path, checkpoint: Path) -> None:
    hub.add(REPO, checkpoint)

    def said(model: str, **environment: str) -> str:
        return run(hub, home, FETCH % model, **environment)

    assert "is not to be seen on http://127.0.0.1" in said("internlm/POLAR-huge")
    assert "has no branch, tag or commit 'v9'" in said(f"{REPO}@v9")
    assert "HF_HUB_OFFLINE forbids" in said(REPO, HF_HUB_OFFLINE="1")
    assert "127.0.0.1:9 cannot be asked" in said(REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert "is not a directory" in said("nowhere/to/be/found")
    assert "has no valid name" in said("internlm/POLAR..tiny")
    assert said(f"{REPO}@v9").startswith(f"model='{REPO}@v9' is not a directory, and as a hub's")


def test_a_silent_hub_is_not_waited_for(hub: Hub, home: Path, checkpoint: Path) -> None:
    hub.add(REPO, checkpoint)
    script = "import polar_ray.hub\npolar_ray.hub.PIN_TIMEOUT_S = 0.5\n" + FETCH % REPO
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = run(hub, home, script, HF_ENDPOINT=url)
        assert f"{url} cannot be asked" in told
        assert "Timeout" in told
        folder = run(hub, home, FETCH % REPO)
        assert run(hub, home, script, HF_ENDPOINT=url) == folder


def test_what_is_fetched_is_logged_once(hub: Hub, home: Path, checkpoint: Path) -> None:
    commit = hub.add(REPO, checkpoint)
    logged = [start(hub, home, FETCH % REPO).communicate(timeout=120)[1] for _ in range(2)]
    assert f"fetching {REPO}@{commit} from {hub.url}" in logged[0]
    assert "fetching" not in logged[1]


def test_a_file_cut_short_in_the_cache_is_fetched_again_once_deleted(
    hub: Hub, home: Path, checkpoint: Path
) -> None:
    hub.add(REPO, checkpoint)
    folder = Path(run(hub, home, FETCH % REPO))
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=f"Delete {blob}: a model by name is then fetched"):
        check_model(folder)
    blob.unlink()
    run(hub, home, FETCH % REPO)
    assert check_model(folder) > 0


def test_an_empty_name_is_not_this_folder() -> None:
    with pytest.raises(ConfigError, match="model='' names no directory"):
        model_dir("")


def test_a_gated_model_needs_a_token(hub: Hub, home: Path, checkpoint: Path) -> None:
    commit = hub.add(REPO, checkpoint)
    hub.gated.add(REPO)
    assert "is gated; accept its terms" in run(hub, home, FETCH % REPO)
    assert Path(run(hub, home, FETCH % REPO, HF_TOKEN=hub.token)).name == commit


def test_pickles_are_not_fetched(hub: Hub, home: Path, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    hub.add(REPO, checkpoint)
    assert "no weights in safetensors, and pickles" in run(hub, home, FETCH % REPO)
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_download_that_broke_off_goes_on(hub: Hub, home: Path, checkpoint: Path) -> None:
    commit = hub.add(REPO, checkpoint)
    hub.cut_after = 1000
    told = run(hub, home, FETCH % REPO)
    assert "could not be fetched" in told
    assert "goes on from there" in told
    assert "model=" in run(hub, home, FETCH % REPO, HF_HUB_OFFLINE="1")
    hub.cut_after = None
    assert Path(run(hub, home, FETCH % REPO)).name == commit


def test_a_pool_is_pinned_to_the_commit_of_its_start(
    hub: Hub, home: Path, checkpoint: Path, other_dir: Path
) -> None:
    script = (
        "from polar_ray.pool.app import app\n"
        "from polar_ray.config import PoolConfig\n"
        f"router = app(PoolConfig(model={REPO!r}))._bound_deployment\n"
        "print(router.init_args[1]._bound_deployment._deployment_config.user_config['model'])"
    )
    first = hub.add(REPO, checkpoint)
    assert run(hub, home, script) == f"{REPO}@{first}"
    # Who only looks fetches nothing.
    assert hub.fetched() == []
    second = hub.add(REPO, other_dir)
    assert run(hub, home, script) == f"{REPO}@{second}"
    assert run(hub, home, script, HF_ENDPOINT="http://127.0.0.1:9") == REPO


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("internlm/POLAR-7B", True),
        ("internlm/POLAR-7B@main", True),
        ("a_b/c.d-e@refs/pr/1", True),
        ("POLAR-7B", False),
        ("/models/POLAR-7B", False),
        ("./POLAR-7B", False),
        ("../models/POLAR", False),
        ("a/b/c", False),
        ("a/b@", False),
        ("", False),
    ],
)
def test_what_could_be_a_name(model: str, name: bool) -> None:
    assert is_name(model) is name


def test_only_names_without_a_commit_are_pinned(tiny_dir: Path) -> None:
    for model in (None, str(tiny_dir), f"{REPO}@{'a' * 40}", "relative/to/a/worker"):
        assert pinned(model) == model


def test_a_checkpoints_name_is_that_of_its_repository(tmp_path: Path) -> None:
    assert model_name(Path("/models/POLAR-7B")) == "POLAR-7B"
    folder = tmp_path / "models--internlm--POLAR-7B" / "snapshots" / ("0" * 40)
    assert model_name(folder) == f"internlm/POLAR-7B@{'0' * 40}"
