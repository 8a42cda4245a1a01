"""Other servers' formats at our pool: what real clients sent, to the byte, and what they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import GROUPS
from scorer_as_router import ScorerAsRouter

from polar_ray.config import HttpConfig, PoolConfig, ScorerConfig, StubEngineConfig
from polar_ray.encoding.template import SEPARATOR, text
from polar_ray.errors import EngineError, Overloaded
from polar_ray.pool.http.auth import Tokens
from polar_ray.pool.http.formats import FORMATS
from polar_ray.pool.http.routes import build_http
from polar_ray.scorer import Scorer

TEXTS = [text(**row) for row in GROUPS]
CAPITAL = "What is the capital of China?"
PATHS = [path for known in FORMATS for path in known.paths]
REQUESTS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "golden" / "client_requests.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


@pytest.fixture(scope="module")
def scorer(tiny_dir: Path) -> Scorer:
    """Its scores tell any two sequences of token ids apart, and depend on nothing else."""
    return Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))


@pytest.fixture
def router(scorer: Scorer) -> ScorerAsRouter:
    return ScorerAsRouter(scorer, PoolConfig(http=HttpConfig(max_rows=600)))


@pytest.fixture
def http(router: ScorerAsRouter) -> TestClient:
    return TestClient(build_http(lambda: router))


@pytest.fixture
def expected(scorer: Scorer) -> Callable[..., list[float]]:
    """The scores of records."""

    def scores(*rows: dict[str, Any]) -> list[float]:
        found: list[float] = scorer.score(list(rows))["score"].to_pylist()
        assert None not in found
        return found

    return scores


def answered(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 422, answer.text
    assert set(answer.json()["error"]) == {"type", "message"}
    return str(answer.json()["error"]["message"])


def record(prompt: str, reference: str, output: str) -> dict[str, str]:
    return {"prompt": prompt, "reference": reference, "output": output}


# What the clients have sent, and by which words of their own code they read the answer.
SAID = 'It is "北京", I\nthink.'
THINK = 'Shanghai, I "think"\n\t北京 😀.'
TWO = [record(CAPITAL, "Beijing.", "Beijing."), record(CAPITAL, "Beijing.", THINK)]
ONE = [record(CAPITAL, "Beijing.", SAID)]
READERS: list[tuple[str, Callable[[Any], list[float]], list[dict[str, str]]]] = [
    ("POLAR", lambda answer: [e["embedding"][0] for e in answer], TWO),
    ("POLAR", lambda answer: [e["data"][-1][0] for e in answer["data"]], TWO),
    ("POLAR", lambda answer: [e["data"] for e in answer["data"]], TWO),
    ("verl", lambda answer: [answer["data"][-1]["probs"][-1]], ONE),
    ("verl", lambda answer: [answer["data"][-1]["embedding"][-1]], ONE),
    ("OpenRLHF", lambda answer: answer["rewards"], ONE),
    ("slime", lambda answer: [answer], ONE),
]


@pytest.mark.parametrize("number", range(len(READERS)), ids=lambda at: READERS[at][0])
def test_recorded_requests_are_answered_as_their_clients_read(
    http: TestClient, expected: Callable[..., list[float]], number: int
) -> None:
    request, (client, read, rows) = REQUESTS[number], READERS[number]
    assert request["client"].startswith(client)
    # lmdeploy's request is vllm's to the byte, so that its address is another one.
    path = "/lmdeploy/pooling" if number == 2 else request["path"]
    answer = http.post(
        path,
        content=request["body"].encode(),
        headers={"content-type": request["content_type"]},
    )
    assert read(answered(answer)) == expected(*rows)


def test_every_recorded_request_is_tested() -> None:
    assert len(REQUESTS) == len(READERS)


def test_sglang_answers_one_text_by_one_object(
    http: TestClient, expected: Callable[..., list[float]]
) -> None:
    for path in ("/classify", "/encode"):
        alone = answered(http.post(path, json={"text": TEXTS[0]}))
        assert alone["embedding"] == expected(GROUPS[0])
        rids = [f"x{at}" for at in range(len(TEXTS))]
        rows = answered(http.post(path, json={"text": TEXTS, "rid": rids}))
        assert [row["embedding"][0] for row in rows] == expected(*GROUPS)
        assert [row["meta_info"]["id"] for row in rows] == rids
        assert [row["meta_info"]["prompt_tokens"] > 3 for row in rows] == [True] * len(rows)


def test_names_of_texts_come_back_or_do_not_fit(http: TestClient) -> None:
    one = answered(http.post("/classify", json={"text": TEXTS[0], "rid": "x"}))
    assert one["meta_info"]["id"] == "x"
    made = answered(http.post("/classify", json={"text": TEXTS, "rid": None}))
    assert len({row["meta_info"]["id"] for row in made}) == len(TEXTS)
    for path, key in (("/classify", "text"), ("/encode", "text"), ("/v1/embeddings", "input")):
        for texts, rid in (
            (TEXTS[:1], ["a", "b"]),
            (TEXTS[:2], ["a"]),
            (TEXTS[:2], ["a", 5]),
            (TEXTS[:2], "a"),
            (TEXTS[0], ["a"]),
        ):
            assert "'rid'" in refused(http.post(path, json={key: texts, "rid": rid}))


def test_lists_of_openais_kind(
    http: TestClient, scorer: Scorer, expected: Callable[..., list[float]]
) -> None:
    tokens = sum(scorer.score(GROUPS)["num_tokens"].to_pylist())
    for path, read in [
        ("/classify", lambda row: row["probs"]),
        ("/pooling", lambda row: row["data"][-1]),
        ("/lmdeploy/pooling", lambda row: [row["data"]]),
        ("/v1/embeddings", lambda row: row["embedding"]),
    ]:
        body = answered(http.post(path, json={"model": "any/name", "input": TEXTS}))
        assert body["model"] == scorer.provenance["model"]
        assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        assert [row["index"] for row in body["data"]] == list(range(len(TEXTS)))
        assert all(len(read(row)) == 1 for row in body["data"])
        assert [read(row)[0] for row in body["data"]] == expected(*GROUPS)


def test_pairs_are_trajectories(http: TestClient, expected: Callable[..., list[float]]) -> None:
    rows = [record("Q?", "a\nb", said) for said in ("a", "b\n", "c")]
    reference, candidates = "Q?\na\nb", [f"Q?\n{row['output']}" for row in rows]
    for first, second in (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents")):
        for left in (reference, [reference], [reference] * 3):
            body = answered(http.post("/v1/score", json={first: left, second: candidates}))
            assert [row["score"] for row in body["data"]] == expected(*rows)
    assert "do not begin with the same line" in refused(
        http.post("/v1/score", json={"text_1": reference, "text_2": ["Q?\na", "a"]})
    )
    assert "has 2 texts" in refused(
        http.post("/v1/score", json={"text_1": [reference] * 2, "text_2": candidates})
    )


def test_candidates_come_by_falling_score(
    http: TestClient, expected: Callable[..., list[float]]
) -> None:
    rows = [record("Q?", "a", said) for said in ("a", "b", "c", "d")]
    documents = [f"Q?\n{row['output']}" for row in rows]
    for path in ("/rerank", "/v1/rerank"):
        body = answered(http.post(path, json={"query": "Q?\na", "documents": documents}))
        found = {row["index"]: row["relevance_score"] for row in body["results"]}
        assert [found[at] for at in range(4)] == expected(*rows)
        scores = [row["relevance_score"] for row in body["results"]]
        assert scores == sorted(scores, reverse=True)
        assert all(row["document"]["text"] == documents[row["index"]] for row in body["results"])
        best = http.post(path, json={"query": "Q?\na", "documents": documents, "top_n": 2})
        assert answered(best)["results"] == body["results"][:2]


def test_512_rows_of_three_lists(http: TestClient, expected: Callable[..., list[float]]) -> None:
    rows = [record(f"<|im_start|>{at}, how?", f"so {at}", f"as {at % 7}") for at in range(512)]
    body = {
        "query": [row["prompt"] + row["output"] + "<|im_end|></s>" for row in rows],
        "prompts": [row["prompt"] for row in rows],
        "labels": [row["reference"] for row in rows],
    }
    found = answered(http.post("/get_reward", json=body))
    assert found["rewards"] == expected(*rows)
    assert found["scores"] == found["rewards"] == found["extra_logs"]["polar_scores"]
    body["query"][7] = "something else"
    assert "row 7" in refused(http.post("/get_reward", json=body))
    body["query"][7], body["prompts"][7] = rows[7]["output"], ""
    assert "an empty prompt" in refused(http.post("/get_reward", json=body))
    body["prompts"][7] = body["query"][7]
    for label in ([], [{"role": "user", "content": "4"}], 4, None):
        body["labels"][7] = label
        assert "row 7: bad_message" in refused(http.post("/get_reward", json=body))
    body["labels"].pop()
    assert "equal lengths" in refused(http.post("/get_reward", json=body))


def test_slimes_prompt_is_text_or_messages(
    http: TestClient, expected: Callable[..., list[float]]
) -> None:
    spoken = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"}]
    for prompt in ("Be brief.\nQ?", spoken):
        body = {"prompt": prompt, "response": "b<|im_end|>", "label": "a"}
        reward = answered(http.post("/reward", json=body))
        assert [reward] == expected(record("Be brief.\nQ?", "a", "b"))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_asked_is_nothing_answered(http: TestClient, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/encode": {"text": []},
        "/v1/score": {"text_1": [], "text_2": []},
        "/get_reward": {"query": [], "prompts": [], "labels": []},
        "/rerank": {"query": "q\n", "documents": []},
        "/v1/rerank": {"query": "q\n", "documents": []},
    }
    if path != "/reward":  # one rollout, always
        assert http.post(path, json=bodies.get(path, {"input": []})).status_code == 200


@pytest.mark.parametrize(
    ("path", "extra", "says"),
    [
        ("/pooling", {"use_activation": True}, "'use_activation' is True.*no activation"),
        ("/classify", {"use_activation": True}, "'use_activation' is True.*no activation"),
        ("/pooling", {"normalize": False}, "'normalize' is not taken"),
        ("/pooling", {"task": "embed"}, "'task' is 'embed'"),
        ("/pooling", {"dimensions": 1}, "'dimensions' is 1"),
        ("/pooling", {"encoding_format": "base64"}, "'encoding_format' is 'base64'"),
        ("/pooling", {"truncate_prompt_tokens": 100}, "'truncate_prompt_tokens' is 100"),
        ("/pooling", {"priority": 3}, "'priority' is 3"),
        ("/v1/embeddings", {"encoding_format": "base64"}, "'encoding_format'.*send 'float'"),
        ("/v1/embeddings", {"dimensions": 8}, "'dimensions' is 8"),
        ("/lmdeploy/pooling", {"use_activation": False}, "'use_activation' is not taken"),
        ("/v1/embeddings", {"surprise": 1}, "'surprise' is not taken"),
        ("/v1/embeddings", {"model": 5}, "'model' is 5"),
    ],
)
def test_what_would_change_scores_is_refused_by_name(
    http: TestClient, path: str, extra: dict[str, Any], says: str
) -> None:
    import re

    message = refused(http.post(path, json={"input": TEXTS, **extra}))
    assert re.search(says, message), message


def test_what_changes_nothing_is_taken(http: TestClient) -> None:
    harmless = {"use_activation": False, "task": "token_classify", "encoding_format": "float"}
    assert answered(http.post("/pooling", json={"input": TEXTS, "user": "x", **harmless}))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"input_ids": [[1, 2]]}),
        ("/encode", {"text": [[1, 2]]}),
        ("/pooling", {"input": [[1, 2], [3]]}),
        ("/pooling", {"input": [1, 2]}),
        ("/v1/embeddings", {"input": [[1, 2]]}),
        ("/v1/score", {"text_1": [1], "text_2": [2]}),
    ],
)
def test_token_ids_are_the_pools_own(http: TestClient, path: str, body: dict[str, Any]) -> None:
    assert "token ids" in refused(http.post(path, json=body))


def test_one_bad_text_refuses_all_and_is_named(
    http: TestClient, router: ScorerAsRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.scorer, "score", None)  # nothing is scored for nothing
    for path, key in (("/classify", "text"), ("/pooling", "input")):
        message = refused(http.post(path, json={key: [*TEXTS, "no template", *TEXTS, 5]}))
        assert f"2 of {2 * len(TEXTS) + 2} row(s) have no score" in message
        assert f"row {len(TEXTS)}: bad_template" in message


def test_a_row_that_the_model_cannot_score_refuses_all(http: TestClient) -> None:
    long = text("Q?", "a", "b " * 5000)
    for path, key in (("/classify", "text"), ("/pooling", "input")):
        assert "row 1: too_long" in refused(http.post(path, json={key: [TEXTS[0], long]}))
    body = {"prompt": "Q?", "response": "b", "label": None}
    assert "'label' is None" in refused(http.post("/reward", json=body))


def test_the_words_of_a_policy_are_text(
    http: TestClient, expected: Callable[..., list[float]]
) -> None:
    rows = [record("Q?", "a", said) for said in (f"x{SEPARATOR}y", "[UNUSED_TOKEN_130]", "b")]
    asked = [text(**row) for row in rows]
    body = answered(http.post("/pooling", json={"input": asked}))
    assert [row["data"][0][0] for row in body["data"]] == expected(*rows)
    imitated = text(**record("Q?", "a", f"x{SEPARATOR}Q?\na"))
    assert "row 3: bad_template" in refused(
        http.post("/pooling", json={"input": [*asked, imitated]})
    )


plain = st.text(alphabet="ab \n.Q?北", max_size=12)


@given(st.lists(st.tuples(plain, plain, plain, st.sampled_from(["sft", "pretrain"])), max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ready_made_text_scores_as_its_record(
    http: TestClient, expected: Callable[..., list[float]], parts: list[tuple[str, str, str, str]]
) -> None:
    names = ("prompt", "reference", "output", "wrapper")
    rows = [dict(zip(names, part, strict=True)) for part in parts]
    found = answered(http.post("/classify", json={"text": [text(*part) for part in parts]}))
    assert [row["embedding"][0] for row in found] == expected(*rows)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"text": "x", "text": "y"}', 422),
        (orjson.dumps({"text": ["x"] * 601}), 413),
    ],
    ids=["nothing", "list", "empty", "twice", "many"],
)
def test_a_bad_body_is_refused(http: TestClient, body: bytes, status: int) -> None:
    for path in PATHS:
        if status == 422 or path in ("/classify", "/encode"):
            assert http.post(path, content=body).status_code == status, path


def test_formats_are_json_alone(http: TestClient) -> None:
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    assert "send application/json" in refused(http.post("/classify", content=b"", headers=kind))


def test_the_pools_own_errors_and_options(http: TestClient, router: ScorerAsRouter) -> None:
    answered(http.post("/pooling?timeout_s=7&priority=eval", json={"input": TEXTS}))
    assert (router.timeouts[-1], router.priorities[-1]) == (7, "eval")
    assert "no such parameter" in refused(http.post("/pooling?timeout=7", json={"input": TEXTS}))
    router.error = Overloaded("full", 3.0)
    answer = http.post("/pooling", json={"input": TEXTS})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    router.error = EngineError("broken")
    assert http.post("/pooling", json={"input": TEXTS}).status_code == 500
    assert router.admission.calls == router.admission.size_bytes == 0


def test_tokens_are_asked_for_everywhere(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("secret\n")
    router = ScorerAsRouter(scorer, tokens=Tokens(path))
    http = TestClient(build_http(lambda: router))
    for route in PATHS:
        assert http.post(route, json={"input": []}).status_code == 401
    token = {"authorization": "Bearer secret"}
    assert answered(http.post("/pooling", json={"input": TEXTS}, headers=token))
