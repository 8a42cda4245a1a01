"""What engines other than stubs must score: by the native engine, within a tolerance."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
from chaos.load import Account, Oracle

from polar_ray.config import NativeEngineConfig, ScorerConfig
from polar_ray.records import provenance
from polar_ray.scorer import Scorer

ENGINE = NativeEngineConfig(device="cpu", dtype="float32", num_threads=1)


class NativeOracle(Oracle):
    """An oracle of models by the digests that they have in float32, whichever engine has them."""

    def __init__(self, *folders: Path, tolerance: float = 1e-4) -> None:
        made = (Scorer(ScorerConfig(model=str(folder), engine=ENGINE)) for folder in folders)
        self._scorers = {scorer.info.digest: scorer for scorer in made}
        self._tolerance = tolerance
        self._lock = Lock()
        self.largest_difference = 0.0

    def check(self, table: pa.Table, result: pa.Table, account: Account) -> None:
        """See `Oracle`; what is within the tolerance is taken for equal."""
        with self._lock:  # a scorer is for one thread
            right = self._scorers[provenance(result)["model_digest"]].score(table)["score"]
            if len(right) == len(result):
                near = self._snap(result["score"].to_numpy(), right.to_numpy())
                result = result.set_column(
                    result.schema.get_field_index("score"),
                    "score",
                    pa.array(near, pa.float32(), from_pandas=True),
                )
            super().check(table, result, account)

    def _snap(self, found: np.ndarray, right: np.ndarray) -> np.ndarray:
        off = np.abs(found - right)
        self.largest_difference = max(self.largest_difference, float(np.nanmax(off, initial=0.0)))
        return np.where(off <= self._tolerance, right, found)
