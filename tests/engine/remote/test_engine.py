"""The remote engine against servers in this process: sound ones, wrong ones, and such as fail."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from model_server import Score, Server, serving
from sample_records import GROUPS

from polar_ray.config import NativeEngineConfig, RemoteEngineConfig, ScorerConfig
from polar_ray.engine.known_answers import known_answers
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Scores
from polar_ray.engine.questions import alone
from polar_ray.engine.remote import server as remote_server
from polar_ray.engine.remote.engine import RemoteEngine
from polar_ray.errors import ConfigError, EngineError, ServersAway
from polar_ray.planning import pack
from polar_ray.scorer import Scorer

RECORDS = [{**record, "output": f"{record['output']} {i}"} for i in range(6) for record in GROUPS]


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> NativeEngine:
    return NativeEngine(NativeEngineConfig(), tiny_dir)


@pytest.fixture(scope="module")
def truth(tiny_dir: Path) -> Scores:
    return scores(Scorer(ScorerConfig(model=str(tiny_dir))))


def scores(scorer: Scorer) -> Scores:
    return np.array(scorer.score(RECORDS)["score"].to_pylist(), dtype=np.float32)


class Servers:
    """Servers of a kind, and scorers in front of them."""

    def __init__(self, kind: str, folder: Path, engine: NativeEngine, stack: ExitStack) -> None:
        self.kind, self.folder, self._engine, self._stack = kind, folder, engine, stack
        self.all: list[Server] = []
        self.urls: list[str] = []

    def add(self, port: int = 0) -> Server:
        server = Server(self.kind, self.folder, alone(self._engine))
        self.all.append(server)
        self.urls.append(self._stack.enter_context(serving(server, port)))
        return server

    def config(self, **settings: Any) -> RemoteEngineConfig:
        values = {"addresses": self.urls, "request_tokens": 256, "patience_s": 0.5, **settings}
        return RemoteEngineConfig(server=self.kind, **values)

    def scorer(self, **settings: Any) -> Scorer:
        scorer = Scorer(
            ScorerConfig(model=str(self.folder), engine=self.config(**settings), max_tokens=512)
        )
        self._stack.callback(scorer.close)
        return scorer


@pytest.fixture
def make(tiny_dir: Path, engine: NativeEngine) -> Iterator[Callable[[str], Servers]]:
    with ExitStack() as stack:
        yield lambda kind: Servers(kind, tiny_dir, engine, stack)


@pytest.fixture
def two(make: Callable[[str], Servers]) -> Servers:
    servers = make("vllm")
    servers.add()
    servers.add()
    return servers


def close(found: Scores, truth: Scores) -> bool:
    return bool(np.abs(found - truth).max() <= 1e-5)


@pytest.mark.parametrize("kind", ["sglang", "vllm", "lmdeploy"])
def test_servers_give_the_native_engines_scores(
    make: Callable[[str], Servers], kind: str, truth: Scores
) -> None:
    servers = make(kind)
    servers.add()
    servers.add()
    scorer = servers.scorer(served_name="polar")
    assert close(scores(scorer), truth)
    assert scorer.provenance["engine"] == f"remote-{kind}"
    assert all(server.bodies for server in servers.all)
    for body in (body for server in servers.all for body in server.bodies):
        rows = servers.all[0].inputs(body)
        assert all(isinstance(row, list) for row in rows)  # ids, never text
        assert body["model"] == "polar"
        assert body.get("use_activation") is (False if kind == "vllm" else None)


def test_servers_of_several_kinds_share_the_work(
    make: Callable[[str], Servers], truth: Scores
) -> None:
    vllm, sglang = make("vllm"), make("sglang")
    vllm.add()
    sglang.add()
    scorer = vllm.scorer(addresses=[*vllm.urls, *(f"sglang+{url}" for url in sglang.urls)])
    assert close(scores(scorer), truth)
    assert scorer.provenance["engine"] == "remote-sglang+vllm"
    assert vllm.all[0].bodies
    assert sglang.all[0].bodies


def test_the_digest_tells_servers_from_our_own_engine(two: Servers, tiny_dir: Path) -> None:
    own = Scorer(ScorerConfig(model=str(tiny_dir))).provenance
    theirs = two.scorer().provenance
    assert own["model_digest"] != theirs["model_digest"]
    assert own["encoding"] == theirs["encoding"]


def test_sglang_gets_the_first_of_a_group_before_the_rest(
    make: Callable[[str], Servers], truth: Scores
) -> None:
    servers = make("sglang")
    server = servers.add()
    scorer = servers.scorer()
    server.bodies.clear()
    group = {"prompt": "Explain the rules of chess to a child.", "reference": "Kings."}
    scorer.score([{**group, "output": f"Move {i}"} for i in range(5)])
    assert [len(body["input_ids"]) - 2 for body in server.bodies] == [1, 4]  # and two witnesses


WRONG: dict[str, tuple[str, str]] = {
    "squashed": ("vllm", "squashed by a sigmoid"),
    "other": ("sglang", "other weights"),
    "unrotated": ("sglang", "wrong rotary table"),
    "unended": ("lmdeploy", "read one token too early"),
    "window": ("sglang", "a shorter window"),
    "rounded": ("vllm", "rounded to a coarser type"),
    "random": ("lmdeploy", "not repeatable"),
    "cut": ("lmdeploy", "1100 tokens is off by .* a shorter window"),
    "embeddings": ("lmdeploy", "wrong embeddings"),
}


def wrong_embeddings(folder: Path, right: Score, most: int | None = None) -> Score:
    """As if some ids had another's, of which only the short questions have any."""
    known = known_answers(folder)
    wrong = np.setdiff1d(np.concatenate(known.vocabulary.ids), np.concatenate(known.ids))[:most]
    assert len(wrong)
    return lambda ids: right([np.where(np.isin(i, wrong), 7, i) for i in ids])


