"""SIGKILLs of drivers, tasks, replicas and routers, and the loss of a node: every row once, every
file whole, no score changed.

`pytest -m chaos -s`"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import kill, own, replica_pids

from polar_ray.config import RescoreConfig, ScorerConfig
from polar_ray.encoding import load_tokenizer
from polar_ray.offline import rescore
from polar_ray.offline.executor import THREADS
from polar_ray.scorer import Scorer

ROWS = int(os.environ.get("RESCORE_ROWS", "200000"))
KILLS = 20
ROWS_PER_PART = ROWS // 2000
WORKERS = 2
IN_FLIGHT = 3
AHEAD = 10
"""Parts that the job may write until the next kill, beside what tasks have in hand already."""

KINDS = ["driver", "task", "replica", "router"]


class Driver:
    """A job in a process of its own, on this test's cluster."""

    def __init__(self, source: Path, out: Path, allowed: Path, settings: dict[str, object]) -> None:
        import ray

        script = str(Path(__file__).with_name("gated_job.py"))
        arguments = [str(source), str(out), str(allowed), orjson.dumps(settings).decode()]
        address = ray.get_runtime_context().gcs_address
        self.log = out.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, *arguments],
                env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def die(self) -> None:
        """It alone is killed; its pool stays, and its tasks go as Ray finds out."""
        self.process.kill()
        self.process.wait()
        time.sleep(random.random())


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


def numbered(first: int, count: int) -> pa.Table:
    """Rows in groups of 8, no two of them equal."""
    rows = range(first, first + count)
    return pa.table(
        {
            "prompt": [f"What is {n // 8} + 1?" for n in rows],
            "reference": [str(n // 8 + 1) for n in rows],
            "output": [f"It is {n}." for n in rows],
            "n": list(rows),
        }
    )


def victims(kind: str) -> list[int]:
    """Processes of this cluster that may be killed next."""
    if kind == "task":
        return own()
    from ray import serve

    return [
        pid
        for name in serve.status().applications
        if name.startswith("rescore-")
        for pid in replica_pids(name, kind.capitalize())
    ]


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_twenty_kills_lose_repeat_and_change_nothing(
    cluster: None, tiny_dir: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    random.seed(0)
    source, out, allowed = tmp_path / "in", tmp_path / "out", tmp_path / "allowed"
    source.mkdir()
    for number in range(10):
        table = numbered(number * ROWS // 10, ROWS // 10)
        pq.write_table(table, source / f"{number}.parquet", row_group_size=4096)
    settings = {"model": str(tiny_dir), "engine.type": "stub", "engine.seconds_per_token": 4e-6}
    settings |= {"num_workers": WORKERS, "num_cpus": 0.1, "in_flight": IN_FLIGHT}
    settings |= {"rows_per_part": ROWS_PER_PART, "group": "never"}

    kinds = KINDS * (KILLS // len(KINDS))
    random.shuffle(kinds)
    killed: Counter[str] = Counter()
    seen: dict[str, int] = {}
    allow(allowed, AHEAD)
    driver = Driver(source, out, allowed, settings)
    began = time.monotonic()
    try:
        for kind in kinds:
            wanted = len(seen) + random.randint(1, AHEAD)
            while len(list(out.glob("*.parquet"))) < wanted and driver.process.poll() is None:
                time.sleep(0.01)
            assert driver.process.poll() is None, f"{killed}: {driver.log.read_text()[-4000:]}"
            if kind == "driver":
                driver.die()
                driver = Driver(source, out, allowed, settings)
            else:
                while not (found := victims(kind)):
                    # A task may have ended its run while the driver waits.
                    allow(allowed, len(list(out.glob("*.parquet"))) + 1)
                    time.sleep(0.01)
                kill(random.choice(found))
            killed[kind] += 1
            now = parts(out)
            # What was there once is there still, as it was.
            assert seen.items() <= now.items()
            assert not (out / "_manifest.json").exists()
            seen = now
            allow(allowed, len(seen) + AHEAD)
        allow(allowed, ROWS)
        assert driver.process.wait() == 0, driver.log.read_text()[-4000:]
    finally:
        driver.die()

    assert seen.items() <= parts(out).items()
    table = pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])
    found_rows = np.bincount(table["n"].to_numpy(), minlength=ROWS)
    scorer = Scorer(ScorerConfig.model_validate({"model": str(tiny_dir), "engine.type": "stub"}))
    expected = scorer.score(table.select(["prompt", "reference", "output"]))["score"].to_numpy()
    lost, duplicated = int((found_rows == 0).sum()), int((found_rows > 1).sum())
    wrong = int((table["score"].to_numpy() != expected).sum())
    figure(
        f"{ROWS} rows, {dict(killed)} killed: {lost} lost, {duplicated} duplicated, {wrong} wrong, "
        f"{len(seen)} of {len(list(out.glob('*.parquet')))} parts there at the last kill, at most "
        f"{ROWS_PER_PART * IN_FLIGHT * WORKERS * THREADS} rows done again for each; "
        f"{time.monotonic() - began:.0f} s"
    )
    assert (lost, duplicated, wrong) == (0, 0, 0)
    manifest = orjson.loads((out / "_manifest.json").read_bytes())
    assert manifest["rows"] == ROWS
    assert {path.name for path in out.iterdir()} == {
        "_job.json",
        "_manifest.json",
        *(part["name"] for part in manifest["files"]),
    }


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_one_record_of_many_that_ends_replicas(
    cluster: None, tiny_dir: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    rows = numbered(0, 20_480).to_pylist()
    rows[12_345]["output"] = "ring \x07"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    [fatal] = load_tokenizer(tiny_dir).encode("\x07")
    settings = {"model": str(tiny_dir), "engine.type": "stub", "engine.fatal_token": fatal}
    config = RescoreConfig.model_validate({**settings, "num_workers": 2, "num_cpus": 0.1})
    began = time.monotonic()
    manifest = rescore(config, str(tmp_path / "in.parquet"), str(tmp_path / "out"))
    figure(f"{manifest['rows']} rows: {manifest['errors']}, {time.monotonic() - began:.0f} s")
    assert (manifest["rows"], manifest["errors"]) == (20_480, {"poison": 1})
    parts = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    table = pa.concat_tables(parts)
    assert table["n"].to_pylist() == list(range(20_480))
    assert table["error"].is_valid().to_pylist().index(True) == 12_345


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("cpus", "workers_at_the_end"), [(4, 4), (2, 2)], ids=["they come back", "there is no room"]
)
def test_a_lost_node_loses_and_repeats_nothing(
    tiny_dir: Path, tmp_path: Path, cpus: int, workers_at_the_end: int
) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    pq.write_table(numbered(0, 20_000), source, row_group_size=1000)
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
    assert table["n"].to_pylist() == list(range(20_000))
    assert table["score"].null_count == 0
    assert orjson.loads((out / "_manifest.json").read_bytes())["rows"] == 20_000
