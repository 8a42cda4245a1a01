"""Mutated bodies in other servers' formats: an answer of their shape, or this project's 4xx."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient
from fuzz.mutations import LIMITS, mutate
from sample_records import GROUPS
from scorer_as_router import ScorerAsRouter

from polar_ray.config import PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.encoding import template
from polar_ray.errors import BY_NAME, HTTP_STATUS
from polar_ray.pool.http.formats import FORMATS
from polar_ray.pool.http.routes import build_http
from polar_ray.scorer import Scorer

BODIES = int(os.environ.get("FUZZ_FORMAT_BODIES", "20000"))
SOME = 400
PATHS = [path for known in FORMATS for path in known.paths]
TEXTS = [template.text(**row) for row in GROUPS]
HALVES = {"text_1": "Q?\na", "text_2": ["Q?\nb", "Q?\nc"]}
GOOD: list[dict[str, Any]] = [
    {"model": "m", "text": TEXTS[:3]},
    {"model": "m", "input": TEXTS[:3], "use_activation": False},
    {"input": TEXTS[0]},
    HALVES,
    {"query": "Q?\na", "documents": ["Q?\nb", "Q?\nc"], "top_n": 1},
    {"query": ["Q?b", "Q?c"], "prompts": ["Q?", "Q?"], "labels": ["a", "a"]},
    {"prompt": [{"role": "user", "content": "Q?"}], "response": "b", "label": "a"},
]


def numbers(value: Any) -> list[float]:
    """All numbers of an answer."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, int | float) else []


def check(http: TestClient, path: str, body: bytes) -> int:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    found = orjson.loads(answer.content)  # which knows no NaN
    if answer.status_code == 200:
        assert None not in numbers(found)
        return 200
    assert set(found) == {"error"}
    assert HTTP_STATUS[BY_NAME[found["error"]["type"]]] == answer.status_code
    assert 400 <= answer.status_code < 500, found
    assert len(answer.content) < 4000
    return answer.status_code


@pytest.fixture(scope="module")
def http(tiny_dir: Path) -> TestClient:
    stub = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    router = ScorerAsRouter(stub, PoolConfig(http=LIMITS))
    return TestClient(build_http(lambda: router), raise_server_exceptions=False)


def run(http: TestClient, count: int) -> None:
    chance = random.Random(20261122)
    seen = {200: 0, 422: 0, 413: 0}
    for _ in range(count):
        body = mutate(json.dumps(chance.choice(GOOD)).encode(), chance)
        seen[check(http, chance.choice(PATHS), body)] += 1
    assert seen[422] > seen[200] > 0


def test_mutated_bodies(http: TestClient) -> None:
    run(http, SOME)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_mutated_bodies(http: TestClient) -> None:
    run(http, BODIES)


HOSTILE = {
    "deep": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lists of nothing": b'{"text": [' + b"[]," * 900 + b"[]]}",
    "many values": b'{"text": ["x", [' + b"0," * 400_000 + b"0]]}",
    "many keys": b"{" + b",".join(b'"%d": 0' % at for at in range(50_000)) + b"}",
    "separators": orjson.dumps(
        {"text": "Q?\na" + template.SEPARATOR * 90_000 + "[UNUSED_TOKEN_130]"}
    ),
    "alike": orjson.dumps(
        {"text": ["a\n" + (template.SEPARATOR + "a\n") * 60_000 + "[UNUSED_TOKEN_130]"]}
    ),
    "ends": orjson.dumps({"query": ["Q" + "</s>" * 200_000], "prompts": ["Q"], "labels": [""]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies(http: TestClient, name: str) -> None:
    for path in ("/classify", "/pooling", "/get_reward", "/reward", "/rerank"):
        check(http, path, HOSTILE[name])
