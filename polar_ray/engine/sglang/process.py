"""The process that runs sglang, seen from ours: started, asked, and ended with all its children.

It has a session of its own, so that its end can be made sure of by one signal to its group. The
other way round, it ends itself when our end of the socket is gone, or this process, however that
ended; only where it is stopped (SIGSTOP), it ends no sooner than it goes on.
Knows frames and JSON, not what is scored.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from polar_ray.client.forks import remake_in_children
from polar_ray.engine.sglang import child
from polar_ray.engine.sglang.log import Log
from polar_ray.errors import ConfigError, DeviceLost, EngineError

logger = logging.getLogger(__name__)

WAY_OUT = (
    "make an environment for it (python -m venv DIR; DIR/bin/pip install sglang) on every node "
    "that scores, and set engine.python=DIR/bin/python"
)

LAST_WORDS_S = 2.0
"""What it has written is read for so long after its end."""


def interpreter(python: str | None) -> str:
    """The interpreter that has sglang; `ConfigError` where it certainly has not."""
    if python is None:
        if find_spec("sglang") is None:
            raise ConfigError(
                f"engine.type=sglang, but polar_ray's Python has no sglang: {WAY_OUT}"
            )
        return sys.executable
    if not os.access(python, os.X_OK) or not Path(python).is_file():
        raise ConfigError(f"engine.python={python} is no interpreter here: {WAY_OUT}")
    return python


class ChildError(Exception):
    """What sglang, or the file of ours that runs it, says of a question that failed."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """The name of its exception's class."""


class SGLangProcess:
    """One process with sglang. Not thread-safe: one caller at a time."""

    def __init__(self, python: str | None) -> None:
        command = [interpreter(python), "-I", child.__file__]
        self.log = Log()
        self.folder = Path(tempfile.mkdtemp(prefix="polar_ray-sglang-"))
        """For all that is temporary; removed at the end, whichever process ends first."""

        self._command = command
        self._lost: str | None = None
        self._number = 0
        self._answers: dict[int, child.Frame] = {}
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._forked = False
        remake_in_children(self)

    def after_fork(self) -> None:
        """A child that forks from this process has no sglang: it neither holds the socket, by which
        sglang knows that this process lives, nor ends what is not its own."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._process = self._reader = None
        self._lost, self._forked = "sglang belongs to the process that forked this one", True

    def start(
        self, arguments: Mapping[str, Any], environment: Mapping[str, str], timeout_s: float
    ) -> dict[str, Any]:
        """Starts sglang with these arguments and returns what it says of itself.

        Raises `ConfigError` where there is no sglang, else `EngineError`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = ours
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), str(self.folder)],
                env=dict(environment),
                cwd=self.folder,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
            )
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self.log), daemon=True, name="sglang-log"
        )
        self._reader.start()
        try:
            number = self.send(child.START, json.dumps(arguments).encode(), timeout_s)
            return dict(json.loads(self.receive(number, timeout_s)))
        except DeviceLost as error:
            raise EngineError(f"sglang did not start: {error}") from None
        except ChildError as error:
            if error.kind in ("ImportError", "ModuleNotFoundError"):
                raise ConfigError(
                    f"{self._command[0]} cannot import sglang ({error}): {WAY_OUT}"
                ) from None
            raise EngineError(f"sglang did not start: {error}; {self.log.gist}") from None

    def send(self, kind: int, body: bytes, timeout_s: float) -> int:
        """Asks for something; the number is for `receive`. Raises `DeviceLost`."""
        self._number += 1
        with self._losses(timeout_s) as connection:
            child.send_frame(connection, kind, self._number, body)
        return self._number

    def receive(self, number: int, timeout_s: float) -> bytes:
        """Waits for an answer. Raises `ChildError` for a question that failed, `DeviceLost` where
        the process is gone, or silent for so long; it is ended then."""
        with self._losses(timeout_s) as connection:
            while number not in self._answers:
                answer = child.receive_frame(connection)
                self._answers[answer.number] = answer
        answer = self._answers.pop(number)
        if answer.kind == child.FAILED:
            raise ChildError(**json.loads(answer.body))
        return answer.body

    @contextmanager
    def _losses(self, timeout_s: float) -> Iterator[socket.socket]:
        """The socket; what goes wrong with it ends the process."""
        if self._connection is None:
            raise DeviceLost(self._lost or "sglang was closed")
        self._connection.settimeout(timeout_s)
        try:
            yield self._connection
        except TimeoutError:
            raise self.lose(f"no answer for {timeout_s:.0f} s") from None
        except (EOFError, OSError) as error:
            raise self.lose(f"its process is gone ({error})") from None

    def lose(self, reason: str) -> DeviceLost:
        """Ends the process, because it cannot be trusted or reached any more."""
        self.close()
        self._lost = f"sglang is lost, and with it this engine: {reason}; {self.log.gist}"
        logger.error("sglang is lost: %s; its last lines:\n%s", reason, self.log.text)
        return DeviceLost(self._lost)

    def close(self) -> None:
        """Ends sglang and all its children, at once."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            # Before it is waited for: until then its number is nobody else's.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            if self._reader is not None:
                self._reader.join(LAST_WORDS_S)
        if not self._forked:
            shutil.rmtree(self.folder, ignore_errors=True)


def _read(lines: IO[str] | None, log: Log) -> None:
    assert lines is not None, "its output goes to a pipe"
    with lines:
        log.read(lines)
