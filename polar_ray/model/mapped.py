"""Files from which weights are mapped: who writes to one changes the model that is in use.

Nobody writes to a file that gives way to another of its name: it stays for as long as it is mapped.
One that is cut short ends the process (SIGBUS) as soon as what is gone is read.
"""

from __future__ import annotations

import os
from pathlib import Path


class MappedFiles:
    """Files, and how they were when they were mapped."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._states: dict[Path, tuple[int, int]] = {}

    def add(self, path: Path) -> None:
        """A file that was mapped just now, perhaps not for the first time."""
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._states[path] = _state(self._descriptors[path])

    def changed(self) -> Path | None:
        """A file that was written to since."""
        for path, descriptor in self._descriptors.items():
            if _state(descriptor) != self._states[path]:
                return path
        return None

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def _state(descriptor: int) -> tuple[int, int]:
    """Not the time of its last change, which new names and rights set, too."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
