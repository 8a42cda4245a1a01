"""A pool without Ray or a model, for callers: it speaks the pool's HTTP, and a score is a hash.

So every answer that comes back can be compared with the one that belongs to the record. What it
should do wrong is set on the object. `python tests/fake_pool.py` runs one in a process of its own
and prints its address.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson
import pyarrow as pa

from polar_ray.scores import score_table
from polar_ray.stream import ARROW_STREAM, encode_arrow, read_arrow

UNSCORED = "UNSCORED"
"""A record whose output holds this has no score."""


def score_of(prompt: str, reference: str, output: str) -> float:
    """The score of one record; mostly negative, as POLAR's are."""
    number = zlib.crc32("\0".join((prompt, reference, output)).encode()) % 12_000
    return float(np.float32(number / 1000 - 11))


@dataclass
class FakePool:
    """What it was sent, and what it should do with that."""

    address: str = ""
    calls: list[list[dict[str, str]]] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    delay_s: float = 0.0
    silent: bool = False
    """It takes calls and never answers."""

    silent_after: int | None = None
    """So many calls are answered, and no more."""

    dies_at: int | None = None
    """The call at which it breaks off, as all later ones."""

    connections: int = 0
    """How many were made to it."""

    calls_per_connection: int | None = None
    """It hangs up without an answer when another one comes on the same connection."""

    reason: str = "engine_error: the fake failed on it"
    """Why it has no score."""

    released: threading.Event = field(default_factory=threading.Event)

    def rows(self) -> list[dict[str, str]]:
        """All records that came, in order."""
        return [row for call in self.calls for row in call]

    def answer(self, batch: pa.Table) -> pa.Table:
        """The result table of a batch."""
        rows = batch.to_pylist()
        self.calls.append(rows)
        none = [any(row[key] is None for key in ("prompt", "reference", "output")) for row in rows]
        bad = [no or UNSCORED in row["output"] for no, row in zip(none, rows, strict=True)]
        scores = [
            np.nan if no else score_of(row["prompt"], row["reference"], row["output"])
            for no, row in zip(bad, rows, strict=True)
        ]
        count = len(rows)
        return score_table(
            np.array(scores, np.float32),
            [self.reason if no else None for no in bad],
            truncated=[False] * count,
            num_tokens=[1] * count,
            control_text=[False] * count,
            ids=batch["id"] if "id" in batch.column_names else None,
        )


@contextmanager
def fake_pool() -> Iterator[FakePool]:
    """A pool that listens on this machine while the block runs."""
    pool = FakePool()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pool))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    pool.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield pool
    finally:
        pool.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(pool: FakePool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            pool.connections += 1
            self.calls = 0
            super().setup()

        def do_POST(self) -> None:
            self.calls += 1
            if pool.calls_per_connection is not None and self.calls > pool.calls_per_connection:
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers["content-length"]))
            query = parse_qs(urlsplit(self.path).query)
            pool.queries.append({key: values[0] for key, values in query.items()})
            pool.tokens.append(self.headers["authorization"])
            answers = pool.silent_after
            if pool.silent or (answers is not None and len(pool.queries) > answers):
                pool.released.wait()
            if pool.dies_at is not None and len(pool.queries) >= pool.dies_at:
                self.close_connection = True
                return
            time.sleep(pool.delay_s)
            self._send(200, ARROW_STREAM, encode_arrow(pool.answer(read_arrow(body))))

        def do_GET(self) -> None:
            self._send(200, "application/json", orjson.dumps({"waiting": "it is a fake"}))

        def _send(self, status: int, kind: str, body: bytes) -> None:
            with suppress(OSError):  # who asked has left
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


if __name__ == "__main__":
    with fake_pool() as running:
        running.delay_s = 0.01
        print(running.address, flush=True)
        threading.Event().wait()
