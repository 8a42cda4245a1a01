"""Who scores: a scorer of this process, or a running pool through its client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Lock
from typing import Protocol

import pyarrow as pa

from polar_ray.client import Client, connect
from polar_ray.client.same_model import check_same_model
from polar_ray.config import RescoreConfig
from polar_ray.data.columns import Columns
from polar_ray.errors import DeadlineExceeded, JobStopped, Overloaded, ReplicaLost, TooLarge
from polar_ray.records import TEXT_COLUMNS, provenance, with_row_errors
from polar_ray.scorer import Scorer
from polar_ray.token_file import first_token

EMPTY = pa.table({name: pa.array([], pa.string()) for name in TEXT_COLUMNS})
"""A request without rows: its result says what scores."""

PAUSE_S = 5.0
"""Between two tries of a call that the pool did not answer."""


class Scoring(Protocol):
    """Whoever turns request tables into result tables; calls may come from several threads."""

    def score(self, request: pa.Table) -> pa.Table: ...
    def close(self) -> None: ...


class OwnScorer:
    """A scorer in this process: one thread encodes while another has the engine."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._encoding, self._engine = Lock(), Lock()

    def score(self, request: pa.Table) -> pa.Table:
        """See `Scoring`."""
        with self._encoding:
            encoded = self._scorer.encode(request)
        with self._engine:
            forwarded = self._scorer.forward(encoded)
        return self._scorer.results(request, encoded, forwarded)

    def close(self) -> None:
        """Lets go of the model."""
        self._scorer.close()


class PoolScorer:
    """A pool through its client, which tries again for as long as a call's deadline.

    A call that the pool does not answer by then is made again for up to `patience_s`: a pool that
    restarts, or has more urgent work, must not end a job of hours. Batches that are too large for
    the pool are halved.
    """

    def __init__(self, client: Client, patience_s: float) -> None:
        self._client = client
        self._patience_s = patience_s
        self._closed = False

    def score(self, request: pa.Table) -> pa.Table:
        """See `Scoring`. Raises `JobStopped` once patience is at its end."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._halved(request)
            except (DeadlineExceeded, Overloaded, ReplicaLost) as error:
                if time.monotonic() + PAUSE_S > until:
                    raise JobStopped(
                        f"the pool has not scored {request.num_rows} rows for {self._patience_s:g} "
                        f"s (patience_s): {error}"
                    ) from None
            time.sleep(PAUSE_S)
            if self._closed:
                raise JobStopped("the job was stopped while the pool was waited for")

    def _halved(self, request: pa.Table) -> pa.Table:
        try:
            return self._client.score_table(request)
        except TooLarge:
            half = request.num_rows // 2
            if half == 0:
                raise
            one, other = self._halved(request.slice(0, half)), self._halved(request.slice(half))
            where = f"between two halves of {request.num_rows} rows"
            check_same_model(provenance(one), other, where)
            return pa.concat_tables([one, other])

    def close(self) -> None:
        """Closes connections. Who waits for the pool in another thread gets `JobStopped`."""
        self._closed = True
        self._client.close()


def scoring_for(config: RescoreConfig) -> Scoring:
    """A scorer in this process, or the pool that the config names."""
    if not config.uses_pool:
        return OwnScorer(Scorer(config.scorer))
    client = connect(
        app_name=config.app_name,
        address=config.address,
        timeout_s=config.timeout_s,
        priority="offline",
        token=None if config.token_file is None else first_token(config.token_file, "token_file"),
    )
    return PoolScorer(client, config.patience_s)


def made_by(scoring: Scoring) -> dict[str, str]:
    """The provenance of what it scores."""
    return provenance(scoring.score(EMPTY))


def scored(
    rows: pa.Table, columns: Columns, scoring: Scoring, made_by: Mapping[str, str]
) -> pa.Table:
    """The result table of rows of a dataset.

    Raises `ModelChanged` if their scores do not compare with those of `made_by`.
    """
    mapped = columns.apply(rows)
    scores = scoring.score(mapped.table)
    check_same_model(made_by, scores, "while the job ran")
    return with_row_errors(scores, mapped.errors)
