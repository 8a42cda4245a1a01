"""Scorer: the whole scoring path in one process. Records in, result table out, in order.

Knows nothing of Ray, HTTP or replicas: the pool, the command line and the benchmarks are hosts for
this one class, so the same record gets the same score wherever it is scored.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from polar_ray.checkpoint import build_encoder, model_dir
from polar_ray.config import ScorerConfig
from polar_ray.config_base import explain
from polar_ray.encoding import Encoded, load_tokenizer
from polar_ray.encoding.template import TEMPLATE_VERSION
from polar_ray.engine import build_engine
from polar_ray.engine.protocol import Engine, Pending, Scores
from polar_ray.errors import (
    ConfigError,
    DeviceLost,
    EngineClosed,
    EngineError,
    OutOfMemory,
    ServersAway,
    place,
)
from polar_ray.planning import Counts, Pack, merge, pack, shard
from polar_ray.planning.shard import row_costs, row_groups
from polar_ray.records import (
    Ignored,
    Record,
    check_table,
    row_error,
    score_table,
    to_batch,
    with_row_errors,
)

logger = logging.getLogger(__name__)

SLICE_BYTES = 1 << 20
"""Text of a slice of a large batch: enough for several packs, so that slicing costs no sharing."""

IN_FLIGHT = 2
"""Packs submitted to the engine at once: one is computed while the next waits."""

CLOSED = "the model was let go of while there were records to score"

LONGEST_ERROR = 500
"""Characters of an engine's message that a row carries."""


class ForwardResult(NamedTuple):
    """Scores and errors of a list of encoded records."""

    scores: Scores
    """float32 [records]; NaN where a record has an error instead."""

    errors: dict[int, str]
    """Row errors by index into the list."""

    def part(self, start: int, stop: int) -> ForwardResult:
        """The part for the records `start` up to `stop`."""
        errors = {i - start: text for i, text in self.errors.items() if start <= i < stop}
        return ForwardResult(self.scores[start:stop], errors)