@pytest.mark.parametrize("change", list(WRONG))
def test_a_wrong_server_is_refused_by_name(
    make: Callable[[str], Servers], engine: NativeEngine, other_dir: Path, change: str
) -> None:
    kind, named = WRONG[change]
    servers = make(kind)
    server = servers.add()
    right, random = alone(engine), np.random.default_rng(0)
    if change == "squashed":
        server.fault = lambda scores, on: 1 / (1 + np.exp(-scores))
    elif change == "other":
        server.truth = alone(NativeEngine(NativeEngineConfig(), other_dir))
    elif change == "unrotated":
        server.truth = alone(engine, rotate=False)
    elif change == "unended":
        server.truth = lambda ids: right([i[:-1] if len(i) > 1 else i for i in ids])
    elif change == "window":
        server.truth = lambda ids: right([i[-200:] for i in ids])
    elif change == "cut":
        server.truth = lambda ids: right([i[-1000:] for i in ids])
    elif change == "embeddings":
        server.truth = wrong_embeddings(servers.folder, right)
    elif change == "rounded":
        server.fault = lambda scores, on: np.float32(np.round(scores * 64) / 64)
    else:
        server.truth = lambda ids: right(ids) + random.normal(size=len(ids)).astype(np.float32)
    with pytest.raises(ConfigError, match=named) as found:
        RemoteEngine(servers.config(tolerance=1e-3), servers.folder)
    assert servers.urls[0] in str(found.value)


def test_a_coarser_dtype_is_forgiven_if_it_is_named(
    make: Callable[[str], Servers], truth: Scores
) -> None:
    servers = make("vllm")
    servers.add().fault = lambda scores, on: np.float32(np.round(scores * 64) / 64)
    scorer = servers.scorer(dtype="bfloat16")
    assert scorer.provenance["dtype"] == "bfloat16"
    assert np.abs(scores(scorer) - truth).max() <= 0.01


