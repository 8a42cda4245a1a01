"""The native engine on several devices of one node: a process each, all running every pack.

This process is rank 0; it sends each pack to the others over pipes. When one rank fails, the
others wait in an all-reduce for ever, so any failure ends the engine and counts as a lost device:
its owner must start a new process, as a pool's replica does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.device import choose_device
from polar_ray.engine.failure import check_stream
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Pending, Scores
from polar_ray.errors import ConfigError, DeviceLost, EngineError
from polar_ray.model import load_config
from polar_ray.model.tensor_parallel import check_divisible
from polar_ray.planning import Pack

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=10)
"""For loading, and for one pack: a rank that does not answer in time counts as dead."""

POLL_S = 1.0
"""How often rank 0 checks its own device while it waits for the others."""

STOP_S = 5.0


class TensorParallelEngine:
    """`NativeEngine`s of one model, divided by `engine.tensor_parallel_size`."""

    name = "native"

    def __init__(self, config: NativeEngineConfig, model_dir: Path) -> None:
        self._failed: str | None = None
        size = config.tensor_parallel_size
        check_divisible(load_config(model_dir), size)
        device = choose_device(config.device)
        if device == "cuda" and torch.cuda.device_count() < size:
            raise ConfigError(
                f"engine.tensor_parallel_size={size}, but torch sees "
                f"{torch.cuda.device_count()} CUDA device(s)"
            )
        # Not fork: the caller has threads, and perhaps a CUDA context.
        spawn = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="polar_ray-")
        rendezvous = Path(self._folder.name) / "rendezvous"
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(1, size):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_run_worker,
                args=(theirs, config, model_dir, rank, rendezvous),
                daemon=True,
                name=f"rank-{rank}",
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self._own = _load_rank(config, model_dir, 0, rendezvous)
            for pipe in self._pipes:
                self._receive(pipe)
        except BaseException:
            self.close()
            raise
        self.info = self._own.info

    def submit(self, pack: Pack) -> Pending:
        """One forward pass on all ranks at once."""
        self.check()
        try:
            for pipe, process in zip(self._pipes, self._processes, strict=True):
                if not process.is_alive():
                    raise EngineError(f"{process.name} has died with code {process.exitcode}")
                pipe.send(pack)
            pending = _PendingOnAllRanks(self, self._own.submit(pack))
        except Exception as error:  # the other ranks have the pack: none may be sent after it
            raise self.fail(error) from error
        return pending

    def check(self) -> None:
        """Raises `DeviceLost` if a rank has failed before."""
        if self._failed is not None:
            raise DeviceLost(f"this engine has lost a rank and must be replaced: {self._failed}")

    def fail(self, error: Exception) -> DeviceLost:
        """Marks the engine as broken."""
        self._failed = str(error)
        return DeviceLost(f"a rank failed, and with it the engine: {error}")

    def wait_for_workers(self) -> None:
        """Waits until every rank has done the oldest pack; raises what one of them reports."""
        for pipe in self._pipes:
            self._receive(pipe)

    def _receive(self, pipe: Connection) -> None:
        process = self._processes[self._pipes.index(pipe)]
        if pipe not in self._wait(pipe, process.sentinel):
            raise EngineError(f"{process.name} is silent; its exit code is {process.exitcode}")
        try:
            problem = pipe.recv()
        except EOFError:
            raise EngineError(f"{process.name} has died") from None
        if problem is not None:
            raise EngineError(f"{process.name}: {problem}")

    def _wait(self, *what: Any) -> list[Any]:
        """Those that are ready to be read; none after `TIMEOUT`."""
        deadline = time.monotonic() + TIMEOUT.total_seconds()
        while not (ready := wait(what, POLL_S)) and time.monotonic() < deadline:
            # They may be waiting for this rank, whose device is lost.
            check_stream(self._own.device)
        return ready

    @property
    def counters(self) -> dict[str, int]:
        """Rank 0's; the others do the same."""
        return self._own.counters

    def close(self) -> None:
        """Ends the other ranks and the process group."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:
                continue
        for process in self._processes:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        self._folder.cleanup()


class _PendingOnAllRanks:
    """The scores of rank 0, once all ranks are done."""

    def __init__(self, engine: TensorParallelEngine, own: Pending) -> None:
        self._engine = engine
        self._own = own

    def result(self) -> Scores:
        """See `Pending`."""
        self._engine.check()
        try:
            # First: where a rank has failed, this one's sums never end.
            self._engine.wait_for_workers()
            return self._own.result()
        except Exception as error:
            raise self._engine.fail(error) from error


def _load_rank(
    config: NativeEngineConfig, model_dir: Path, rank: int, rendezvous: Path
) -> NativeEngine:
    device = choose_device(config.device)
    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=rendezvous.as_uri(),
        rank=rank,
        world_size=config.tensor_parallel_size,
        timeout=TIMEOUT,
    )
    return NativeEngine(config, model_dir, rank=rank, world_size=config.tensor_parallel_size)


def _run_worker(
    pipe: Connection, config: NativeEngineConfig, model_dir: Path, rank: int, rendezvous: Path
) -> None:
    """What a rank other than 0 does: load, say so, and run packs until told to stop."""
    try:
        engine = _load_rank(config, model_dir, rank, rendezvous)
        pipe.send(None)
        while (pack := pipe.recv()) is not None:
            engine.submit(pack).result()
            pipe.send(None)
    except EOFError:
        logger.info("rank 0 is gone; rank %d stops", rank)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        # Without waiting for peers that wait for this one.
        os._exit(1)
    distributed.destroy_process_group()
