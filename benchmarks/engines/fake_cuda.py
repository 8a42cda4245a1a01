"""A CUDA device that is not there: torch's fake tensors take the engine's CUDA branches.

Nothing is computed, and no weights exist, so a 7B runs on a laptop in a tenth of a second. What is
checked: names and arguments of torch's calls, shapes, dtypes and devices; copies and questions that
would make the host wait; what flash attention and cuBLAS refuse; room on the device. What is
recorded: each kernel with its operations and bytes, copies, events, and the bytes that live.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.made import made_by
from engines.refusals import Fault, check_flash, check_scaled_product
from polar_ray.config import NativeEngineConfig
from polar_ray.engine import failure
from polar_ray.engine.native import NativeEngine
from polar_ray.planning import Pack

GIB = 1 << 30
FLASH = ("_flash_attention_forward", "_varlen_attn")
PRODUCTS = ("mm", "addmm", "addmm_", "linear", "matmul", "_scaled_mm")
NUMBERS = (Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.item, Tensor.tolist)
GRAPH = "a graph"
"""The name of a replay among the kernels of a trace."""

GATHERS = ("index_select", "index", "embedding")


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    """Of its tensor inputs."""

    num_bytes: int
    """Read and written; what stands several times among the inputs by a stride of zero, once."""

    flops: int
    """Of products: two for each multiply-add."""


@dataclass(slots=True)
class Trace:
    """What one stretch of work did to the device."""

    ops: list[Op] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    """Bytes of each copy to the device."""

    downloads: list[int] = field(default_factory=list)
    """Bytes of each copy to the host."""

    waits: list[str] = field(default_factory=list)
    """What made the host wait."""

    base: int = 0
    """Bytes that lived at its start."""

    peak: int = 0
    """Most bytes that lived at once since, above `base`."""


class FakeCuda:
    """A device of `total_bytes`, to be entered; `find_varlen`'s trial finds an error of `error`."""

    def __init__(
        self,
        *,
        total_bytes: int = 140 * GIB,
        capability: tuple[int, int] = (9, 0),
        error: float = 0.0,
    ) -> None:
        self.total_bytes, self.capability, self.error = total_bytes, capability, error
        self.live = self.reserved = 0
        self.trace = Trace()
        self.reduced: list[tuple[int, ...]] = []
        """Shapes of what was summed over ranks."""

        self.strict = False
        """Whether waiting is a fault: while packs are submitted."""

        self._sizes: dict[int, weakref.ref[Any]] = {}
        self._pinned: dict[int, Tensor] = {}
        self._stack = ExitStack()
        self.usual = _Stream(self)
        self.working: set[_Stream] = set()
        """Other streams, for which the usual one does not wait yet."""

    def __enter__(self) -> FakeCuda:
        patch = self._patch
        patch(torch.cuda, "is_available", lambda: True)
        patch(torch.cuda, "device_count", lambda: 1)
        patch(torch.cuda, "get_device_capability", lambda *_: self.capability)
        patch(torch.cuda, "get_device_name", lambda *_: "fake")
        patch(torch.cuda, "mem_get_info", self._mem_get_info)
        patch(torch.cuda, "memory_allocated", lambda *_: self.live)
        patch(torch.cuda, "memory_reserved", lambda *_: self.reserved)
        patch(torch.cuda, "empty_cache", self._empty_cache)
        patch(torch.cuda, "synchronize", lambda *_: self.wait("the whole device"))
        patch(torch.cuda, "current_stream", lambda *_: self.usual)
        patch(torch.cuda, "Event", lambda **_: _Event(self))
        patch(torch.cuda, "Stream", lambda **_: _Stream(self))
        patch(torch.cuda, "stream", self._on)
        patch(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        patch(torch.cuda, "CUDAGraph", lambda: _Graph(self))
        patch(torch.cuda, "graph", lambda graph, **_: graph.recording())
        patch(torch.Tensor, "pin_memory", lambda tensor, *_: self.pin(tensor))
        patch(torch.distributed, "all_reduce", self._all_reduce)
        self._patch_loading()
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        self._stack.enter_context(_Kernels(self))
        self._stack.enter_context(_Calls(self))
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def _patch(self, where: Any, name: str, put: Any) -> None:
        self._stack.enter_context(mock.patch.object(where, name, put))

    def _patch_loading(self) -> None:
        """Checkpoints of `config_alone` have no files of weights."""

        def make(name: str, shape: tuple[int, ...]) -> Tensor:
            return torch.empty(shape, dtype=torch.bfloat16)

        def find_loss(device: str) -> None:
            return None  # it asks the device, which may wait after a failure

        self._stack.enter_context(made_by(make))
        self._patch(failure, "find_loss", find_loss)

    @contextmanager
    def _on(self, stream: _Stream) -> Iterator[None]:
        if not stream.may_start:
            raise Fault("another stream does not wait for what it works on")
        yield
        self.working.add(stream)

    def _all_reduce(self, tensor: Tensor, **_: Any) -> None:
        if tensor.device.type != "cuda" or not tensor.is_contiguous():
            raise Fault(f"all_reduce of {tensor.device}, contiguous: {tensor.is_contiguous()}")
        self.reduced.append(tuple(tensor.shape))

    # Memory.

    def _mem_get_info(self, *_: Any) -> tuple[int, int]:
        return self.total_bytes - self.reserved, self.total_bytes

    def _empty_cache(self) -> None:
        self.reserved = self.live

    def watch(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor on the device until it dies."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type != "cuda" or key in self._sizes:
            return
        if self.live + size > self.total_bytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {size} beside {self.live} bytes")

        def gone(_: object) -> None:
            del self._sizes[key]
            self.live -= size

        self._sizes[key] = weakref.ref(storage, gone)
        self.live += size
        self.reserved = max(self.reserved, self.live)
        self.trace.peak = max(self.trace.peak, self.live - self.trace.base)

    def pin(self, tensor: Tensor) -> Tensor:
        """Marks host memory as pinned."""
        self._pinned[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned

    # Order.

    def wait(self, what: str) -> None:
        """The host waits: a fault while a pack is submitted."""
        if self.strict:
            raise Fault(f"the host waits for {what} while a pack is submitted")
        self.trace.waits.append(what)

    @contextmanager
    def tracing(self) -> Iterator[Trace]:
        """A trace of its own for what is done within."""
        before, self.trace = self.trace, Trace(base=self.live)
        try:
            yield self.trace
        finally:
            before.peak = max(before.peak, self.trace.base + self.trace.peak - before.base)
            self.trace = before

    @contextmanager
    def hurrying(self) -> Iterator[None]:
        """Within, waiting is a fault."""
        before, self.strict = self.strict, True
        try:
            yield
        finally:
            self.strict = before

    # The engine.

    def engine(self, folder: Path, *, rank: int = 0, world_size: int = 1, **settings: Any) -> Any:
        """A `NativeEngine` on this device."""
        # No kernel runs here, and no trial of one can be timed.
        config = NativeEngineConfig(**{"device": "cuda", "kernels": False, **settings})
        return NativeEngine(config, folder, rank=rank, world_size=world_size)

    def submit(self, engine: Any, pack: Pack) -> tuple[Any, Trace]:
        """A pack on its way, which must not have waited, and what it took."""
        with self.tracing() as trace, self.hurrying():
            pending = engine.submit(pack)
        return pending, trace


class _Event:
    def __init__(self, device: FakeCuda) -> None:
        self._device, self._recorded = device, False

    def record(self, *_: Any) -> None:
        self._recorded = True

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        if not self._recorded:
            raise Fault("an event that was never recorded is waited for: nothing is")
        self._device.wait("an event")


class _Stream:
    def __init__(self, device: FakeCuda) -> None:
        self._device, self.may_start = device, False

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._device.wait("a stream")

    def wait_stream(self, other: _Stream) -> None:
        if self is self._device.usual:
            self._device.working.discard(other)
        else:
            self.may_start = True


class _Graph:
    """A CUDA graph: kernels alone, on memory that stays."""

    def __init__(self, device: FakeCuda) -> None:
        self._device, self._trace = device, Trace()

    @contextmanager
    def recording(self) -> Iterator[None]:
        if self._device.working:
            raise Fault("a graph is recorded while another stream works")
        with self._device.tracing() as self._trace, self._device.hurrying():
            yield
        if self._trace.uploads or self._trace.downloads:
            raise Fault("a graph is recorded with a copy from or to the host")

    def replay(self) -> None:
        if not self._trace.ops:
            raise Fault("a graph is replayed that holds no kernels")
        self._device.trace.ops.append(Op(GRAPH, (), 0, 0))


class _Calls(TorchFunctionMode):
    """torch's Python calls: what a build without CUDA cannot do."""

    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.__getitem__:
            return _getitem(*args)
        if func is torch.Tensor.numpy and isinstance(args[0], FakeTensor):
            if args[0].device.type != "cpu":
                raise Fault("numpy() of a tensor on the device")
            return np.zeros(args[0].shape, dtype=np.float32)
        if func is torch.Tensor.copy_:
            return torch.ops.aten.copy_(*args, **kwargs)
        if func in NUMBERS and args[0].device.type == "cuda":
            self._device.wait("a number")
            return self._device.error
        pinned = kwargs.pop("pin_memory", False)
        args = tuple(map(_first_device, args))
        out = func(*args, **{name: _first_device(value) for name, value in kwargs.items()})
        return self._device.pin(out) if pinned else out


def _first_device(value: Any) -> Any:
    """cuda as cuda:0: a build without CUDA cannot look up the current device."""
    if isinstance(value, str) and value == "cuda":
        return torch.device("cuda", 0)
    if isinstance(value, torch.device) and value == torch.device("cuda"):
        return torch.device("cuda", 0)
    return value


def _getitem(x: Tensor, key: Any) -> Tensor:
    """`Tensor.__getitem__` in single operators: the one in C++ takes hold of the CUDA device."""
    aten = torch.ops.aten
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        missing = x.dim() - sum(k is not None and k is not Ellipsis for k in keys)
        keys[at : at + 1] = [slice(None)] * missing
    dim = 0
    indices: list[Tensor | None] = []
    for k in keys:
        if isinstance(k, int):
            x = aten.select.int(x, dim, k)
            continue
        if k is None:
            x = aten.unsqueeze(x, dim)
        elif isinstance(k, slice):
            start, stop, step = k.indices(x.shape[dim])
            x = aten.slice.Tensor(x, dim, start, stop, step)
        elif not isinstance(k, Tensor):
            k = torch.tensor(k).to(x.device)
        elif k.dtype not in (torch.int32, torch.int64):
            raise Fault(f"an index of {k.dtype}, whose number of hits the host waits for")
        elif k.device != x.device:
            raise Fault(f"an index on {k.device} into {x.device}")
        indices.append(k if isinstance(k, Tensor) else None)
        dim += 1
    return aten.index.Tensor(x, indices) if any(k is not None for k in indices) else x


class _Kernels(TorchDispatchMode):
    """torch's operators: checks and records each."""

    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = kwargs or {}, self._device
        name = func._schema.name.split("::")[-1]
        inputs = _tensors((args, kwargs))
        if name in FLASH:
            check_flash(*args[:7])
        elif name == "_scaled_mm":
            check_scaled_product(*args[:2])
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Fault(f"{name} makes the host wait: {error}") from None
        outputs = _tensors(out)
        for tensor in outputs:
            device.watch(tensor)
        goes_on = bool(kwargs.get("non_blocking") or (name == "copy_" and any(args[2:])))
        self._note(func, name, inputs, outputs, goes_on)
        return out

    def _note(
        self,
        func: Any,
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        goes_on: bool,
    ) -> None:
        here = [x.device.type == "cuda" for x in outputs]
        sources = inputs[1:] if name == "copy_" else inputs
        before = [x.device.type == "cuda" for x in sources]
        trace, size = self._device.trace, sum(map(_size, outputs))
        if any(here) and sources and not any(before):
            trace.uploads.append(size)
            self._check_copy("to the device", inputs[-1], goes_on)
        elif outputs and not any(here) and any(before):
            trace.downloads.append(size)
            self._check_copy("to the host", outputs[0], goes_on)
        elif any(here) and not _is_view(func, inputs, outputs) and "empty" not in name:
            read = sum(min(_size(x), x.untyped_storage().nbytes()) for x in inputs)
            if name in GATHERS:
                read = size + sum(_size(x) for x in inputs if not x.is_floating_point())
            shapes = tuple(tuple(x.shape) for x in inputs)
            trace.ops.append(Op(name, shapes, read + size, _flops(name, inputs)))

    def _check_copy(self, way: str, host: Tensor, goes_on: bool) -> None:
        """Only pinned memory is copied while the host goes on."""
        if not (goes_on and self._device.is_pinned(host)):
            self._device.wait(f"a copy {way}")


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _is_view(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    if func._schema.is_mutable or not outputs:
        return False
    storages = {x.untyped_storage()._cdata for x in inputs}
    return all(x.untyped_storage()._cdata in storages for x in outputs)


def _flops(name: str, inputs: Sequence[Tensor]) -> int:
    """Of products; attention's depend on its borders, which nobody knows here."""
    if name not in PRODUCTS:
        return 0
    left, right = inputs[-2:] if name.startswith("addmm") else inputs[:2]
    outputs = right.shape[0] if name == "linear" else right.shape[-1]
    return 2 * left.numel() * outputs