def test_one_wrong_server_is_left_out(two: Servers, truth: Scores) -> None:
    two.all[0].fault = lambda scores, on: -scores
    scorer = two.scorer()
    assert close(scores(scorer), truth)
    assert scorer.counters["servers_aside"] == 0  # it never was in use


def test_a_server_that_is_put_aside_is_asked_for_everything_again(
    two: Servers, engine: NativeEngine
) -> None:
    wrong = two.all[0]
    wrong.truth = wrong_embeddings(two.folder, alone(engine))
    remote = RemoteEngine(two.config(), two.folder)
    try:
        while len(wrong.bodies) < 9:  # three times the questions of all lengths would be six
            time.sleep(0.02)
        assert "wrong embeddings" in str(remote._sender.servers[0].aside)
    finally:
        remote.close()


def test_a_server_with_other_embeddings_meanwhile_is_refused(
    make: Callable[[str], Servers], engine: NativeEngine
) -> None:
    """It is right about most known answers, and about most witnesses."""
    servers = make("sglang")
    server = servers.add()
    scorer = servers.scorer()
    server.truth = wrong_embeddings(servers.folder, alone(engine), most=1)
    [only] = pack([np.array([5, 6], dtype=np.int32)], max_tokens=100)
    many = len(known_answers(servers.folder).vocabulary.ids)

    def score_often() -> None:
        for _ in range(many):
            scorer.engine.submit(only).result()

    with pytest.raises(ServersAway, match="1 of 27 sequences of more ids are off"):
        score_often()


