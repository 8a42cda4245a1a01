"""Forwards of small packs as CUDA graphs: one launch instead of ten or more for each layer.

A device computes a small pack faster than its host can launch the kernels for it. A graph holds all
of them, but with shapes and addresses as they were when it was recorded. So a pack is padded to the
next of a few sizes with tokens that belong to nobody, its numbers are copied to where the graph
reads them, and the keys and values that the prefix cache has for it to a place behind its own.

Not measured on a GPU: behind a switch (`engine.graphs`). Needs attention whose plan is an array.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from polar_ray.engine.token_budget import activation_bytes, prefix_token_bytes
from polar_ray.model import ModelConfig
from polar_ray.model.attention import Recall, SpanTuple
from polar_ray.model.choice import error
from polar_ray.model.internlm2 import RewardModel
from polar_ray.model.paths import Prepare, Prepared, Room
from polar_ray.model.transfer import Integers, join, split
from polar_ray.planning import Ids, Pack, build_pack, without_spans

logger = logging.getLogger(__name__)

STEP, LARGEST = 128, 1024
"""Tokens by which the sizes differ, and of the largest: a small model would have hundreds."""

LAUNCH_FLOPS = 9e10
"""Operations that an H200 computes while the kernels of a layer are launched: modelled, 10 kernels
at 13 us each, and 700 TFLOP/s. Packs with fewer operations in a layer wait for the host: some 200
tokens of a 7B, 700 of a 1.8B."""

KNOWN_TOKENS = 2048
"""Of the prefix cache for which a graph has room; there is one without, and one with it."""

NUM_RECORDS, NUM_RUNS = 64, 128
"""The most that a pack may have."""

KEYS_PER_TOKEN = 4
"""Room for the keys of all runs, as a multiple of the tokens that there are: gathering them costs
what there is room for."""

TRIAL_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 5e-3}
"""Largest error, as a share of the largest score: kernels for other shapes round otherwise."""

Replay = Callable[[], None]
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Replay]]
"""Records a forward; its output, and what computes that again from the same addresses."""

Forward = Callable[[Pack, Recall], Tensor]
"""The scores of a pack without a graph."""


class Graphs:
    """Recorded forwards of one model."""

    @torch.inference_mode()
    def __init__(
        self,
        model: RewardModel,
        prepare: Prepare,
        config: ModelConfig,
        device: str,
        dtype: torch.dtype,
        *,
        num_known: int = KNOWN_TOKENS,
        token_counts: Sequence[int] | None = None,
        record: Record | None = None,
    ) -> None:
        """`num_known`: tokens of the prefix cache that a pack may continue; 0 without a cache.
        `token_counts`: sizes of the graphs, ascending; None: `sizes`."""
        self.num_known = num_known
        self._staged = torch.zeros(
            (config.num_hidden_layers, 2, num_known, config.num_key_value_heads, config.head_dim),
            device=device,
            dtype=dtype,
        )
        record = record or recorder()
        token_counts = token_counts or sizes(config)
        self.token_counts, self.dtype = token_counts, dtype
        self._sizes = [
            [
                _Graph(model, prepare, tokens, self._staged[:, :, :known], device, record)
                for tokens in token_counts
            ]
            for known in ([0, num_known] if num_known else [0])
        ]

    def run(self, pack: Pack, recall: Recall) -> Tensor | None:
        """float32 [R], or None for a pack that no graph has room for."""
        graphs = self._sizes[-1 if recall.num_known else 0]
        fitting = (graph for graph in graphs if pack.num_tokens < graph.num_tokens)
        graph = next(fitting, None)
        if graph is None or recall.keep or recall.num_known > self.num_known:
            return None
        if (planned := graph.plan(pack, recall)) is None:
            return None
        self._stage(recall)
        return graph.run(planned)[: len(pack.ends)].clone()

    def _stage(self, recall: Recall) -> None:
        """Brings what is known to where graphs read it."""
        at, to, source = 0, [], []
        for number, size in recall.known_sizes.items():
            for layer, kv in enumerate(recall.known[number]):
                to += list(self._staged[layer, :, at : at + size])
                source += [kv.k_SKH, kv.v_SKH]
            at += size
        if to:
            torch._foreach_copy_(to, source)


class _Graph:
    """The forward of packs of less than `num_tokens` tokens; the last token is nobody's."""

    def __init__(
        self,
        model: RewardModel,
        prepare: Prepare,
        num_tokens: int,
        staged: Tensor,
        device: str,
        record: Record,
    ) -> None:
        self.num_tokens = num_tokens
        self._prepare, num_known = prepare, staged.shape[2]
        # Each of the ends that are nobody's has a key of its own.
        num_keys = KEYS_PER_TOKEN * (num_tokens + num_known) + NUM_RECORDS
        self._room = Room(NUM_RUNS, num_keys)
        # Recorded with the longest run that there may be: kernels are told its length once.
        arrays, attention = self._prepared(*_longest(num_tokens, staged))
        self._inputs = join(arrays, device).to(device)
        ids, positions, ends, lengths, *sent = split(self._inputs, arrays)
        paths = attention(sent)
        self._out, self._replay = record(lambda: model(ids, positions, paths, ends, lengths))

    def plan(self, pack: Pack, recall: Recall) -> Tensor | None:
        """What `run` takes; None where there is no room for it."""
        if len(pack.ends) > NUM_RECORDS:
            return None
        try:
            arrays, _ = self._prepared(pack, recall)
        except ValueError:
            return None
        return join(arrays, self._inputs.device)

    def run(self, planned: Tensor) -> Tensor:
        """float32 [NUM_RECORDS] in the graph's own memory."""
        self._inputs.copy_(planned, non_blocking=True)
        self._replay()
        return self._out

    def _prepared(self, pack: Pack, recall: Recall) -> Prepared:
        """Arrays of the graph's sizes."""
        total, last = pack.num_tokens, self.num_tokens - 1
        nobodys: list[SpanTuple] = [(total, last, -1)] if total < last else []
        spans = [*pack.spans, *nobodys, (last, self.num_tokens, -1)]
        ends = _pad(pack.ends, NUM_RECORDS, last)
        planned, attention = self._prepare(spans, ends.tolist(), recall, self._room)
        ids, positions, lengths = (
            _pad(array, self.num_tokens) for array in (pack.ids, pack.positions, pack.lengths)
        )
        return Prepared([ids, positions, ends, lengths, *planned], attention)


