"""A rescoring job that gets only as far as it is allowed to, so that whoever kills it does not have
to be fast: `python gated_job.py IN OUT ALLOWED SETTINGS`, where the file ALLOWED holds a number of
parts and SETTINGS is JSON. Run by `test_chaos.py` in processes of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from polar_ray.config import RescoreConfig
from polar_ray.offline import rescore


def main(source: str, out: Path, allowed: Path, settings: dict[str, Any]) -> None:
    """The job; whenever it reports, it waits until more parts are allowed than there are. What its
    workers have in hand then is still done."""

    def wait(event: dict[str, Any]) -> None:
        while len(list(out.glob("*.parquet"))) >= int(allowed.read_text()):
            time.sleep(0.01)

    rescore(RescoreConfig.model_validate(settings), source, str(out), wait)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
