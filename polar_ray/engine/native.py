"""polar_ray's own engine: the torch model on one device, one packed forward at a time."""

from __future__ import annotations

import gc
import logging
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from polar_ray.config import NativeEngineConfig
from polar_ray.engine.device import choose_device, choose_dtype
from polar_ray.engine.failure import explain, explained
from polar_ray.engine.graphs import KNOWN_TOKENS, Graphs, graph_bytes, try_graphs
from polar_ray.engine.memory import HEADROOM, free_bytes
from polar_ray.engine.prefix_cache import PrefixCache
from polar_ray.engine.protocol import ModelInfo, Pending, Scores
from polar_ray.engine.token_budget import Budget, divide, fit_tokens, prefix_token_bytes
from polar_ray.errors import ConfigError, DeviceLost, EngineClosed, EngineError, OutOfMemory
from polar_ray.hub import model_name
from polar_ray.model import ModelConfig, digest, load_config, load_model
from polar_ray.model.attention import Recall
from polar_ray.model.attention_choice import choose_attention
from polar_ray.model.flash import find_varlen
from polar_ray.model.linear import pack_linears
from polar_ray.model.paths import Prepare, blocked, by_varlen
from polar_ray.model.quantized import quantize
from polar_ray.model.step_choice import choose_steps
from polar_ray.model.tensor_parallel import add_all_reduce, check_divisible
from polar_ray.model.transfer import Fetched, send
from polar_ray.model.weights import check_model
from polar_ray.planning import Pack

logger = logging.getLogger(__name__)


