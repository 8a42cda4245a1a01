"""A device that died: every operation of torch fails, as after a device-side assert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from polar_ray.engine.protocol import Pending
from polar_ray.planning import Pack
from polar_ray.scorer import Scorer

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported elsewhere"


class Dead(TorchDispatchMode):
    """Within it, torch computes nothing in this thread."""

    def __init__(self, message: str = ASSERT) -> None:
        super().__init__()
        self._message = message

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise torch.AcceleratorError(self._message)


class Dying:
    """Makes the device of a scorer's engine die in the pack of this number, and stay dead."""

    def __init__(self, scorer: Scorer, at: int = 0) -> None:
        self.submitted = 0
        self._submit, self._at = scorer.engine.submit, at
        scorer.engine.submit = self.submit  # type: ignore[method-assign]

    def submit(self, pack: Pack) -> Pending:
        self.submitted += 1
        with self._device():
            return self._submit(pack)

    @contextmanager
    def _device(self) -> Iterator[None]:
        if self.submitted <= self._at:
            yield
        else:
            with Dead():
                yield