class Scorer:
    """Encode, pack, forward. One thread may call `encode` while another calls `forward`, but no two
    threads may call the same one at once."""

    def __init__(
        self,
        config: ScorerConfig | str | Path | None = None,
        *,
        in_place_of: Engine | None = None,
        **settings: Any,
    ) -> None:
        """Of a whole config, or of a model and other settings: `Scorer("/models/POLAR-7B",
        max_tokens=8192)`. Raises `ConfigError` for what cannot be loaded. `in_place_of`: see
        `build_engine`."""
        self.config = _config(config, settings)
        folder = model_dir(self.config.model)
        if self.config.model is None and self.config.engine.type == "native":
            logger.warning(
                "no model given: scoring with the built-in %s, a toy for trying things out; "
                "set model=DIR for a POLAR checkpoint",
                folder.name,
            )
        tokenizer = load_tokenizer(folder)
        self.engine = build_engine(self.config.engine, folder, in_place_of=in_place_of)
        self.info = self.engine.info
        self.max_tokens = self.config.max_tokens or self.info.max_tokens
        """Tokens of a pack; halved for good when the device ran out of memory."""

        self.num_halvings = 0
        self._closed = False
        self._ignored = Ignored()
        self._bugs: set[str] = set()
        """Where unexpected errors were raised; each traceback is logged once."""

        try:
            self.encoder = build_encoder(
                self.config,
                tokenizer,
                vocab_size=self.info.vocab_size,
                window=self.info.window,
                reward_id=self.info.reward_id,
            )
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        made = self.provenance
        digest = made["model_digest"][:12]
        return f"<Scorer {made['model']} ({digest}) {made['engine']} {made['dtype']}>"

    @property
    def provenance(self) -> dict[str, str]:
        """All that scores depend on, for the metadata of every result."""
        return {
            "model": self.info.name,
            "model_digest": self.info.digest,
            "template_version": TEMPLATE_VERSION,
            "encoding": self.encoder.provenance,
            "engine": self.engine.name,
            "dtype": self.info.dtype,
        }

    def score(self, records: Iterable[Record | Mapping[str, Any]] | pa.Table) -> pa.Table:
        """The result table of a batch (`polar_ray.records.SCORE_SCHEMA`), one row per record.

        Raises `RecordError` if this is no batch; a bad record is an error in its own row. Columns
        that no record has are ignored, and the log says so.
        """
        batch = to_batch(records, self._ignored)
        costs = row_costs(batch.table)
        if costs.sum() < 2 * SLICE_BYTES:
            table = self._score(batch.table, self.encoder.encode(batch.table))
        else:
            groups, most = row_groups(batch.table), batch.table.num_rows
            rows = shard(costs, groups, max_shards=most, min_cost=SLICE_BYTES)
            slices = [batch.table.take(pa.array(taken)) for taken in rows]
            # While the engine is busy with one slice, the next are turned into ids.
            with ThreadPoolExecutor(1, thread_name_prefix="encode") as ahead:
                encoded = ahead.map(self.encoder.encode, slices)
                table = merge(rows, list(map(self._score, slices, encoded)))
        return with_row_errors(table, batch.errors)

    def _score(self, table: pa.Table, encoded: Sequence[Encoded]) -> pa.Table:
        return self.results(table, encoded, self.forward(encoded))

    def encode(self, table: pa.Table) -> list[Encoded]:
        """Token ids, or the reason why there are none, for each row of an untrusted table."""
        return self.encoder.encode(check_table(table))

    def forward(
        self, encoded: Sequence[Encoded], before_pack: Callable[[], None] = lambda: None
    ) -> ForwardResult:
        """Scores of encoded records. A record that makes the engine fail gets an error of its own;
        the others get their scores. Raises `DeviceLost` where every forward fails,
        `ServersAway` where it does at present, and `EngineClosed` after `close`, or when that comes
        meanwhile: what fails then is no fault of a record.

        `before_pack` is called before each pack; an exception from it ends the call.
        """
        scores = np.full(len(encoded), np.nan, dtype=np.float32)
        errors = {i: record.error for i, record in enumerate(encoded) if record.error is not None}
        plans = [self._plan(encoded, np.arange(len(encoded)))]
        in_flight: deque[tuple[Pack, Pending]] = deque()
        try:
            while plans or in_flight:
                # The next pack is planned and sent while the engine is busy with the one before.
                if plans and len(in_flight) < IN_FLIGHT:
                    packed = next(plans[-1], None)
                    if packed is None:
                        plans.pop()
                        continue
                    before_pack()
                    if self._closed:
                        raise EngineClosed(CLOSED)
                    try:
                        with self._engine_errors():
                            in_flight.append((packed, self.engine.submit(packed)))
                    except EngineError as error:
                        plans += self._after(error, packed, encoded, errors)
                    continue
                packed, pending = in_flight.popleft()
                try:
                    with self._engine_errors():
                        scores[packed.records] = pending.result()
                except EngineError as error:
                    plans += self._after(error, packed, encoded, errors)
        finally:
            # However this ends, the engine is idle afterwards.
            for _, pending in in_flight:
                with suppress(Exception):
                    pending.result()
        return ForwardResult(scores, errors)

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        """Turns every exception of the engine into an `EngineError`."""
        try:
            yield
        except Exception as error:
            if self._closed:
                raise EngineClosed(CLOSED) from error
            if isinstance(error, EngineError):
                raise
            if (where := place(error)) not in self._bugs:
                self._bugs.add(where)
                logger.error("the engine raised an unexpected error", exc_info=error)
            raise as_engine_error(error) from error

    def _after(
        self, error: EngineError, failed: Pack, encoded: Sequence[Encoded], errors: dict[int, str]
    ) -> list[Iterator[Pack]]:
        """What to try after a failed pack: its halves, or nothing where it held one record,
        which gets the error. What no record is to blame for is raised."""
        if isinstance(error, DeviceLost | ServersAway | EngineClosed):
            raise error
        rows = failed.records
        if len(rows) == 1:
            errors[int(rows[0])] = row_error("engine_error", f"{error!s:.{LONGEST_ERROR}}")
            return []
        logger.warning("%s; trying its %d records in smaller packs", error, len(rows))
        if isinstance(error, OutOfMemory):
            # What did not fit once will not fit the next time.
            self.max_tokens = max(1, min(self.max_tokens, failed.num_tokens) // 2)
            self.num_halvings += 1
        half = len(rows) // 2
        return [self._plan(encoded, part) for part in (rows[:half], rows[half:])]

    def _plan(self, encoded: Sequence[Encoded], rows: Counts) -> Iterator[Pack]:
        """Packs of the records `rows` of `encoded`; `Pack.records` are indices into `encoded`."""
        chosen = [encoded[i] for i in rows]
        ids = [record.ids for record in chosen]
        prefix_lengths = None
        if self.info.keeps_prefixes:
            prefix_lengths = [record.prefix_length for record in chosen]
        salts = self.info.salts(ids)
        for packed in pack(
            ids, max_tokens=self.max_tokens, salts=salts, prefix_lengths=prefix_lengths
        ):
            yield replace(packed, records=rows[packed.records])

    def results(
        self, table: pa.Table, encoded: Sequence[Encoded], forwarded: ForwardResult
    ) -> pa.Table:
        """The result table of a request table, from what `encode` and `forward` made of it."""
        return score_table(
            forwarded.scores,
            [forwarded.errors.get(i) for i in range(len(encoded))],
            truncated=[record.truncated for record in encoded],
            num_tokens=[len(record.ids) for record in encoded],
            control_text=[record.control_text for record in encoded],
            ids=table["id"] if "id" in table.column_names else None,
            provenance=self.provenance,
        )

    @property
    def counters(self) -> dict[str, int]:
        """What was done since the start, for metrics: sums that only grow."""
        return {**self.engine.counters, "halvings": self.num_halvings}

    def close(self) -> None:
        """Lets go of the model. What another thread is scoring ends in `EngineClosed`."""
        self._closed = True  # before anything can fail because of it
        self.engine.close()


def _config(given: ScorerConfig | str | Path | None, settings: dict[str, Any]) -> ScorerConfig:
    if isinstance(given, ScorerConfig):
        if settings:
            raise ConfigError(f"{', '.join(settings)}: put all settings into the ScorerConfig")
        return given
    if given is not None:
        settings = {"model": str(given) if isinstance(given, Path) else given, **settings}
    try:
        return ScorerConfig.model_validate(settings)
    except ValidationError as error:
        raise explain(error) from None


def as_engine_error(error: BaseException) -> EngineError:
    """An exception of another library, or a bug, as an `EngineError` that can be pickled."""
    return EngineError(f"{type(error).__name__}: {error!s:.{LONGEST_ERROR}}")
