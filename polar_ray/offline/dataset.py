"""Scores for a pipeline of Ray Data's: a callable for `map_batches`, which this does not import.

    import ray
    from polar_ray.config import RescoreConfig
    from polar_ray.offline.dataset import ScoreBatches

    ray.data.read_parquet("rollouts/").map_batches(
        ScoreBatches,
        fn_constructor_args=(RescoreConfig(model="/models/POLAR-7B"),),
        batch_format="pyarrow",
        batch_size=4096,
        compute=ray.data.ActorPoolStrategy(size=8),
        num_gpus=1,
    )

The pipeline decides who works, how much at a time and what is done again; a job that must have
every row exactly once is `polar_ray.offline.rescore`.
"""

from __future__ import annotations

import pyarrow as pa

from polar_ray.config import RescoreConfig
from polar_ray.data.columns import columns_for
from polar_ray.data.results import check_columns, with_scores
from polar_ray.errors import ConfigError
from polar_ray.offline.scoring import made_by, scored, scoring_for
from polar_ray.records import METADATA_PREFIX, provenance

OF_JOBS = (
    "num_workers", "num_cpus", "num_gpus", "runtime_env", "rows_per_part", "in_flight", "group",
    "on_corrupt", "max_errors",
)  # fmt: skip
"""Settings that mean something to a whole job only; Ray Data has its own for these."""


class ScoreBatches:
    """Adds the columns of `polar_ray.records.SCORE_SCHEMA` to batches of rows.

    Finds the columns as `polar-ray rescore` does and scores with a scorer of its own or, with
    `app_name` or `address`, through a running pool at priority "offline". A row that cannot be
    scored stays a row, with its `error`. Batches are best larger than a group, and in its order.
    """

    def __init__(self, config: RescoreConfig | None = None) -> None:
        """Loads the model, or connects. Raises `ConfigError` for settings of whole jobs."""
        self._config = config or RescoreConfig()
        if given := [name for name in OF_JOBS if name in self._config.model_fields_set]:
            raise ConfigError(
                f"{', '.join(given)}: these are for `polar-ray rescore`; in a pipeline, say it to "
                "map_batches (compute=, num_cpus=, num_gpus=, batch_size=)"
            )
        self._scoring = scoring_for(self._config)
        self._made_by = made_by(self._scoring)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows in the same order, with their scores; who made them is in the metadata.

        Raises `ConfigError` where a column is not to be found or would be taken, `JobStopped` when
        the pool's model changes.
        """
        if not isinstance(batch, pa.Table):
            raise ConfigError(
                f"a batch is {type(batch).__name__}; give map_batches batch_format='pyarrow'"
            )
        check_columns(batch.schema.names, self._config.prefix)
        columns = columns_for(self._config, batch.schema)
        scores = scored(batch, columns, self._scoring, self._made_by)
        made = {f"{METADATA_PREFIX}{key}": value for key, value in provenance(scores).items()}
        table = with_scores(batch, scores, self._config.prefix)
        return table.replace_schema_metadata({**(batch.schema.metadata or {}), **made})
