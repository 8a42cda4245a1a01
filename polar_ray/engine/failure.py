"""What a failed operation of torch means: less may fit, the device is lost, or only this failed.

After a device-side assert, an illegal memory access, an uncorrectable memory error and the like,
every later operation of the process fails, until it ends. Which errors those are differs between
drivers and versions of torch, so the device itself is asked: it computes, or it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from polar_ray.errors import DeviceLost, EngineError, OutOfMemory, PolarRayError

NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In the message of an error that torch raises as another type, where a library of the device's
asked for memory, not torch."""


@contextmanager
def explained(what: str, device: str) -> Iterator[None]:
    """Raises torch's errors within as what they mean for `what`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PolarRayError):
            raise
        raise explain(error, what, device) from error


def explain(error: RuntimeError, what: str, device: str) -> EngineError:
    """The failure of `what` on a device as `OutOfMemory`, `DeviceLost` or `EngineError`."""
    if (lost := find_loss(device)) is not None:
        return DeviceLost(
            f"{device} is lost, and this process with it: {what} failed ({_gist(error)}), and now "
            f"everything does ({_gist(lost)}); a new process can go on"
        )
    if is_out_of_memory(error):
        return OutOfMemory(f"no room for {what}")
    return EngineError(f"{what} failed: {error}")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an operation failed for want of memory alone."""
    return isinstance(error, torch.OutOfMemoryError) or any(t in str(error) for t in NO_ROOM)


def find_loss(device: str) -> RuntimeError | None:
    """What the device answers to the smallest operation there is, if it is an error."""
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:
        return None if is_out_of_memory(error) else error
    return None


def check_stream(device: str) -> None:
    """Raises what an operation that was sent earlier came to, if it is known; waits for nothing."""
    if device == "cuda":
        torch.cuda.current_stream().query()


def _gist(error: RuntimeError) -> str:
    """The first line: those below tell how to debug kernels."""
    return str(error).partition("\n")[0]
