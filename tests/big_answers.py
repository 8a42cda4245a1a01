"""A caller whose answers lie in the object store: threads that block for them, one after another.

`python big_answers.py GCS_ADDRESS APP_NAME CALLS`; ends with how many rows it got.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import ray

from polar_ray.client import connect

ROWS, THREADS = 6000, 6


def batch(number: int) -> pa.Table:
    """Records that no other batch has."""
    outputs = [f"I think it is {number * ROWS + row}." for row in range(ROWS)]
    told = {"prompt": ["Add."] * ROWS, "reference": ["2"] * ROWS, "output": outputs}
    return pa.table({**told, "id": [f"{number}-{row:020}" for row in range(ROWS)]})


def main(gcs_address: str, app_name: str, calls: str) -> None:
    ray.init(gcs_address, namespace="serve", log_to_driver=False)
    client = connect(app_name=app_name, timeout_s=600)
    batches = [batch(number) for number in range(int(calls))]
    with ThreadPoolExecutor(THREADS) as threads:
        print(sum(table.num_rows for table in threads.map(client.score_table, batches)))


if __name__ == "__main__":
    main(*sys.argv[1:])
