"""Host arrays to a device in a single copy, from pinned memory where that makes it asynchronous."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def send(arrays: Sequence[Integers], device: torch.device | str) -> list[Tensor]:
    """int32 tensors of one-dimensional integer arrays, all views of one buffer on `device`."""
    whole = torch.from_numpy(np.concatenate(arrays).astype(np.int32, copy=False))
    if torch.device(device).type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    return list(torch.split(whole, [len(array) for array in arrays]))
