"""sglang's process: scores lists of token ids for the process that started it, and ends with it.

Run by the interpreter of sglang's own environment, so it imports the standard library and sglang
alone: no pins of ours meet sglang's. Both sides speak frames over one socket: a kind, a number by
which an answer names its question, and a body. What sglang prints goes to stdout and stderr.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

START, READY, SCORE, SCORES, UPDATE, UPDATED, FAILED = range(7)
"""Kinds of frames. Bodies are JSON, but for those of SCORE (`join_records`) and SCORES (float32).
"""

IN_FLIGHT = 96
"""Records that sglang has at once. Above 128 that wait, it may stop looking for prefixes."""

FLUSH_S = 5.0
"""How long sglang may take to become idle, in one try of several."""

FLUSH_TRIES = 12

WATCH_S = 0.2
"""How often sglang's processes, and the one that started this one, are looked for."""

_HEAD = struct.Struct("<BIQ")
_CHUNK = 1 << 20


class Frame(NamedTuple):
    """One message."""

    kind: int
    number: int
    body: bytes


def send_frame(connection: socket.socket, kind: int, number: int, body: bytes) -> None:
    """Sends a message whole."""
    connection.sendall(_HEAD.pack(kind, number, len(body)) + body)


def receive_frame(connection: socket.socket) -> Frame:
    """The next message; `EOFError` where the other side is gone."""
    kind, number, length = _HEAD.unpack(_receive(connection, _HEAD.size))
    return Frame(kind, number, _receive(connection, length))


