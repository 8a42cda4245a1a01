"""Finding the actors of one test among all processes of a machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TITLE = b"ray::rescore"
MARK = "POLAR_RAY_TEST_MARK"
"""Environment variable that a test gives to the processes that it starts."""


def titled(title: bytes = TITLE) -> list[int]:
    """Ids of processes by their title, which Ray sets for actors and tasks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(title):
                found.append(int(path.parent.name))
    return found


def below(pid: int, ancestor: int) -> bool:
    """Whether a process descends from another."""
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def own(title: bytes = TITLE) -> list[int]:
    """Ids of the processes with a title in the Ray clusters that this process has started: tests
    that run beside this one have actors of the same names, which are not to be hit."""
    return [pid for pid in titled(title) if below(pid, os.getpid())]


def replica_pids(pool: str, deployment: str = "Replica") -> list[int]:
    """The processes of a pool's replicas, or those of its routers."""
    return own(f"ray::ServeReplica:{pool}:{deployment}".encode())


def rss_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes together, in MB."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def marked(mark: str) -> list[int]:
    """Ids of processes whose environment carries a mark, their parents dead or alive."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill(*pids: int) -> None:
    """SIGKILL, for those that still live."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
