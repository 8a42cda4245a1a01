"""A hundred jobs, each of which meets what a seed draws: kills, reads that fail, damaged pages, a
full disk, a second driver, somebody who damages or edits what is in the folder, before a run or
during it, or puts another file into the input. Whenever a job says that it is done,
the rows of its input are those of its parts and those that it lists, each once, and every value
that was only passed through is what it was. Otherwise it says no success.

`pytest -m chaos -s tests/offline/test_random_runs.py`"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import faulty_job
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_job import BROKEN, DONE, Faults, late
from sample_records import GROUPS

from polar_ray.config import ScorerConfig
from polar_ray.scorer import Scorer

RUNS = int(os.environ.get("RESCORE_RUNS", "100"))
SEED = int(os.environ.get("RESCORE_SEED", "0"))
ROWS, FILES, ROWS_PER_PART = 160, 4, 10
MOST_ROUNDS = 8
"""Runs of a job with faults, before one without."""

LISTED = re.compile(r"(rows|bytes) (\d+) to (\d+)")
GUARD_S = 300.0
TEXTS = ["", "plain", "\u00e4\u2028\u6f22", "\U0001f600", "nul \x00 and \x07", " " * 40]


def rows(rng: random.Random, kind: str) -> pa.Table:
    """An input: groups that are scattered, beside columns that are only passed through."""
    records = [{**GROUPS[rng.randrange(12)], "output": f"output {n}", "n": n} for n in range(ROWS)]
    plain = {
        "text": [rng.choice([*TEXTS, None]) for _ in range(ROWS)],
        "large": [2**62 + n for n in range(ROWS)],
        "share": [rng.random() for _ in range(ROWS)],
        "list": [[n] * (n % 4) if n % 7 else None for n in range(ROWS)],
        "meta": [{"a": n, "b": [{"c": str(n)}]} for n in range(ROWS)],
    }
    table = pa.Table.from_pylist(records)
    for name, values in plain.items():
        table = table.append_column(name, pa.array(values))
    if kind == "jsonl":
        return table
    days = [datetime(2026, 1, 1) + timedelta(days=n) for n in range(ROWS)]
    typed = {
        "bytes": pa.array([rng.randbytes(n % 5) for n in range(ROWS)]),
        "kind": pa.array([rng.choice("abc") for _ in range(ROWS)]).dictionary_encode(),
        "price": pa.array([Decimal(n) / 100 for n in range(ROWS)], pa.decimal128(9, 2)),
        "day": pa.array(days, pa.timestamp("ns", "UTC")),
    }
    for name, column in typed.items():
        table = table.append_column(name, column)
    return table


class RandomJob:
    """One job and what happens to it."""

    def __init__(self, seed: int, folder: Path, model: str, seen: Counter[str]) -> None:
        self.rng = random.Random(seed)
        self.source, self.out = folder / "in", folder / "out"
        self.log = folder / "log"
        self.seen = seen
        self.kind = self.rng.choice(["parquet", "parquet", "jsonl"])
        self.table = rows(self.rng, self.kind)
        common = {"model": model, "rows_per_part": ROWS_PER_PART, "in_flight": 2}
        common["group"] = self.rng.choice(["never", "always"])
        common["on_corrupt"] = self.rng.choice(["stop", "skip"])
        self.settings = [
            {**common, "engine": {"type": "stub", "salt": salt}} for salt in (0, 1)
        ]  # the second is another job, which must not get between the first one's rows
        self.source.mkdir(parents=True)
        self.files = [self.source / f"{n}.{self.kind}" for n in range(FILES)]
        for number, path in enumerate(self.files):
            self.write(path, self.table.slice(number * ROWS // FILES, ROWS // FILES))
        self.damaged = self.kind == "parquet" and self.rng.random() < 0.3
        if self.damaged:
            self.damage(self.rng.choice(self.files))

    def write(self, path: Path, table: pa.Table) -> None:
        if self.kind == "parquet":
            pq.write_table(table, path, row_group_size=self.rng.choice([7, 10, 40]))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))

    def damage(self, path: Path) -> None:
        """The header of a page, so that its row group cannot be read."""
        metadata = pq.read_metadata(path)
        group = metadata.row_group(self.rng.randrange(metadata.num_row_groups))
        at = group.column(self.rng.randrange(group.num_columns)).data_page_offset
        data = bytearray(path.read_bytes())
        data[at : at + 16] = b"\xff" * 16
        path.write_bytes(data)
        self.seen["damaged pages"] += 1

    def run(self, context: Any) -> None:
        """Rounds with faults, then one without, which must end the job."""
        for _ in range(self.rng.randint(1, MOST_ROUNDS)):
            refused = self.tamper()
            several = self.rng.random() < 0.25
            drivers = [self.draw(alone=not several) for _ in range(1 + several)]
            self.seen["two drivers"] += several
            codes = self.start(context, drivers)
            if refused is not None:
                assert DONE not in codes, self.said()
                refused()
            late(self.source).unlink(missing_ok=True)
        settings = self.settings[0]
        if self.damaged and settings["on_corrupt"] == "stop":
            assert DONE not in self.start(context, [(one, Faults()) for one in self.settings])
        skipping = [{**one, "on_corrupt": "skip"} for one in self.settings]
        ended = [
            self.start(context, [(one, Faults())])
            for one in (skipping if self.damaged else self.settings)
        ]
        assert [DONE] in ended, self.said()

    def draw(self, *, alone: bool) -> tuple[dict[str, Any], Faults]:
        rng = self.rng
        # A file that arrives before the other driver begins is input of the other's.
        arrives = alone and rng.random() < 0.15
        faults = Faults(
            kill_at=rng.randint(1, rng.choice([10, 40, 90])) if rng.random() < 0.8 else None,
            reads_fail_at=frozenset(rng.sample(range(60), 2) if rng.random() < 0.3 else ()),
            full_from=rng.randint(1, 90) if rng.random() < 0.15 else None,
            damage_from=rng.randint(1, 60) if rng.random() < 0.25 else None,
            arrives_from=rng.randint(1, 60) if arrives else None,
        )
        self.seen["reads that may fail"] += len(faults.reads_fail_at)
        self.seen["full disks"] += faults.full_from is not None
        self.seen["damage during a run"] += faults.damage_from is not None
        self.seen["files that arrive"] += arrives
        return self.settings[rng.random() < 0.1], faults

    def start(self, context: Any, drivers: list[tuple[dict[str, Any], Faults]]) -> list[int]:
        """Drivers at the same time; each exit code. What one says that is done is looked at."""
        with self.log.open("a") as log:
            log.write(f"--- {drivers}\n")
        processes = [
            context.Process(
                target=faulty_job.main,
                args=(settings, str(self.source), str(self.out), self.log, faults),
            )
            for settings, faults in drivers
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(GUARD_S)
            assert process.exitcode is not None, self.said()
        codes = [process.exitcode for process in processes]
        assert BROKEN not in codes, self.said()
        self.seen["drivers"] += len(codes)
        self.seen["killed"] += codes.count(-9)
        self.seen["done"] += codes.count(DONE)
        for code, (settings, _) in zip(codes, drivers, strict=True):
            if code == DONE:
                self.check(settings)
        return codes

    def check(self, settings: dict[str, Any]) -> None:
        """The law, from the files themselves."""
        manifest = orjson.loads((self.out / "_manifest.json").read_bytes())
        paths = sorted(self.out.glob("*.parquet"))
        digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}
        assert digests == {part["name"]: part["sha256"] for part in manifest["files"]}, self.said()
        found = [row for path in paths for row in pq.read_table(path).to_pylist()]
        arrived = [str(path) for path in [late(self.source)] if path.exists()]
        assert manifest["arrived"] == arrived, self.said()
        self.seen["jobs that were done and said what had arrived"] += len(arrived)
        listed = [n for problem in manifest["skipped"] for n in self.rows_of(problem["what"])]
        assert not listed or settings["on_corrupt"] == "skip", self.said()
        numbers = [row["n"] for row in found]
        assert sorted(numbers + listed) == list(range(ROWS)), self.said()
        assert manifest["rows"] == len(numbers)
        request = self.table.select(["prompt", "reference", "output"])
        scorer = {"model": settings["model"], "engine": settings["engine"]}
        scores = Scorer(ScorerConfig.model_validate(scorer)).score(request)["score"].to_pylist()
        wanted = self.table.append_column("score", [scores]).to_pylist()
        for row in found:
            expected = wanted[row["n"]]
            assert {name: row[name] for name in expected} == expected, self.said()
        self.seen["rows of jobs that were done"] += len(numbers)
        self.seen["of them listed as skipped"] += len(listed)

    def rows_of(self, what: str) -> list[int]:
        """The rows of an input file, or of a split of it."""
        path, _, place = what.partition(", ")
        each = ROWS // FILES
        first = self.files.index(Path(path)) * each
        if not place:
            return list(range(first, first + each))
        kind, start, stop = LISTED.fullmatch(place).groups()  # type: ignore[union-attr]
        if kind == "rows":
            return list(range(first + int(start), first + int(stop)))
        lines = Path(path).read_bytes().splitlines(keepends=True)
        begins = [sum(map(len, lines[:n])) for n in range(each)]
        return [first + n for n, at in enumerate(begins) if int(start) <= at < int(stop)]

    def tamper(self) -> Callable[[], Any] | None:
        """Somebody's hand in the folder. Where no job may go on with that, how it is undone."""
        parts = sorted(self.out.glob("part-*"))
        if not parts or self.rng.random() < 0.3:
            return None
        part, other = self.rng.choice(parts), self.rng.choice(parts)
        shuffles = sorted(self.out.glob("_shuffle-*"))
        manifest = self.out / "_manifest.json"
        kinds = ["flip", "copy", "cut", "take away", "leave"]
        kinds += ["shuffle"] * bool(shuffles)
        kinds += ["manifest", "edit", "edit files"] * manifest.exists()
        kinds += ["stray", "nested"] * (self.rng.random() < 0.3)
        kinds += ["job", "edit job", "claim"] * (self.rng.random() < 0.1)
        kind = self.rng.choice(kinds)
        self.seen["tampered"] += 1
        self.seen["edited manifests"] += kind.startswith("edit") and kind != "edit job"
        with self.log.open("a") as log:
            log.write(f"--- {kind} {part.name} {other.name}\n")
        if kind in ("flip", "shuffle"):
            path = self.rng.choice(shuffles) if kind == "shuffle" else part
            data = bytearray(path.read_bytes())
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            path.write_bytes(data)
        elif kind == "copy":
            part.write_bytes(other.read_bytes())
        elif kind == "cut":
            os.truncate(part, self.rng.randrange(part.stat().st_size))
        elif kind == "take away":
            part.unlink()
        elif kind == "leave":
            (self.out / f".{part.name}.1-1.partial").write_bytes(b"PAR1")
        elif kind == "manifest":
            os.truncate(manifest, self.rng.randrange(manifest.stat().st_size))
        elif kind in ("edit", "edit files"):
            self.edit(manifest, ["files"] if kind == "edit files" else None)
        else:
            return self.forbid(kind, part)
        return None

    def edit(self, path: Path, names: list[str] | None = None) -> None:
        """Somebody's hand in a file of JSON: a value is another, or half of it."""
        try:
            said = dict(orjson.loads(path.read_bytes()))
            name = self.rng.choice(names or sorted(said))
        except (ValueError, TypeError, IndexError):  # another hand has been there
            path.write_bytes(b"[]")
            return
        value = said.get(name)
        half = value[: len(value) // 2] if isinstance(value, list | str) else None
        others = [None, 7, -1, "x", [], {}, [None], value, half]
        said[name] = self.rng.choice([other for other in others if other != value])
        path.write_bytes(orjson.dumps(said))

    def forbid(self, kind: str, part: Path) -> Callable[[], Any]:
        """What no job goes on with, and how it is undone."""
        if kind == "stray":
            stray = Path(shutil.copy(part, part.with_stem(f"{part.stem} (1)")))
            return stray.unlink
        if kind == "nested":
            (self.out / "sub").mkdir()
            shutil.copy(part, self.out / "sub")
            return lambda: shutil.rmtree(self.out / "sub")
        if kind == "claim":
            claim = self.out / "_driver.json"
            claim.unlink(missing_ok=True)
            claim.mkdir()
            return claim.rmdir
        job = self.out / "_job.json"
        data = job.read_bytes()
        if kind == "job":
            os.truncate(job, self.rng.randrange(len(data)))
        else:
            self.edit(job)
        return lambda: job.write_bytes(data)

    def said(self) -> str:
        return f"{self.out}\n{self.log.read_text()[-6000:]}"


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_rows_are_conserved_or_no_success_is_said(
    tiny_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Callable[[str], None],
) -> None:
    # The server of forks imports once what every driver needs; it is not told this process's path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faulty_job"])
    seen: Counter[str] = Counter()
    for run in range(RUNS):
        folder = tmp_path / str(run)
        RandomJob(SEED * 1_000_000 + run, folder, str(tiny_dir), seen).run(context)
        shutil.rmtree(folder)
    figure(f"{RUNS} jobs of {ROWS} rows, {dict(seen)}: 0 lost, 0 doubled, 0 changed")