def _receive(connection: socket.socket, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        if not (part := connection.recv(min(length, _CHUNK))):
            raise EOFError("the other side is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def join_records(records: Sequence[Sequence[int]], after: Sequence[int]) -> bytes:
    """The body of SCORE: records of token ids, and for each the one that must be done before it
    is sent (-1: none)."""
    numbers = array.array("i", [len(records), *map(len, records), *after])
    for ids in records:
        numbers.extend(ids)
    return numbers.tobytes()


def split_records(body: bytes) -> tuple[list[list[int]], list[int]]:
    """The reverse of `join_records`."""
    numbers = array.array("i")
    numbers.frombytes(body)
    count, *rest = numbers.tolist()
    lengths, after, ids = rest[:count], rest[count : 2 * count], rest[2 * count :]
    records, start = [], 0
    for length in lengths:
        records.append(ids[start : start + length])
        start += length
    return records, after


class Host:
    """sglang, and the socket to whom it works for."""

    def __init__(self, engine: Any, connection: socket.socket) -> None:
        self._manager = engine.tokenizer_manager
        self._connection = connection
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._working = set[asyncio.Task[None]]()

    async def run(self, frames: queue.SimpleQueue[Frame]) -> None:
        """Answers for ever: the end of the socket ends the process."""
        loop = asyncio.get_running_loop()
        while True:
            frame = await loop.run_in_executor(None, frames.get)
            task = loop.create_task(self._answer(frame))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _answer(self, frame: Frame) -> None:
        try:
            if frame.kind == SCORE:
                scores = await self._score(*split_records(frame.body))
                kind, body = SCORES, array.array("f", scores).tobytes()
            else:
                await self._update(**json.loads(frame.body))
                kind, body = UPDATED, b"{}"
        except Exception as error:  # the other side decides what it means
            kind, body = FAILED, failure(error)
        send_frame(self._connection, kind, frame.number, body)

    async def _score(self, records: list[list[int]], after: list[int]) -> list[float]:
        tasks: list[asyncio.Task[float]] = []
        for ids, leader in zip(records, after):  # noqa: B905  (any Python that sglang runs on)
            first = tasks[leader] if leader >= 0 else None
            tasks.append(asyncio.ensure_future(self._record(ids, first)))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found  # type: ignore[return-value]

    async def _record(self, ids: list[int], first: asyncio.Task[float] | None) -> float:
        if first is not None:
            await asyncio.wait([first])
        async with self._room:
            reply = await self._embed(ids)
        (score,) = reply["embedding"]
        return float(score)

    async def _embed(self, ids: list[int]) -> Any:
        from sglang.srt.managers.io_struct import EmbeddingReqInput

        replies = self._manager.generate_request(EmbeddingReqInput(input_ids=ids), None)
        async with contextlib.aclosing(replies):
            return await replies.__anext__()

    async def _update(self, model_path: str) -> None:
        """Other weights of the same shape. What stays in the cache would spoil every later score,
        and sglang flushes it only while it has nothing to do."""
        from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

        for _ in range(FLUSH_TRIES):
            if (await self._manager.flush_cache(timeout_s=FLUSH_S)).success:
                break
        else:
            raise RuntimeError("sglang does not become idle")
        request = UpdateWeightFromDiskReqInput(model_path=model_path)
        success, message, *_ = await self._manager.update_weights_from_disk(request, None)
        if not success:
            raise RuntimeError(message)


def failure(error: BaseException) -> bytes:
    """The body of FAILED."""
    kind = type(error).__name__
    return json.dumps({"kind": kind, "message": f"{kind}: {error}"}).encode()


def resolve(arguments: dict[str, Any]) -> dict[str, Any]:
    """sglang's arguments, once its environment has said what "auto" means."""
    import torch

    device = arguments["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("engine.device=cuda, but sglang's environment sees no CUDA device")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    by_device = arguments.pop(f"on_{device}")
    arguments = {name: value for name, value in arguments.items() if not name.startswith("on_")}
    resolved = {**by_device, **arguments, "device": device}
    if resolved["dtype"] == "auto":
        resolved["dtype"] = "bfloat16" if device == "cuda" else "float32"
    if device == "cpu":
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"  # read when sglang is imported
    return resolved


def start(arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A running engine, and what the other side must know of it."""
    resolved = resolve(arguments)
    import sglang

    # The one piece of remote code in its reach is a config class of ours; see `view.py`.
    engine = sglang.Engine(**{**resolved, "trust_remote_code": True})
    infos = engine._scheduler_init_result.scheduler_infos
    return engine, {
        "device": resolved["device"],
        "dtype": resolved["dtype"],
        "version": sglang.__version__,
        "max_total_tokens": min(info["max_total_num_tokens"] for info in infos),
        "max_input_tokens": min(info["max_req_input_len"] for info in infos),
    }


def receive_all(connection: socket.socket, frames: queue.SimpleQueue[Frame], folder: str) -> None:
    """Takes messages for as long as the other side lives, then ends this process and its
    children, whatever they are at: sglang's loading and a stuck loop hold up no thread."""
    try:
        while True:
            frames.put(receive_frame(connection))
    except (EOFError, OSError):
        end(folder)


def stay_below(parent: int, folder: str) -> None:
    """Ends this process once `parent` has ended. The socket does not tell where a fork of the
    parent's still holds its other end. The kernel's own signal for this is not used: it comes when
    the thread that started this process ends. A stopped process (SIGSTOP) ends when it goes on."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    end(folder)


def watch(pids: Sequence[int], folder: str) -> None:
    """Ends this process once one of its children has ended: sglang would take seconds to say so,
    and where its handlers are not installed, never does."""
    while not any(map(_has_ended, pids)):
        time.sleep(WATCH_S)
    print(f"one of sglang's processes ({pids}) has ended", flush=True)
    end(folder)


def _has_ended(pid: int) -> bool:
    try:
        # Left for sglang to collect.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, options) is not None
    except ChildProcessError:  # collected already, or a child's child
        return not os.path.exists(f"/proc/{pid}")


def end(folder: str) -> None:
    """Ends this process's group, and removes its folder: nobody else is left to."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main(descriptor: str, folder: str) -> None:
    """`child.py DESCRIPTOR FOLDER`: a socket that was inherited, and a folder for what is
    temporary."""
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)  # or children of this one would keep it open
    threading.Thread(
        target=stay_below, args=(os.getppid(), folder), daemon=True, name="parent"
    ).start()
    frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    threading.Thread(
        target=receive_all, args=(connection, frames, folder), daemon=True, name="receive"
    ).start()
    first = frames.get()
    try:
        engine, ready = start(json.loads(first.body))
    except BaseException as error:  # SystemExit too: the other side says it better
        send_frame(connection, FAILED, first.number, failure(error))
        raise
    children = engine.get_all_child_pids()
    threading.Thread(target=watch, args=(children, folder), daemon=True, name="watch").start()
    send_frame(connection, READY, first.number, json.dumps(ready).encode())
    # sglang serves only the loop on which it was first asked.
    engine.loop.run_until_complete(Host(engine, connection).run(frames))


if __name__ == "__main__":  # sglang's schedulers import this file anew
    main(*sys.argv[1:])
