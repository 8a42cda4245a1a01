"""Between host and device: copies that neither waits for, by pinned memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def send(arrays: Sequence[Integers], device: torch.device | str) -> list[Tensor]:
    """int32 tensors of one-dimensional integer arrays, all views of one buffer on `device`."""
    return split(join(arrays, device).to(device, non_blocking=True), arrays) if arrays else []


def join(arrays: Sequence[Integers], device: torch.device | str) -> Tensor:
    """All arrays as one int32 tensor on the host, from where `device` copies without a wait."""
    whole = torch.from_numpy(np.concatenate(arrays).astype(np.int32, copy=False))
    return whole.pin_memory() if torch.device(device).type == "cuda" else whole


def split(whole: Tensor, arrays: Sequence[Integers]) -> list[Tensor]:
    """Views of what `join` joined."""
    return list(torch.split(whole, [len(array) for array in arrays]))


class Fetched:
    """A tensor on its way to the host.

    The copy is queued with what made the tensor, so that it waits for nothing that the device is
    given later.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def result(self) -> Tensor:
        """Waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensor.cpu()