class NativeEngine:
    """Scores with `polar_ray.model` on a CPU or a CUDA device."""

    name = "native"

    def __init__(
        self, config: NativeEngineConfig, model_dir: Path, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """With `world_size` > 1, one rank of the default process group, already initialised."""
        self.device = choose_device(config.device)
        self.dtype = choose_dtype(config.dtype, self.device)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        shape = load_config(model_dir)
        check_divisible(shape, world_size)
        with explained(f"loading {model_dir}", self.device):
            self.model = load_model(
                model_dir, dtype=self.dtype, device=self.device, rank=rank, world_size=world_size
            )
            self.model.model.blocks[-1].attention.split_projection()
            if self.device == "cuda":
                self.model.join_gates()
                if config.kernels:
                    self.model.steps = choose_steps(
                        shape, self.device, self.dtype, world_size, in_fp8=config.dtype == "fp8"
                    )
            products = ""
            if config.dtype in ("int8", "fp8"):
                quantize(self.model, config.dtype, self.model.steps)
            elif self.device == "cpu":
                products = pack_linears(self.model)
        if world_size > 1:
            add_all_reduce(self.model)
        self._prepare = self._choose_attention(config, shape, world_size)
        size = self.dtype.itemsize
        in_graphs = config.graphs and self._prepare is not blocked and world_size == 1
        if config.graphs and not in_graphs:
            logger.warning(
                "engine.graphs is ignored: it needs one CUDA device and flash attention in 16 bits"
            )
        held = _held_bytes(self.model) + (graph_bytes(shape, size) if in_graphs else 0)
        free = free_bytes(self.device, held)
        max_tokens, cache_bytes = self._divide_memory(config, shape, model_dir, world_size, free)
        self.cache: PrefixCache | None = None
        if cache_bytes:
            self.cache = PrefixCache(
                cache_bytes,
                token_bytes=prefix_token_bytes(shape, size, world_size),
                scaled_above=shape.scaled_above,
            )
        self._graphs: Graphs | None = None
        if in_graphs:
            num_known = KNOWN_TOKENS if self.cache is not None else 0
            make = partial(
                Graphs,
                self.model,
                self._prepare,
                shape,
                self.device,
                self.dtype,
                num_known=num_known,
            )
            self._graphs = try_graphs(make, self._compute, shape)
        self._tokens_computed = 0
        self._packs = 0
        dtype_name = str(self.dtype).removeprefix("torch.")
        if config.dtype in ("int8", "fp8"):
            dtype_name = config.dtype
        self.info = ModelInfo(
            name=model_name(model_dir),
            digest=digest(model_dir, dtype_name) if rank == 0 else "",
            reward_id=shape.reward_token_id,
            window=shape.window,
            scaled_above=shape.scaled_above,
            vocab_size=shape.vocab_size,
            dtype=dtype_name,
            max_tokens=max_tokens,
            products=products,
            keeps_prefixes=self.cache is not None,
        )
        logger.info("loaded %s on %s in %s", model_dir, self.device, dtype_name)
        if products:
            logger.info("matrix products: %s", products)

    def _choose_attention(
        self, config: NativeEngineConfig, shape: ModelConfig, world_size: int
    ) -> Prepare:
        """How attention is computed here."""
        if self.device != "cuda" or self.dtype == torch.float32:
            return blocked
        varlen = find_varlen(
            self.device,
            self.dtype,
            num_heads=shape.num_attention_heads // world_size,
            num_kv_heads=shape.num_key_value_heads // world_size,
            head_dim=shape.head_dim,
        )
        found: Prepare = blocked if varlen is None else by_varlen(varlen)
        if config.kernels:
            return choose_attention(shape, self.device, self.dtype, world_size, found)
        return found

    def _divide_memory(
        self,
        config: NativeEngineConfig,
        shape: ModelConfig,
        model_dir: Path,
        world_size: int,
        free: int,
    ) -> Budget:
        """What packs and the prefix cache get of `free` bytes."""
        size, cache_bytes = self.dtype.itemsize, config.prefix_cache_bytes
        # With several ranks, their caches could come to differ.
        if cache_bytes is None and self.device == "cuda" and world_size == 1:
            spare = int(check_model(model_dir) * size * HEADROOM)
            return divide(shape, size, free, spare, self.device)
        if cache_bytes is not None and cache_bytes > free:
            raise ConfigError(
                f"engine.prefix_cache_bytes={cache_bytes}: {self.device} has {free} bytes free "
                "beside the model"
            )
        kept = cache_bytes or 0
        return Budget(fit_tokens(shape, size, free - kept, self.device), kept)

    @torch.inference_mode()
    def submit(self, pack: Pack) -> Pending:
        """One forward pass over the tokens of the pack that the prefix cache does not hold."""
        if "model" not in self.__dict__:
            raise EngineClosed("the engine was closed")
        try:
            return _OnDevice(self._forward(pack), self, pack)
        except IndexError as error:
            raise EngineError(f"token ids beyond the vocabulary: {error}") from None
        except RuntimeError as error:
            raise self.failed(error, pack) from error

    def failed(self, error: RuntimeError, pack: Pack) -> EngineError:
        """What a pack's failure means, in this project's words; see `engine.failure`."""
        failure = explain(error, f"a pack of {pack.num_tokens} tokens", self.device)
        if isinstance(failure, OutOfMemory) and self.cache is not None:
            self.cache.clear()
        if isinstance(failure, OutOfMemory):
            # torch takes its own free blocks by itself, but libraries of the device's cannot.
            torch.cuda.empty_cache()
        return failure

    def check_weights(self) -> None:
        """Raises `DeviceLost` where files were written to from which weights are mapped: what was
        computed since is of neither model."""
        if (changed := self.model.files.changed()) is not None:
            raise DeviceLost(
                f"{changed} was written to while its weights are in use; a new process reads what "
                "it holds now. Write new weights to a new file, and rename it"
            )

    def _forward(self, pack: Pack) -> Tensor:
        if self.cache is None:
            return self._run(pack, Recall())
        rest, recall, names = self.cache.recall(pack)
        scores = self._run(rest, recall)
        self.cache.keep(rest, recall, names)
        return scores

    def _run(self, pack: Pack, recall: Recall) -> Tensor:
        self._packs += 1
        self._tokens_computed += pack.num_tokens
        if self._graphs is not None and (scores := self._graphs.run(pack, recall)) is not None:
            return scores
        return self._compute(pack, recall)

    def _compute(self, pack: Pack, recall: Recall) -> Tensor:
        arrays, attention = self._prepare(pack.spans, pack.ends.tolist(), recall)
        ids, positions, ends, lengths, *sent = send(
            [pack.ids, pack.positions, pack.ends, pack.lengths, *arrays], self.device
        )
        computed: Tensor = self.model(ids, positions, attention(sent), ends, lengths)
        return computed

    @property
    def counters(self) -> dict[str, int]:
        """Packs and tokens computed, and what the prefix cache saved."""
        counts = {"packs": self._packs, "tokens_computed": self._tokens_computed}
        if self.cache is not None:
            counts |= {
                "prefix_hits": self.cache.hits,
                "prefix_misses": self.cache.misses,
                "prefix_tokens_reused": self.cache.tokens_reused,
            }
        return counts

    def close(self) -> None:
        """Drops the weights and the cache, and gives the device its memory back."""
        self.__dict__.pop("model", None)
        self.cache = self._graphs = None
        gc.collect()  # modules refer to each other
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _held_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


class _OnDevice:
    """Scores that a device may still be computing."""

    def __init__(self, scores_R: Tensor, engine: NativeEngine, pack: Pack) -> None:
        self._scores = Fetched(scores_R)
        self._engine, self._pack = engine, pack

    def result(self) -> Scores:
        """Waits for the device. See `Pending`."""
        try:
            scores: Scores = self._scores.result().numpy()
        except RuntimeError as error:
            raise self._engine.failed(error, self._pack) from error
        self._engine.check_weights()
        return scores
