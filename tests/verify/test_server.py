"""`polar-ray verify MODEL --server URL`: what is wrong with a server is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_server import Score, Server, serving
from typer.testing import CliRunner, Result

from polar_ray.cli import cli
from polar_ray.config import NativeEngineConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.engine.diagnosis import diagnose, known_faults
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Scores
from polar_ray.engine.questions import alone
from polar_ray.verify import suite


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> NativeEngine:
    return NativeEngine(NativeEngineConfig(), tiny_dir)


def run(model: Path, url: str, kind: str, *more: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(model), "--server", url, "--type", kind, *more])


def details(done: Result) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(one["status"], one["detail"]) for one in found]


@pytest.mark.parametrize("kind", ["sglang", "vllm", "lmdeploy"])
def test_a_sound_server_passes(tiny_dir: Path, engine: NativeEngine, kind: str) -> None:
    with serving(Server(kind, tiny_dir, alone(engine))) as url:
        done = run(tiny_dir, url, kind, "--tolerance", "1e-4")
    assert done.exit_code == 0, done.output
    assert [status for status, _ in details(done)] == ["pass", "pass"]


def sigmoid(scores: Scores) -> Scores:
    return 1 / (1 + np.exp(-scores))


def test_vllm_is_squashed_unless_it_is_told_not_to(tiny_dir: Path, engine: NativeEngine) -> None:
    server = Server("vllm", tiny_dir, alone(engine))
    server.fault = lambda scores, activated: sigmoid(scores) if activated else scores
    with serving(server) as url:
        done = run(tiny_dir, url, "vllm", "--tolerance", "1e-3")
    assert done.exit_code == 1
    (good, _), (bad, why) = details(done)
    assert (good, bad) == ("pass", "fail")
    assert why.startswith('squashed by a sigmoid; send "use_activation": false')


def test_a_tokenizer_that_splits_control_tokens_is_named(
    tiny_dir: Path, engine: NativeEngine
) -> None:
    with serving(Server("lmdeploy", tiny_dir, alone(engine), splits=True)) as url:
        done = run(tiny_dir, url, "lmdeploy", "--tolerance", "1e-3")
    (good, _), (bad, why) = details(done)
    assert (good, bad) == ("pass", "fail")
    assert why.startswith("wrong token ids")


@pytest.mark.parametrize("squashes", [False, True])
def test_a_tokenizer_that_leaves_bos_out_is_named(
    tiny_dir: Path, engine: NativeEngine, squashes: bool
) -> None:
    server = Server("vllm", tiny_dir, alone(engine))
    server.begins = False
    server.fault = lambda scores, on: sigmoid(scores) if squashes and on else scores
    with serving(server) as url:
        done = run(tiny_dir, url, "vllm", "--tolerance", "1e-3")
    (good, _), (bad, why) = details(done)
    assert (good, bad) == ("pass", "fail")
    assert why.startswith("wrong token ids: BOS is missing")
    assert ("use_activation" in why) is squashes


def test_a_refused_length_is_a_shorter_window(tiny_dir: Path, engine: NativeEngine) -> None:
    server = Server("vllm", tiny_dir, alone(engine))
    server.window = 100
    with serving(server) as url:
        done = run(tiny_dir, url, "vllm")
        server.window = 0
        nothing = run(tiny_dir, url, "vllm")
    assert [status for status, _ in details(done)] == ["fail", "fail"]
    for _, why in details(done):
        assert why.startswith("a shorter window: ")
        assert "answered 400: maximum context length is 100 tokens, not" in why
    assert all("window" not in why for _, why in details(nothing))


def test_text_that_is_wrong_in_all_lengths_tells_of_no_window() -> None:
    truth = np.array([1.0, -2.0, 3.0], dtype=np.float32)
    found = np.array([-1.0, 3.0, 1.0], dtype=np.float32)
    said = diagnose(found, truth, [], [28, 30, 99], tolerance=0.1)
    assert said is not None
    assert "window" not in said
    said = diagnose(truth + np.array([0, 0, 0.2]), truth, [], [28, 30, 99], tolerance=0.1)
    assert said is not None
    assert "rounded to a coarser type" in said
    said = diagnose(np.array([1.0, -2.0, 1.0]), truth, [], [28, 30, 99], tolerance=0.1)
    assert said is not None
    assert "all of 99 tokens or more: a shorter window" in said


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (sigmoid, "squashed by a sigmoid"),
        (np.sign, "normalised"),
        (np.negative, "of the other sign"),
        (np.zeros_like, "does not reach the model"),
        (lambda scores: scores * np.nan, "not finite"),
        (lambda scores: scores * 1.5, "in the right order"),
        (lambda scores: np.sort(scores), "other weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_of_scores_are_named(
    tiny_dir: Path, engine: NativeEngine, fault: Callable[[Scores], Scores], named: str
) -> None:
    server = Server("sglang", tiny_dir, alone(engine))
    server.fault = lambda scores, activated: fault(scores)
    with serving(server) as url:
        done = run(tiny_dir, url, "sglang", "--tolerance", "1e-3")
    assert done.exit_code == 1
    assert named in details(done)[0][1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("unrotated", "wrong rotary table: no position"),
        ("theta", "wrong rotary table: "),
        ("unended", "read one token too early"),
        ("first", "read at the first token"),
        ("doubled", "BOS stands there twice"),
        ("window", "a shorter window"),
        ("random", "not repeatable"),
    ],
)
def test_faults_of_the_forward_are_named(
    tiny_dir: Path, engine: NativeEngine, change: str, named: str
) -> None:
    truth, unrotated = alone(engine), alone(engine, rotate=False)
    bos = load_tokenizer(tiny_dir).bos_id
    random = np.random.default_rng(0)
    changes: dict[str, Score] = {
        "unrotated": unrotated,
        "theta": lambda ids: truth(ids) * 0.3 + unrotated(ids) * 0.7,
        "unended": lambda ids: truth([i[:-1] if len(i) > 1 else i for i in ids]),
        "first": lambda ids: truth([i[:1] for i in ids]),
        "doubled": lambda ids: truth([np.insert(i, 0, bos) for i in ids]),
        "window": lambda ids: truth([i if len(i) < 64 else i[-32:] for i in ids]),
        "random": lambda ids: truth(ids) + random.normal(size=len(ids)).astype(np.float32),
    }
    with serving(Server("sglang", tiny_dir, changes[change])) as url:
        done = run(tiny_dir, url, "sglang", "--tolerance", "1e-3")
    assert done.exit_code == 1
    assert named in details(done)[0][1]


def test_rounding_within_the_tolerance_passes(tiny_dir: Path, engine: NativeEngine) -> None:
    server = Server("sglang", tiny_dir, alone(engine))
    server.fault = lambda scores, activated: scores.astype(np.float16)
    with serving(server) as url:
        assert run(tiny_dir, url, "sglang").exit_code == 0


def test_a_checkpoint_without_a_tokenizer_is_compared_by_ids(golden: Path, tiny_dir: Path) -> None:
    folder = golden / "model" / "gqa"
    engine = NativeEngine(NativeEngineConfig(), folder)
    with serving(Server("sglang", tiny_dir, alone(engine))) as url:
        done = run(folder, url, "sglang", "--tolerance", "1e-4")
    assert [status for status, _ in details(done)] == ["pass", "skip"]


def test_what_is_no_such_server_is_said(tiny_dir: Path, engine: NativeEngine) -> None:
    with serving(Server("lmdeploy", tiny_dir, alone(engine))) as url:
        done = run(tiny_dir, url, "vllm")
    assert "shape" in details(done)[0][1]
    done = run(tiny_dir, "http://127.0.0.1:9", "vllm")
    assert [status for status, _ in details(done)] == ["fail", "fail"]
    done = CliRunner().invoke(cli, ["verify", str(tiny_dir), "--server", "http://x"])
    assert done.exit_code == 2


def test_a_fault_that_looks_like_the_truth_explains_nothing() -> None:
    truth = np.array([1.0, 1.0], dtype=np.float32)
    same = dict.fromkeys(("unrotated", "unended", "first", "doubled", "unbegun"), truth)
    faults = known_faults(truth, same)
    assert diagnose(truth, truth, faults, [2, 3], tolerance=0.1) is None
    said = diagnose(truth + 0.5, truth, faults, [2, 3], tolerance=0.1)
    assert said is not None
    assert "normalised" not in said


def test_what_a_fault_says_last_is_no_double_dot(
    tiny_dir: Path, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "diagnose", lambda *given, **more: "they are odd.")
    with serving(Server("sglang", tiny_dir, alone(engine))) as url:
        done = run(tiny_dir, url, "sglang")
    assert "they are odd. If token ids" in done.stdout
    assert ".." not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--served-name", "x", "--tolerance", "1"], "--served-name, --tolerance: for a server"),
        (["--server", "http://x", "--type", "vllm", "--golden", "g"], "--golden is for a checkpoi"),
        (["--server", "http://x"], "--server and --type go together"),
        (["--server", "http://x", "--type", "vllm", "--tolerance", "nan"], "--tolerance nan: it"),
    ],
)
def test_what_nobody_would_hear_of_is_refused(
    tiny_dir: Path, options: list[str], message: str
) -> None:
    done = CliRunner().invoke(cli, ["verify", str(tiny_dir), *options])
    assert done.exit_code == 2
    assert message in done.stderr