class _Staged(Recall):
    """What is known, where a graph reads it."""

    def __init__(self, staged: Tensor) -> None:
        """`staged`: [layers, 2, known tokens, K, H]."""
        super().__init__()
        self._staged = staged
        if num_known := staged.shape[2]:
            self.known_sizes = {0: num_known}

    def pass_on(self, k_CKH: Tensor, v_CKH: Tensor, layer: int) -> None:
        """See `Recall`."""
        if num_known := self.num_known:
            for x_CKH, known in zip((k_CKH, v_CKH), self._staged[layer], strict=True):
                x_CKH[-num_known:].copy_(known)


@torch.inference_mode()
def try_graphs(make: Callable[[], Graphs], forward: Forward, config: ModelConfig) -> Graphs | None:
    """Graphs that score as `forward` does, or None and a warning."""
    try:
        graphs = make()
        # Not Python's max, which may pass a NaN by.
        off = np.max([_error(graphs, forward, config, n) for n in graphs.token_counts])
    except RuntimeError as refusal:
        logger.warning("small packs do without graphs, which do not work here: %s", refusal)
        return None
    if not off <= TRIAL_TOLERANCES[graphs.dtype]:
        logger.warning("small packs do without graphs, which are off by %.3g here", off)
        return None
    logger.info("packs below %d tokens by graphs", graphs.token_counts[-1])
    return graphs


def _error(graphs: Graphs, forward: Forward, config: ModelConfig, num_tokens: int) -> float:
    """The largest error of the graph of that size: for two groups, and for the outputs of the same
    behind prefixes that are known."""
    random = np.random.default_rng(num_tokens)
    prefixes, outputs = (num_tokens // 5, num_tokens // 7), (num_tokens // 6, num_tokens // 9, 1)
    pieces: list[Ids] = [
        random.integers(0, config.vocab_size, size).astype(np.int32)
        for prefix in prefixes
        for size in (prefix, *outputs)
    ]
    whole = build_pack(pieces, [-1, 0, 0, 0, -1, 4, 4, 4], [1, 2, 3, 5, 6, 7], reusable=[0, 4])
    left = Recall(keep={number: slice(*whole.spans[number][:2]) for number in whole.reusable})
    trials = [(graphs.run(whole, Recall()), forward(whole, left))]
    if sum(prefixes) <= graphs.num_known:
        known = Recall(known=left.kept)
        # As many tokens as before, or a smaller graph would do it.
        more = random.integers(0, config.vocab_size, sum(prefixes)).astype(np.int32)
        behind = build_pack([*pieces, more], [-1, 0, 0, 0, -1, 4, 4, 4, 4], [1, 2, 3, 5, 6, 7, 8])
        rest = without_spans(behind, {0, 4})
        trials.append((graphs.run(rest, known), forward(rest, known)))
    found = [scores for scores, _ in trials if scores is not None]
    if len(found) < len(trials):
        raise RuntimeError(f"a pack of {whole.num_tokens} tokens has no room in them")
    return error(found, [exact for _, exact in trials])


def _longest(num_tokens: int, staged: Tensor) -> tuple[Pack, Recall]:
    """One record of all tokens but nobody's, behind all that may be known."""
    recall = _Staged(staged)
    sizes = [*recall.known_sizes.values(), num_tokens - 1]
    pieces = [np.zeros(size, dtype=np.int32) for size in sizes]
    whole = build_pack(pieces, range(-1, len(pieces) - 1), [len(pieces) - 1])
    return without_spans(whole, recall.known_sizes), recall


def _pad(array: Integers, size: int, value: int = 0) -> Integers:
    padded = np.full(size, value, dtype=array.dtype)
    padded[: len(array)] = array
    return padded


def sizes(config: ModelConfig) -> list[int]:
    """Tokens of the graphs, up to where launching takes as long as computing."""
    flops_per_token = 2 * _weights_per_layer(config)
    most = LAUNCH_FLOPS / flops_per_token
    return [STEP * count for count in range(1, math.ceil(min(most, LARGEST) / STEP) + 1)]


def _weights_per_layer(config: ModelConfig) -> int:
    width, kv_heads = config.hidden_size, config.num_key_value_heads
    attention = width * (2 * width + 2 * kv_heads * config.head_dim)
    return attention + 3 * width * config.intermediate_size


def recorder() -> Record:
    """Records CUDA graphs that share their memory: they are replayed one after the other, and an
    output is copied before the next replay."""
    pool = torch.cuda.graph_pool_handle()

    def record(forward: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        # Kernels are chosen and workspaces made before, on a stream that is not the usual one.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            forward()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = forward()
        return out, graph.replay

    return record


def graph_bytes(config: ModelConfig, element_size: int) -> int:
    """Bytes that recorded forwards hold, at the most."""
    staged = KNOWN_TOKENS * prefix_token_bytes(config, element_size)
    most = sizes(config)[-1] + KNOWN_TOKENS
    gathered = KEYS_PER_TOKEN * most + NUM_RECORDS
    work = activation_bytes(config, element_size, "cuda", most, gathered_keys=gathered)
    return staged + work