def test_a_server_that_cuts_meanwhile_is_found_by_the_questions_of_every_minute(
    make: Callable[[str], Servers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is right about all witnesses, as they are short, and says that it has read every token."""
    monkeypatch.setattr(remote_server, "QUESTIONS_S", 0.2)
    monkeypatch.setattr(remote_server, "QUESTIONS_SHARE", 1.0)
    servers = make("vllm")
    server = servers.add()
    sound = server.truth
    scorer = servers.scorer()
    server.truth = lambda ids: sound([row[-64:] for row in ids])
    while (reason := scorer.engine.waits_for) is None:  # type: ignore[attr-defined]
        time.sleep(0.02)
    assert "tokens" in reason


@pytest.mark.parametrize("window", [1050, 300])
def test_a_server_with_a_shorter_window_that_says_so_is_used_for_what_it_takes(
    make: Callable[[str], Servers],
    engine: NativeEngine,
    window: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers = make("vllm")
    server = servers.add()
    server.window = window
    short, long = (np.full(length, 9, dtype=np.int32) for length in (200, 1200))
    packs = list(pack([short, long], max_tokens=2048))
    for others in (0, 1):
        for _ in range(others):
            servers.add()
        remote = RemoteEngine(servers.config(), servers.folder)
        try:
            assert f"maximum context length is {window}" in caplog.text
            [only] = pack([short], max_tokens=2048)
            assert close(remote.submit(only).result(), alone(engine)([short]))
            if others:
                found = np.zeros(2, dtype=np.float32)
                for packed in packs:
                    found[packed.records] = remote.submit(packed).result()
                assert close(found, alone(engine)([short, long]))
            else:
                [only] = pack([long], max_tokens=2048)
                with pytest.raises(EngineError, match=f"maximum context length is {window}"):
                    remote.submit(only).result()
            assert remote.counters["servers_aside"] == 0
        finally:
            remote.close()


def test_a_server_that_refuses_everything_is_not_believed(make: Callable[[str], Servers]) -> None:
    servers = make("vllm")
    server = servers.add()
    server.misbehave = reply({"error": {"message": "no such model"}}, 400)
    with pytest.raises(ConfigError, match="answered 400: no such model"):
        RemoteEngine(servers.config(), servers.folder)


def test_a_biased_checkpoint_is_refused_where_biases_are_left_out(
    golden: Path, make: Callable[[str], Servers]
) -> None:
    from polar_ray.engine.known_answers import _drop_biases

    servers = make("sglang")
    server = servers.add()
    unbiased = NativeEngine(NativeEngineConfig(), golden / "model" / "mha_bias")
    _drop_biases(unbiased)
    server.truth = alone(unbiased)
    with pytest.raises(ConfigError, match="biases are left out"):
        RemoteEngine(servers.config(), golden / "model" / "mha_bias")


def reply(answer: Any, status: int = 200, **headers: str) -> Callable[[Any, Any], bool]:
    def misbehave(handler: Any, body: Any) -> bool:
        handler.reply(status, answer, **headers)
        return True

    return misbehave


def half(handler: Any, body: Any) -> bool:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    return True


def closed(handler: Any, body: Any) -> bool:
    return True


def reset(handler: Any, body: Any) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())  # unlike an orderly end
    handler.close_connection = True
    return True


FAULTS: dict[str, Callable[[Any, Any], bool]] = {
    "no JSON": reply(b"<html>hello</html>"),
    "NaN": reply(b'{"data": [{"index": 0, "data": NaN}]}'),
    "base64": reply({"data": [{"index": 0, "data": "AAAAPw=="}]}),
    "huge": reply(b" " * (8 << 20)),
    "packed": reply(b"\x1f\x8b", content_encoding="gzip"),
    "moved": reply(b"", 302, location="http://127.0.0.1:9/"),
    "missing": reply({"detail": "Not Found"}, 404),
    "unauthorized": reply({"error": "no"}, 401),
    "broken": reply({"error": {"message": "CUDA error"}}, 500),
    "gateway": reply(b"", 502),
    "cut off": half,
    "closed": closed,
    "reset": reset,
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_what_is_no_answer_is_asked_of_another(two: Servers, truth: Scores, fault: str) -> None:
    scorer = two.scorer()
    two.all[0].misbehave = FAULTS[fault]
    assert close(scores(scorer), truth)
    assert close(scores(scorer), truth)
    assert scorer.counters["servers_aside"] == 1


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a row less": lambda answer: {"data": answer["data"][:-1]},
    "a row twice": lambda answer: {"data": [answer["data"][0], *answer["data"][:-1]]},
    "booleans": lambda answer: {"data": [{**row, "data": True} for row in answer["data"]]},
    "several values": lambda answer: {
        "data": [{**row, "data": [[0.1, 0.2]]} for row in answer["data"]]
    },
    "fewer tokens read than were sent": lambda answer: {**answer, "usage": {"prompt_tokens": 7}},
    "turned without an index": lambda answer: {
        "data": [{"data": row["data"]} for row in answer["data"][::-1]]
    },
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_scores_of_another_shape_are_none(two: Servers, truth: Scores, change: str) -> None:
    scorer = two.scorer()
    two.all[1].change = CHANGES[change]
    assert close(scores(scorer), truth)
    assert scorer.counters["servers_aside"] >= 1


def test_a_server_with_other_weights_meanwhile_is_refused(
    two: Servers, truth: Scores, other_dir: Path
) -> None:
    scorer = two.scorer()
    assert close(scores(scorer), truth)
    for server in two.all:
        server.truth = alone(NativeEngine(NativeEngineConfig(), other_dir))
    with pytest.raises(ServersAway, match="other weights"):
        scorer.score(RECORDS)
    reason = scorer.engine.waits_for  # type: ignore[attr-defined]
    assert reason is not None
    assert all(url in reason for url in two.urls)


def test_a_server_that_comes_back_is_used_again(
    two: Servers, truth: Scores, engine: NativeEngine
) -> None:
    scorer = two.scorer(patience_s=60)
    back = threading.Event()

    def away(handler: Any, body: Any) -> bool:
        return not back.is_set()

    for server in two.all:
        server.misbehave = away
    timer = threading.Timer(1.0, back.set)
    timer.start()
    assert close(scores(scorer), truth)
    timer.join()


def test_without_any_server_the_engine_says_so(two: Servers) -> None:
    scorer = two.scorer()
    for server in two.all:
        server.misbehave = reset
    with pytest.raises(ServersAway, match="no server can be used"):
        scorer.score(RECORDS)


def test_a_silent_server_holds_nothing_up(two: Servers, truth: Scores) -> None:
    scorer = two.scorer(timeout_s=100)
    let_go = threading.Event()
    two.all[0].misbehave = lambda handler, body: let_go.wait(60)
    try:
        assert close(scores(scorer), truth)
    finally:
        let_go.set()
    assert scorer.counters["servers_aside"] == 1


def test_the_only_server_may_be_slow(
    make: Callable[[str], Servers], truth: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = make("vllm")
    server = servers.add()
    scorer = servers.scorer()
    monkeypatch.setattr("polar_ray.engine.remote.server.SILENT_S", 0.1)
    monkeypatch.setattr("polar_ray.engine.remote.server.SILENT_TIMES", 0.0)
    checked = threading.Event()
    questions = len(server.bodies[0]["input"])

    def slow(handler: Any, body: Any) -> bool:
        if len(body["input"]) == questions:
            checked.set()
        elif first in body["input"]:
            assert checked.wait(60)
        return False

    [encoded] = scorer.encode(pa.Table.from_pylist(RECORDS[:1]))
    first = encoded.ids.tolist()
    server.misbehave = slow
    table = scorer.score(RECORDS[:1])
    assert close(np.float32(table["score"].to_pylist()), truth[:1])
    assert scorer.counters["servers_aside"] == 0


def test_a_body_that_drips_ends_by_the_deadline(
    make: Callable[[str], Servers], truth: Scores
) -> None:
    servers = make("lmdeploy")
    server = servers.add()
    scorer = servers.scorer(timeout_s=0.5)
    let_go = threading.Event()

    def drip(handler: Any, body: Any) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        while not let_go.wait(0.05):
            handler.wfile.write(b" ")
        return True

    server.misbehave = drip
    try:
        with pytest.raises(ServersAway, match=r"no answer within 0\.5 s"):
            scorer.score(RECORDS[:1])
    finally:
        let_go.set()


@pytest.mark.parametrize(
    ("status", "header"), [(429, "0"), (503, "nonsense"), (503, "-3"), (429, None)]
)
def test_a_busy_server_is_asked_again(
    make: Callable[[str], Servers], truth: Scores, header: str | None, status: int
) -> None:
    servers = make("vllm")
    server = servers.add()
    scorer = servers.scorer(patience_s=30)
    busy = iter([True, True])
    headers = {} if header is None else {"retry_after": header}

    def misbehave(handler: Any, body: Any) -> bool:
        return next(busy, False) and reply({"error": "busy"}, status, **headers)(handler, body)

    server.misbehave = misbehave
    assert close(scores(scorer), truth)
    assert scorer.counters["servers_aside"] == 0


@pytest.mark.parametrize("end", [closed, reset])
def test_a_connection_that_was_closed_while_it_rested_is_no_failure(
    make: Callable[[str], Servers], truth: Scores, end: Callable[[Any, Any], bool]
) -> None:
    servers = make("vllm")
    server = servers.add()
    scorer = servers.scorer()
    first = iter([True])
    server.misbehave = lambda handler, body: next(first, False) and end(handler, body)
    assert close(scores(scorer), truth)
    assert scorer.counters["requests_failed"] == 0


def test_a_server_that_stays_busy_counts_as_away(make: Callable[[str], Servers]) -> None:
    servers = make("vllm")
    server = servers.add()
    scorer = servers.scorer(patience_s=0.3)
    server.misbehave = reply({"error": "loading"}, 503, retry_after="0")
    with pytest.raises(ServersAway, match="loading"):
        scorer.score(RECORDS)


def unreached(handler: Any, body: Any) -> bool:
    return reply({"error": "a gateway's"}, 504)(handler, body)


def other_scores(handler: Any, body: Any) -> bool:
    rows = [{"index": at, "data": [[5.5]]} for at in range(len(body["input"]))]
    return reply({"data": rows})(handler, body)


@pytest.mark.parametrize("fault", [unreached, other_scores, reply({"error": "busy"}, 429)])
def test_a_record_that_sound_servers_fail_on_is_alone_with_its_error(
    two: Servers, truth: Scores, fault: Callable[[Any, Any], bool]
) -> None:
    scorer = two.scorer(patience_s=0.3)
    marked = "Fail on this. "
    [bad] = scorer.encode(pa.Table.from_pylist([{**RECORDS[0], "output": marked}]))

    def misbehave(handler: Any, body: Any) -> bool:
        return bad.ids.tolist() in two.all[0].inputs(body) and fault(handler, body)

    for server in two.all:
        server.misbehave = misbehave
    table = scorer.score([*RECORDS[:9], {**RECORDS[0], "output": marked}, *RECORDS[9:]])
    found, errors = table["score"].to_pylist(), table["error"].to_pylist()
    assert found[9] is None
    assert errors[9].startswith("engine_error: 3 servers failed on it")
    assert close(np.float32(found[:9] + found[10:]), truth)
    assert scorer.counters["servers_aside"] == 0


def test_rows_in_another_order_are_never_believed(
    make: Callable[[str], Servers], truth: Scores
) -> None:
    servers = make("lmdeploy")
    server = servers.add()
    scorer = servers.scorer(patience_s=0.3)

    def turn(answer: Any) -> Any:
        values = [row["data"] for row in answer["data"]]
        turned = [*values[:-1][::-1], values[-1]]  # but for the last witness
        return {"data": [{"index": at, "data": value} for at, value in enumerate(turned)]}

    server.change = turn
    with pytest.raises(ServersAway):
        scorer.score(RECORDS)


def test_a_record_that_is_refused_is_alone_with_its_error(two: Servers, truth: Scores) -> None:
    scorer = two.scorer()
    marked = "Refuse this. "
    [bad] = scorer.encode(pa.Table.from_pylist([{**RECORDS[0], "output": marked}]))

    def misbehave(handler: Any, body: Any) -> bool:
        if bad.ids.tolist() not in two.all[0].inputs(body):
            return False
        return reply({"error": {"message": "this one is bad"}}, 400)(handler, body)

    for server in two.all:
        server.misbehave = misbehave
    table = scorer.score([*RECORDS[:9], {**RECORDS[0], "output": marked}, *RECORDS[9:]])
    found, errors = table["score"].to_pylist(), table["error"].to_pylist()
    assert found[9] is None
    assert errors[9].startswith("engine_error: ")
    assert "answered 400: this one is bad" in errors[9]
    assert close(np.float32(found[:9] + found[10:]), truth)
    assert scorer.counters["servers_aside"] == 0  # the servers are sound


def test_a_record_that_breaks_every_server_gets_the_error(two: Servers, truth: Scores) -> None:
    scorer = two.scorer(patience_s=30)
    [bad] = scorer.encode(pa.Table.from_pylist([RECORDS[3]]))

    def misbehave(handler: Any, body: Any) -> bool:
        if bad.ids.tolist() not in two.all[0].inputs(body):
            return False
        return reply({"error": "assert"}, 500)(handler, body)

    for server in two.all:
        server.misbehave = misbehave
    table = scorer.score(RECORDS[:4])
    assert [error is None for error in table["error"].to_pylist()] == [True, True, True, False]
    assert close(np.float32(table["score"].to_pylist()[:3]), truth[:3])


def test_closing_ends_who_waits(two: Servers) -> None:
    engine = RemoteEngine(two.config(), two.folder)
    let_go, asked = threading.Event(), threading.Event()

    def hold(handler: Any, body: Any) -> bool:
        asked.set()
        return let_go.wait(60)

    for server in two.all:
        server.misbehave = hold
    [only] = pack([np.arange(5, dtype=np.int32)], max_tokens=100)
    pending = engine.submit(only)
    assert asked.wait(30)
    threading.Timer(0.1, engine.close).start()
    try:
        with pytest.raises(Exception, match="closed"):
            pending.result()
        with pytest.raises(Exception, match="closed"):
            engine.submit(only)
        engine.close()
    finally:
        let_go.set()


def test_ids_that_no_model_has_never_reach_a_server(two: Servers) -> None:
    engine = RemoteEngine(two.config(), two.folder)
    asked = sum(len(server.bodies) for server in two.all)
    for wrong in (-1, engine.info.vocab_size):
        [only] = pack([np.array([1, wrong], dtype=np.int32)], max_tokens=100)
        with pytest.raises(Exception, match="beyond the vocabulary"):
            engine.submit(only)
    assert sum(len(server.bodies) for server in two.all) == asked
    engine.close()


def test_a_token_is_sent_and_read_again_when_it_is_refused(
    make: Callable[[str], Servers], truth: Scores, tmp_path: Path
) -> None:
    servers = make("sglang")
    server = servers.add()
    path = tmp_path / "token"
    path.write_text("first\n")
    valid = ["first"]

    def guard(handler: Any, body: Any) -> bool:
        if handler.headers["authorization"] == f"Bearer {valid[0]}":
            return False
        return reply({"error": "unauthorized"}, 401)(handler, body)

    server.misbehave = guard
    scorer = servers.scorer(token_file=str(path), patience_s=30)
    valid[0] = "second"
    path.write_text("# renewed\nsecond\n")
    assert close(scores(scorer), truth)
    path.write_text("")
    with pytest.raises(ConfigError, match="holds no token"):
        RemoteEngine(servers.config(token_file=str(path)), servers.folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"addresses": ["127.0.0.1:30000"]}, "no http:// or https://"),
        ({"addresses": ["http://a", "http://a/"]}, "names a server twice"),
        ({"addresses": ["http://a", "sglang+http://a"]}, "names a server twice"),
        ({"addresses": ["tgi+http://a"]}, "no http:// or https://"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["http://a"], "ca_file": "ca.pem", "verify_tls": False}, "ca_file"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RemoteEngineConfig(server="vllm", **settings)


def test_addresses_may_come_as_one_text() -> None:
    config = ScorerConfig.model_validate(
        {
            "engine.type": "remote",
            "engine.server": "vllm",
            "engine.addresses": "http://a:1,http://b:2",
        }
    )
    assert isinstance(config.engine, RemoteEngineConfig)
    assert config.engine.addresses == ("http://a:1", "http://b:2")


def test_nobody_at_the_addresses_is_said_at_once(tiny_dir: Path) -> None:
    config = RemoteEngineConfig(server="vllm", addresses=("http://127.0.0.1:9",))
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9: no connection"):
        RemoteEngine(config, tiny_dir)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_server_with_tls_must_be_one_that_is_trusted(
    make: Callable[[str], Servers], certificate: Path, truth: Scores
) -> None:
    servers = make("vllm")
    server = Server("vllm", servers.folder, alone(servers._engine))
    with serving(server, cert=certificate) as url:
        servers.urls.append(url)
        with pytest.raises(ConfigError, match=r"(?i)certificate"):
            RemoteEngine(servers.config(), servers.folder)
        trusting = servers.scorer(ca_file=str(certificate))
        assert close(scores(trusting), truth)
        trusting.close()
        careless = servers.scorer(verify_tls=False)
        assert close(scores(careless), truth)
        careless.close()
    with pytest.raises(ConfigError, match="certificate settings"):
        RemoteEngine(servers.config(ca_file="/no/such/file"), servers.folder)
