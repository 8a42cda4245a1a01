"""The stub engine: a pure function of the ids, another one with another salt."""

from __future__ import annotations

import threading
from pathlib import Path

from sample_records import GROUPS

from polar_ray.config import ScorerConfig, StubEngineConfig
from polar_ray.records import provenance
from polar_ray.scorer import Scorer


def test_a_salt_stands_for_another_model(tiny_dir: Path) -> None:
    first, again, other = (
        Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig(salt=salt))).score(GROUPS)
        for salt in (0, 0, 1)
    )
    assert first.equals(again)
    pairs = zip(first["score"].to_pylist(), other["score"].to_pylist(), strict=True)
    assert all(one != two for one, two in pairs)
    assert provenance(first)["model_digest"] != provenance(other)["model_digest"]


def test_a_failing_token_spoils_its_record_alone(tiny_dir: Path) -> None:
    plain = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    token = plain.encoder.tokenizer.encode("\x00")[0]
    engine = StubEngineConfig(failing_token=token)
    broken = Scorer(ScorerConfig(model=str(tiny_dir), engine=engine))
    rows = [dict(record) for record in GROUPS]
    rows[2]["output"] += "\x00"
    found, expected = broken.score(rows)["error"].to_pylist(), [None] * len(rows)
    assert found[2].startswith("engine_error: RuntimeError: ")
    assert found[:2] + found[3:] == expected[1:]


def test_a_hanging_token_never_comes_back(tiny_dir: Path) -> None:
    plain = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    token = plain.encoder.tokenizer.encode("\x00")[0]
    engine = StubEngineConfig(hanging_token=token)
    hanging = Scorer(ScorerConfig(model=str(tiny_dir), engine=engine))
    assert hanging.score(GROUPS).equals(plain.score(GROUPS))
    row = {**GROUPS[0], "output": "\x00"}
    thread = threading.Thread(target=hanging.score, args=([row],), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
