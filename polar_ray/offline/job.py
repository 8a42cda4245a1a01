"""The job: what is to be done, what is done already, and the order of the rest.

Whatever ends a run, parts that exist are whole; the next run of the same command counts them and
does the others. `_manifest.json` is written last: readers that wait for it see all or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from polar_ray.config import RescoreConfig
from polar_ray.data.splits import Split, cut
from polar_ray.data.storage import (
    make_folder,
    names_in,
    place,
    read_whole,
    remove_partial,
    within_each_other,
    write_whole,
)
from polar_ray.errors import ConfigError, DeviceLost, JobStopped, PoolError
from polar_ray.offline import grouping
from polar_ray.offline.executor import Executor, ThreadExecutor
from polar_ray.offline.identity import JOB, MANIFEST, check_same, fingerprint, identity
from polar_ray.offline.inputs import Input, in_parallel, open_input, stop_unless_skipped
from polar_ray.offline.parts import Written, digest_of, part_name, read_report
from polar_ray.offline.progress import Progress
from polar_ray.offline.scoring import scoring_for
from polar_ray.offline.stats import Stats
from polar_ray.offline.work import Call, Job, Problem

Listener = Callable[[dict[str, Any]], None]
"""Hears of every step as a JSON object with an `event`."""


@dataclass(slots=True)
class Layout:
    """How the work is cut."""

    splits: list[Split]
    num_buckets: int = 0
    """Of grouped records; 0 where rows stay as they are."""


def rescore(
    config: RescoreConfig, source: str, out: str, listen: Listener = lambda event: None
) -> dict[str, Any]:
    """Rescores a dataset into a folder of parts and returns the manifest.

    Raises `JobStopped` where the job cannot go on but the same command can later.
    """
    given = open_input(config, source)
    if within_each_other(source, out):
        raise ConfigError(f"what is written to {out!r} would be read as {source!r}; part them")
    # Mistakes are found before a model is loaded.
    make_folder(out)
    with _executor(config, out) as executor:
        listen({"event": "loaded", "made_by": executor.made_by})
        return _Run(config, given, out, executor, listen).run()


@contextmanager
def _executor(config: RescoreConfig, out: str) -> Iterator[Executor]:
    """The executor that a config describes, for a job that writes to `out`."""
    if config.num_workers or config.app_name is not None:
        from polar_ray.offline.tasks import open_tasks

        with open_tasks(config, out) as tasks:
            yield tasks
    else:
        with closing(scoring_for(config)) as scoring:
            yield ThreadExecutor(scoring, config.in_flight)


class _Run:
    """One run of a job, from the folder as it is to the manifest."""

    def __init__(
        self, config: RescoreConfig, given: Input, out: str, executor: Executor, listen: Listener
    ) -> None:
        self.config = config
        self.given = given
        self.where = place(out)
        self.executor = executor
        self.listen = listen
        self.problems = list(given.skipped)
        self.written: dict[str, Written] = {}
        self.identity = identity(config, executor.made_by, given.files, given.schema, given.columns)
        self.job = Job(
            source=given.source,
            out=out,
            fingerprint=fingerprint(self.identity),
            made_by=executor.made_by,
            schema=given.schema,
            columns=given.columns,
            prefix=config.prefix,
        )

    def run(self) -> dict[str, Any]:
        """Everything, in order."""
        remove_partial(self.where)
        layout = self._layout()
        progress = self._resume(layout)
        missing = [split for split in layout.splits if part_name(split) not in self.written]
        self.listen({"event": "start", "parts": len(layout.splits), "missing": len(missing)})
        self._check_errors(progress.stats)
        calls = [Call("score", (split,)) for split in missing]
        with closing(self._work(progress, calls)) as results:
            for call, result in results:
                if isinstance(result, Problem):
                    self._skip(result)
                    continue
                self.written[result.name] = result
                progress.add(result.report, call.size_bytes)
                self._check_errors(progress.stats)
        return self._finish(layout, progress)

    def _layout(self) -> Layout:
        """The layout of the folder's job, or a new one, which is then the folder's."""
        splits = cut(self.given.extents, self.config.rows_per_part)
        stored = read_whole(self.where, JOB)
        if stored is not None:
            known = orjson.loads(stored)
            check_same(known["identity"], self.identity, self.job.out)
            buckets = int(known["num_buckets"])
        else:
            if taken := [name for name in names_in(self.where) if name.endswith(".parquet")]:
                raise ConfigError(f"{self.job.out} holds other files, such as {taken[0]}")
            buckets = self._choose_buckets(splits)
            entry = {"identity": self.identity, "num_buckets": buckets}
            write_whole(self.where, JOB, orjson.dumps(entry, option=orjson.OPT_INDENT_2))
        if not buckets:
            return Layout(splits)
        if self._is_finished():
            # Shuffle files are gone, and so is the need for them.
            return Layout([], buckets)
        return self._shuffled(splits, buckets)

    def _is_finished(self) -> bool:
        """Whether there is a manifest and all that it lists. One that lists more is taken away."""
        manifest = read_whole(self.where, MANIFEST)
        if manifest is None:
            return False
        listed = {one["name"] for one in orjson.loads(manifest)["files"]}
        if listed <= names_in(self.where).keys():
            return True
        self.where.filesystem.delete_file(self.where.within(MANIFEST))
        return False

    def _choose_buckets(self, splits: list[Split]) -> int:
        """How many buckets to group records into; 0 for as they are."""
        count = grouping.num_buckets(self.given.rows, self.config.rows_per_part)
        if self.config.group == "never" or len(splits) < 2:
            return 0
        if self.config.group == "always":
            return count
        progress = self._progress("measure")
        first = self._samples(progress, splits[:: max(1, len(splits) // 16)][:16])
        # No split can lose more than what all its prompts and references cost it.
        saving = grouping.most_saving(first)
        if saving >= grouping.PAYS_FROM:
            saving = grouping.saving(self._samples(progress, splits))
        self.listen({"event": "grouping", "saving": round(saving, 4)})
        return count if saving >= grouping.PAYS_FROM else 0

    def _samples(self, progress: Progress, splits: Sequence[Split]) -> Iterator[grouping.Sample]:
        for call, result in self._work(progress, [Call("sample", (split,)) for split in splits]):
            progress.add(None, call.size_bytes)
            if isinstance(result, Problem):
                stop_unless_skipped(self.config, [result])
            else:
                yield result

    def _shuffled(self, splits: list[Split], buckets: int) -> Layout:
        """Writes the shuffle files that are missing and cuts the work from their buckets."""
        self.job = replace(self.job, num_buckets=buckets)
        step = grouping.SPLITS_PER_SHUFFLE
        starts = range(0, len(splits), step)
        on_disk = names_in(self.where)
        there = [n for n in range(len(starts)) if grouping.shuffle_name(n) in on_disk]
        found = in_parallel(lambda n: grouping.shuffle_sizes(self.where, n), there)
        sizes = dict(zip(there, found, strict=True))
        progress = self._progress("group")
        calls = [
            Call("shuffle", tuple(splits[start : start + step]), number)
            for number, start in enumerate(starts)
            if number not in sizes
        ]
        for call, (shuffled, problems) in self._work(progress, calls):
            for problem in problems:
                self._skip(problem)
            sizes[call.number] = shuffled
            progress.add(None, call.size_bytes)
        self.job = replace(self.job, num_shuffles=len(starts))
        totals = [sum(column) for column in zip(*sizes.values(), strict=True)]
        cut_again = grouping.cut_buckets(totals, self.config.rows_per_part, self.given.size_bytes)
        return Layout(cut_again, buckets)

    def _resume(self, layout: Layout) -> Progress:
        """Counts the parts that are there."""
        on_disk = names_in(self.where)
        there = [name for name in sorted(on_disk) if name.endswith(".parquet")]
        progress = self._progress("score")
        sizes = {part_name(split): split.size_bytes for split in layout.splits}

        def known(name: str) -> Written:
            report = read_report(self.where, name, self.job.fingerprint)
            return Written(name, on_disk[name], "", report)

        for one in in_parallel(known, there):
            self.written[one.name] = one
            progress.resume(one.report, sizes.get(one.name, 0))
        return progress

    def _progress(self, stage: str) -> Progress:
        return Progress(stage, self.given.size_bytes, self.given.rows, time.monotonic())

    def _work(
        self, progress: Progress, calls: Sequence[Call]
    ) -> Generator[tuple[Call, Any], None, None]:
        """Does calls and reports; errors of the disk, of this process's device and of the pool end
        the run, not the job."""
        try:
            with closing(self.executor.work(self.job, calls)) as results:
                for call, result in results:
                    yield call, result
                    self.listen(progress.snapshot(time.monotonic()))
        except (OSError, DeviceLost, PoolError) as error:
            raise JobStopped(f"{error}. Parts that were written stay; run this again") from None

    def _skip(self, problem: Problem) -> None:
        stop_unless_skipped(self.config, [problem])
        self.problems.append(problem)
        self.listen({"event": "skipped", **asdict(problem)})

    def _check_errors(self, stats: Stats) -> None:
        most = self.config.max_errors
        if most is not None and stats.num_errors > most:
            kinds = ", ".join(f"{n} {code}" for code, n in stats.errors.most_common())
            raise JobStopped(
                f"{stats.num_errors} rows without a score, max_errors is {most}: {kinds}. Parts "
                "that were written stay; run this again with a larger one to go on"
            )

    def _finish(self, layout: Layout, progress: Progress) -> dict[str, Any]:
        """Writes the manifest; only now is the output whole."""
        there = names_in(self.where)
        if absent := sorted(self.written.keys() - there.keys()):
            raise JobStopped(
                f"{len(absent)} parts are not in {self.job.out!r}, such as {absent[0]}: somebody "
                "took them away, or it is not the same folder on every node; run this again, with "
                "a folder that all nodes share"
            )

        def entry(name: str) -> dict[str, Any]:
            one = self.written[name]
            return {
                "name": name,
                "rows": one.report.rows,
                "size_bytes": one.size_bytes,
                "sha256": one.sha256 or digest_of(self.where, name),
            }

        summary = {
            "made_by": self.executor.made_by,
            "fingerprint": self.job.fingerprint,
            "grouped": bool(layout.num_buckets),
            **progress.stats.to_json(),
            "skipped": [asdict(problem) for problem in self.problems],
        }
        manifest = {**summary, "files": in_parallel(entry, sorted(self.written))}
        old = read_whole(self.where, MANIFEST)
        if old is None or orjson.loads(old).get("files") != manifest["files"]:
            data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
            write_whole(self.where, MANIFEST, data)
        remove_partial(self.where)
        for name in (name for name in there if name.startswith(grouping.SHUFFLE)):
            self.where.filesystem.delete_file(self.where.within(name))
        self.listen({**progress.snapshot(time.monotonic()), **summary, "event": "done"})
        return manifest
