"""A rescoring job to which things happen at moments that are given: it is killed, a read fails, the
disk is full, somebody damages what it has written or puts a file into its input. Run in processes
of its own by `offline/test_random_runs.py`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polar_ray.config import RescoreConfig
from polar_ray.data import formats
from polar_ray.errors import ConfigError, JobStopped
from polar_ray.offline import rescore

DONE, STOPPED, REFUSED, BROKEN = range(4)
"""Exit codes of `main`: of a job that says that it is done, and of ones that do not. The last is a
mistake of polar_ray's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens, by the number of the moment: every read, sync, link and rename is one."""

    kill_at: int | None = None
    reads_fail_at: frozenset[int] = frozenset()
    full_from: int | None = None
    damage_from: int | None = None
    """A bit of a part, or of a shuffle file, as soon as there is one."""

    arrives_from: int | None = None
    """A file in the input."""


def main(settings: dict[str, Any], source: str, out: str, log: Path, faults: Faults) -> None:
    """The job, with the faults; ends the process with an exit code."""
    sys.stderr = sys.stdout = log.open("a", buffering=1)
    _plant(faults, Path(source), Path(out))
    try:
        rescore(RescoreConfig.model_validate(settings), source, out)
        code = DONE
    except (JobStopped, ConfigError) as error:
        code = STOPPED if isinstance(error, JobStopped) else REFUSED
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    except BaseException:
        code = BROKEN
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def late(source: Path) -> Path:
    """The file that arrives: the rows of another, a second time."""
    first = min(path for path in source.iterdir() if path.stem != "late")
    return first.with_stem("late")


def _plant(faults: Faults, source: Path, out: Path) -> None:
    count, done = 0, set[str]()
    rng = random.Random(repr(faults))

    def moment(name: str) -> int:
        nonlocal count
        count += 1
        if count == faults.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith(("part-", "_shuffle-", "input")):  # before the job looks at the end
            meddle()
        return count

    def meddle() -> None:
        due = {"damage": faults.damage_from, "arrive": faults.arrives_from}
        wanted = {name for name, at in due.items() if at is not None and count >= at} - done
        written = sorted([*out.glob("part-*"), *out.glob("_shuffle-*")])
        if "damage" in wanted and written:
            done.add("damage")
            path = rng.choice(written)
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            sys.stderr.write(f"damaged {path.name}\n")
        if "arrive" in wanted:
            done.add("arrive")
            path = late(source)
            shutil.copy(path.with_stem("0"), path)

    def reading(do: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any) -> Any:
            if moment("input") in faults.reads_fail_at:
                raise OSError(5, "Input/output error")
            return do(*arguments)

        return read

    def writing(do: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            file = arguments[-1]
            path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)
            now = moment(os.path.basename(path).lstrip("."))
            if faults.full_from is not None and now >= faults.full_from:
                raise OSError(28, "No space left on device")
            return do(*arguments, **named)

        return write

    formats.Reader._next = reading(formats.Reader._next)  # type: ignore[method-assign]
    formats.Reader._range_of_lines = reading(formats.Reader._range_of_lines)  # type: ignore[method-assign]
    for name in ("fsync", "link", "replace"):
        setattr(os, name, writing(getattr(os, name)))
