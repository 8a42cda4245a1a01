"""A server of sglang's, vllm's or lmdeploy's kind in this process, sound or with a fault."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from polar_ray.config import ScorerConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.encoding.template import REWARD_TOKEN, SEPARATOR
from polar_ray.engine.protocol import Scores
from polar_ray.planning import Ids
from polar_ray.scorer import Scorer

Score = Callable[[list[Ids]], Scores]


class Refused(Exception):
    """The request is at fault, as vllm says it."""


class Server:
    """A server of a kind, whose scores are `truth` after `fault`."""

    def __init__(self, kind: str, model_dir: Path, truth: Score, splits: bool = False) -> None:
        self.kind, self.truth, self.splits = kind, truth, splits
        self.begins, self.window = True, 10_000
        self.tokenizer = load_tokenizer(model_dir)
        self.reward_id = Scorer(ScorerConfig(model=str(model_dir))).info.reward_id
        self.fault: Callable[[Scores, bool], Scores] = lambda scores, activated: scores
        self.misbehave: Callable[[Any, Any], bool] | None = None
        """Answers in its own way, with the handler and the request's body; False: as usual."""

        self.change: Callable[[Any], Any] = lambda answer: answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def ids(self, one: Any) -> Ids:
        if not isinstance(one, str):
            return np.array(one, dtype=np.int32)
        t = self.tokenizer
        if self.splits:
            return np.array([t.bos_id, *t.encode(one)], dtype=np.int32)
        first, second = one.removesuffix(REWARD_TOKEN).split(SEPARATOR)
        halves = [*t.encode(first), t.control_id(SEPARATOR), *t.encode(second)]
        begin = [t.bos_id] if self.begins else []
        return np.array([*begin, *halves, self.reward_id], dtype=np.int32)

    def inputs(self, body: dict[str, Any]) -> list[Any]:
        found: list[Any] = body.get("input_ids", body.get("text", body.get("input")))
        return found

    def answer(self, route: str, body: dict[str, Any]) -> Any:
        assert route == ("/classify" if self.kind == "sglang" else "/pooling")
        ids = [self.ids(one) for one in self.inputs(body)]
        if (longest := max(map(len, ids))) > self.window:
            raise Refused(f"maximum context length is {self.window} tokens, not {longest}")
        with self.lock:
            truth = self.truth(ids)
        scores = self.fault(truth, body.get("use_activation", True))
        values = [float(score) for score in scores]
        if self.kind == "sglang":
            rows = zip(values, ids, strict=True)
            return [{"embedding": [v], "meta_info": {"prompt_tokens": len(i)}} for v, i in rows]
        if self.kind == "vllm":
            every = [[[9.0]] * (len(row) - 1) for row in ids]
            data = [{"data": [*most, [v]]} for most, v in zip(every, values, strict=True)]
        else:
            data = [{"data": value} for value in values]
        return {"data": [{"index": at, **row} for at, row in enumerate(data)]}


@contextmanager
def serving(server: Server, port: int = 0, cert: Path | None = None) -> Iterator[str]:
    """The server's URL, for as long as the block. With `cert` (PEM of key and certificate) it
    speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.bodies.append(body)
                server.headers.append({k.lower(): v for k, v in self.headers.items()})
            if server.misbehave is not None and server.misbehave(self, body):
                self.close_connection = True
                return
            try:
                self.reply(200, server.change(server.answer(self.path, body)))
            except Refused as error:  # as vllm says it
                self.reply(400, {"error": {"message": str(error), "code": 400}})

        def reply(self, status: int, answer: Any, **headers: str) -> None:
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # who asked has left
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    web = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    web.daemon_threads = True
    web.block_on_close = False
    scheme = "http"
    if cert is not None:
        scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        web.socket = context.wrap_socket(web.socket, server_side=True)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
