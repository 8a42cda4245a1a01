"""SIGKILLs of drivers and workers, and the loss of a node: every row once, every file whole.

`pytest -m chaos -s`"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import MARK, kill, marked, titled

ROWS = 100_000
KILLS = 20
ROWS_PER_PART = 250
WORKERS = 2
IN_FLIGHT = 3
AHEAD = 10
"""Parts that the job may write until the next kill, beside what workers have in hand already."""

# On a machine of any speed, no kill comes too late.
assert KILLS * (AHEAD + WORKERS * IN_FLIGHT) < ROWS // ROWS_PER_PART


class Driver:
    """A job in a process of its own, and all that it starts."""

    def __init__(self, source: Path, out: Path, allowed: Path) -> None:
        self.mark = uuid4().hex
        settings = {
            "engine.type": "stub",
            "engine.seconds_per_token": 4e-6,
            "num_workers": WORKERS,
            "num_cpus": 0.1,
            "in_flight": IN_FLIGHT,
            "rows_per_part": ROWS_PER_PART,
            "group": "never",
        }
        script = str(Path(__file__).with_name("gated_job.py"))
        arguments = [str(source), str(out), str(allowed), orjson.dumps(settings).decode()]
        self.log = out.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, *arguments],
                env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def workers(self) -> list[int]:
        """Process ids of its scoring actors."""
        return sorted(set(titled()) & set(marked(self.mark)))

    def die(self) -> None:
        """The driver alone is killed; what it leaves behind may go on for a moment, drawn by
        chance, then it is killed too."""
        self.process.kill()
        self.process.wait()
        time.sleep(random.random())
        while left := marked(self.mark):
            kill(*left)
            time.sleep(0.1)


def allow(path: Path, parts: int) -> None:
    """Lets the job go on to so many parts; appears whole."""
    path.with_suffix(".new").write_text(str(parts))
    path.with_suffix(".new").replace(path)


def parts(out: Path) -> dict[str, int]:
    """Names of parts and when they were written, each of them read whole."""
    found = {}
    for path in out.glob("*.parquet"):
        pq.read_table(path)
        found[path.name] = path.stat().st_mtime_ns
    return found


def written_again(before: dict[str, int], now: dict[str, int]) -> int:
    """How many parts are not what they were before; all are there still."""
    assert before.keys() <= now.keys()
    return sum(now[name] != before[name] for name in before)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    random.seed(0)
    source, out, allowed = tmp_path / "in", tmp_path / "out", tmp_path / "allowed"
    source.mkdir()
    for number in range(10):
        first = number * ROWS // 10
        rows = range(first, first + ROWS // 10)
        table = pa.table(
            {
                "prompt": [f"What is {n // 8} + 1?" for n in rows],
                "reference": [str(n // 8 + 1) for n in rows],
                "output": [f"It is {n}." for n in rows],
                "n": list(rows),
            }
        )
        pq.write_table(table, source / f"{number}.parquet", row_group_size=4096)

    killed: Counter[str] = Counter()
    seen: dict[str, int] = {}
    again = 0
    allow(allowed, AHEAD)
    driver = Driver(source, out, allowed)
    try:
        while killed.total() < KILLS:
            wanted = len(seen) + random.randint(1, AHEAD)
            while len(list(out.glob("*.parquet"))) < wanted and driver.process.poll() is None:
                time.sleep(0.01)
            assert driver.process.poll() is None, f"{killed}: {driver.log.read_text()}"
            workers = driver.workers()
            if workers and random.random() < 0.5:
                kill(random.choice(workers))
                killed["worker"] += 1
            else:
                driver.die()
                killed["driver"] += 1
                driver = Driver(source, out, allowed)
            now = parts(out)
            # What was there once is there still.
            again += written_again(seen, now)
            assert not (out / "_manifest.json").exists()
            seen = now
            allow(allowed, len(seen) + AHEAD)
        committed = len(seen)
        allow(allowed, ROWS)
        assert driver.process.wait() == 0, driver.log.read_text()
    finally:
        driver.die()

    again += written_again(seen, parts(out))
    # No part was, but those of killed workers that had written and not yet reported them.
    assert again <= IN_FLIGHT * killed["worker"]
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])
    found = np.bincount(table["n"].to_numpy(), minlength=ROWS)
    manifest = orjson.loads((out / "_manifest.json").read_bytes())
    said = {
        "rows": ROWS,
        "killed": dict(killed),
        "lost": int((found == 0).sum()),
        "duplicated": int((found > 1).sum()),
        "without_score": table["score"].null_count,
        "parts_there_at_the_last_kill": committed,
        "parts_written_again": again,
        "most_rows_redone_for_each_kill": ROWS_PER_PART * IN_FLIGHT * WORKERS,
    }
    sys.stdout.write(orjson.dumps(said).decode() + "\n")
    assert (said["lost"], said["duplicated"], said["without_score"]) == (0, 0, 0)
    assert manifest["rows"] == ROWS
    assert {path.name for path in out.iterdir()} == {
        "_job.json",
        "_manifest.json",
        *(part["name"] for part in manifest["files"]),
    }


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("cpus", "workers_at_the_end"), [(4, 4), (2, 2)], ids=["they come back", "there is no room"]
)
def test_a_lost_node_loses_and_repeats_nothing(
    tiny_dir: Path, tmp_path: Path, cpus: int, workers_at_the_end: int
) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    rows = range(20_000)
    columns = {
        "prompt": [f"What is {n // 8} + 1?" for n in rows],
        "reference": [str(n // 8 + 1) for n in rows],
        "output": [f"It is {n}." for n in rows],
        "n": list(rows),
    }
    pq.write_table(pa.table(columns), source, row_group_size=1000)
    script = Path(__file__).with_name("three_nodes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_dir), str(source), str(out), str(cpus)],
        capture_output=True,
        text=True,
        timeout=1780,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    [said] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    sys.stdout.write(said + "\n")
    seen = orjson.loads(said)
    assert seen["workers_lost"] > 0, "nothing was lost: the test shows nothing"
    assert seen["workers_at_the_end"] == workers_at_the_end
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])
    assert table["n"].to_pylist() == list(rows)
    assert table["score"].null_count == 0
    assert orjson.loads((out / "_manifest.json").read_bytes())["rows"] == len(rows)
