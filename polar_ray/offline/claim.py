"""One job, one driver: the claim of a driver on its output folder.

The claim is a file that only one driver can make, and that it writes anew every few seconds. Who
finds one there is refused, unless its owner is gone: a process of this host that does not run any
more is gone at once, any other owner once it has not renewed its claim for `GONE_S`. No clocks are
compared: who waits sees for itself that nothing changes. An owner that finds itself replaced stops.

Files are made exclusively, on NFS as well. So are objects of stores by fsspec that can (S3, GCS).
Arrow's own S3 and GCS cannot: there, of two drivers that begin within `SETTLE_S`, the last to write
has the claim. Where a store is slower than that, or two take over the same claim at the same moment
on a filesystem without locks, both may have it until they next renew it; then one stops.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
from pyarrow import fs as pafs

from polar_ray.data.storage import Place, read_whole, remove, remove_partial, write_whole
from polar_ray.errors import JobStopped

logger = logging.getLogger(__name__)

CLAIM = "_driver.json"
RENEW_S, GONE_S = 5.0, 60.0
LOOK_S = 1.0
"""Between two looks at a claim of which it is not known whether its owner lives."""

TRIES = 30
"""To make a claim, or to find out why not."""

SETTLE_S = 2.0
"""After which a store shows what was put last."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A driver, and by what it can be seen to be gone."""

    id: str
    host: str
    pid: int
    since: str
    started: str
    """When its process was, as the kernel counts: another process may get its id."""

    pids: str
    """Where its process id means something: one boot of a host, one namespace. Empty where the
    system does not say."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_known_to_be_gone(self) -> bool | None:
        """None where this process cannot know."""
        if not self.pids or self.pids != _pids():
            return None
        return _started(self.pid) != self.started


def this_process() -> Owner:
    """As the owner of a claim."""
    pid = os.getpid()
    started, pids = _started(pid), _pids()
    return Owner(uuid.uuid4().hex, socket.gethostname(), pid, _now(), started, pids)


@contextmanager
def claimed(where: Place) -> Iterator[Claim]:
    """The claim on a folder for as long as the block. Raises `JobStopped` that names the owner if
    another driver has it."""
    claim = Claim(where, this_process())
    try:
        claim.take()
    except OSError as error:
        raise JobStopped(f"{where.path} cannot be claimed: {error}") from None
    over = threading.Event()
    renewing = threading.Thread(target=claim.renew_until, args=(over,), daemon=True)
    renewing.start()
    try:
        yield claim
    finally:
        over.set()
        renewing.join()
        claim.release()


class Claim:
    """The file that says whose a folder is."""

    def __init__(self, where: Place, owner: Owner) -> None:
        self._where = where
        self._owner = owner
        self._lost: str | None = None
        self._renewals = 0

    def check(self) -> None:
        """Raises `JobStopped` once the folder is another driver's."""
        if self._lost is not None:
            raise JobStopped(f"{self._where.path}: {self._lost}. This run ends; parts stay")

    def take(self) -> None:
        """Makes the claim, in place of one whose owner is gone."""
        for _ in range(TRIES):
            if self._make():
                # What drivers left that were killed while they wrote theirs. Of one that lives,
                # which is about to be refused, it costs a try.
                remove_partial(self._where, lambda name: name == CLAIM)
                return
            found = self._read()
            if found is None:  # it has just been given back, or is none
                self._check_file()
                time.sleep(LOOK_S)
                continue
            owner = _owner(found)
            if owner is not None and owner.id == self._owner.id:
                return  # NFS has made it, and its answer was lost
            gone = owner.is_known_to_be_gone if owner else None
            if gone is False or (gone is None and self._changes(found)):
                raise JobStopped(
                    f"{self._where.path} is another driver's: {owner or 'unknown'}. Wait for it or "
                    "end it; the same command then goes on where it was"
                )
            logger.warning("%s: its driver is gone (%s); this one goes on", self._where.path, owner)
            self._take_away(found)
        raise JobStopped(
            f"{self._where.within(CLAIM)} was neither to be made nor to be read, {TRIES} times; "
            "other drivers come and go there, or it is not to be written"
        )

    def _check_file(self) -> None:
        """Raises `JobStopped` where something stands in the claim's place that is no file."""
        path = self._where.within(CLAIM)
        if isinstance(self._where.filesystem, pafs.LocalFileSystem):
            try:
                is_file = stat.S_ISREG(os.lstat(path).st_mode)
            except FileNotFoundError:
                return
        else:
            kind = self._where.filesystem.get_file_info(path).type
            is_file = kind in (pafs.FileType.File, pafs.FileType.NotFound)
        if not is_file:
            raise JobStopped(
                f"{path} is no file, and a driver claims its folder with one; take it away"
            )

    def renew(self) -> None:
        """Shows that this driver lives; notes if the folder is its own no more."""
        found = self._read()
        owner = None if found is None else _owner(found)
        if owner is None or owner.id != self._owner.id:
            self._lost = f"another driver has taken it over ({owner or 'unknown'})"
        else:
            write_whole(self._where, CLAIM, self._said())

    def renew_until(self, over: threading.Event) -> None:
        """`renew`, every few seconds."""
        last = time.monotonic()
        while self._lost is None and not over.wait(RENEW_S):
            try:
                self.renew()
                last = time.monotonic()
            except OSError as error:
                logger.warning("the claim on %s is not renewed: %s", self._where.path, error)
                if time.monotonic() - last > GONE_S - RENEW_S:  # others will take it for gone
                    self._lost = f"this driver could not renew its claim: {error}"

    def release(self) -> None:
        """Gives the folder back."""
        with suppress(OSError):
            found = self._read()
            if found is not None and (owner := _owner(found)) and owner.id == self._owner.id:
                self._where.filesystem.delete_file(self._where.within(CLAIM))

    def _said(self) -> bytes:
        """Other words each time, whatever the clock says."""
        self._renewals += 1
        return orjson.dumps({**asdict(self._owner), "renewed": _now(), "turn": self._renewals})

    def _make(self) -> bool:
        """Whether the claim is this driver's now."""
        filesystem, path = self._where.filesystem, self._where.within(CLAIM)
        if isinstance(filesystem, pafs.LocalFileSystem):
            try:
                return write_whole(self._where, CLAIM, self._said(), replace=False)
            except FileNotFoundError:  # whoever has made it has tidied up
                return False
        if (store := _fsspec(self._where)) is not None:
            try:
                store.pipe_file(path, self._said(), mode="create")
            except FileExistsError:
                return False
            return True
        said = self._said()
        if not write_whole(self._where, CLAIM, said, replace=False):
            return False
        time.sleep(SETTLE_S)
        return self._read() == said

    def _read(self) -> bytes | None:
        if (store := _fsspec(self._where)) is not None:
            store.invalidate_cache()  # it may remember what is not so any more
        return read_whole(self._where, CLAIM)

    def _changes(self, found: bytes) -> bool:
        """Whether a claim is renewed while one looks at it."""
        logger.warning(
            "%s has a driver of which it is not known whether it still runs (%s); waiting up to "
            "%g s for it to show", self._where.path, _owner(found) or "unknown", GONE_S,
        )  # fmt: skip
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            if (now := self._read()) != found:
                return now is not None
        return False

    def _take_away(self, found: bytes) -> None:
        """Takes a claim away, and no other: somebody else may have done so and made one."""
        with self._alone():
            if self._read() == found:
                remove(self._where, CLAIM)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else takes a claim away meanwhile, where the filesystem knows locks of folders."""
        if not isinstance(self._where.filesystem, pafs.LocalFileSystem):
            yield
            return
        folder = os.open(self._where.path, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _owner(claim: bytes) -> Owner | None:
    try:
        said = orjson.loads(claim)
        return Owner(**{field.name: said[field.name] for field in fields(Owner)})
    except (ValueError, TypeError, KeyError):
        return None


def _fsspec(where: Place) -> Any:
    """The store of a place, if it is one of fsspec's."""
    handler = getattr(where.filesystem, "handler", None)
    return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _pids() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Empty for a process that does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
