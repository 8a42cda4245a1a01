"""A rescoring job to which things happen at moments that are given: it is killed, a read fails, the
disk is full. Run in processes of its own by `offline/test_random_runs.py`."""

from __future__ import annotations

import os
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


def main(settings: dict[str, Any], source: str, out: str, log: Path, faults: Faults) -> None:
    """The job, with the faults; ends the process with an exit code."""
    sys.stderr = sys.stdout = log.open("a", buffering=1)
    _plant(faults)
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


def _plant(faults: Faults) -> None:
    count = 0

    def moment() -> int:
        nonlocal count
        count += 1
        if count == faults.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    def reading(do: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any) -> Any:
            if moment() in faults.reads_fail_at:
                raise OSError(5, "Input/output error")
            return do(*arguments)

        return read

    def writing(do: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            now = moment()
            if faults.full_from is not None and now >= faults.full_from:
                raise OSError(28, "No space left on device")
            return do(*arguments, **named)

        return write

    formats.Reader._next = reading(formats.Reader._next)  # type: ignore[method-assign]
    formats.Reader._range_of_lines = reading(formats.Reader._range_of_lines)  # type: ignore[method-assign]
    for name in ("fsync", "link", "replace"):
        setattr(os, name, writing(getattr(os, name)))
