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
    list_files,
    make_folder,
    names_in,
    place,
    remove_partial,
    within_each_other,
    write_whole,
)
from polar_ray.errors import ConfigError, DeviceLost, JobStopped, PoolError
from polar_ray.offline import grouping
from polar_ray.offline.claim import Claim, claimed
from polar_ray.offline.conservation import Problem, check_conserved
from polar_ray.offline.executor import Executor, ThreadExecutor
from polar_ray.offline.identity import (
    JOB,
    MANIFEST,
    check_same,
    fingerprint,
    identity,
    read_json,
)
from polar_ray.offline.inputs import Input, contents, in_parallel, open_input, stop_unless_skipped
from polar_ray.offline.parts import (
    NAME,
    Written,
    described,
    find_part,
    part_name,
    recount,
)
from polar_ray.offline.progress import Progress
from polar_ray.offline.scoring import scoring_for
from polar_ray.offline.sealed import digest_of
from polar_ray.offline.stats import Stats
from polar_ray.offline.work import Call, Job, changed

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
    where = make_folder(out)
    with claimed(where) as claim, _executor(config, out) as executor:
        listen({"event": "loaded", "made_by": executor.made_by})
        try:
            return _Run(config, given, out, executor, claim, listen).run()
        except (OSError, DeviceLost, PoolError) as error:
            # The disk, this process's device and the pool end the run, not the job.
            reason = str(error).rstrip(".")
            raise JobStopped(f"{reason}. Parts that were written stay; run this again") from None


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
        self,
        config: RescoreConfig,
        given: Input,
        out: str,
        executor: Executor,
        claim: Claim,
        listen: Listener,
    ) -> None:
        self.config = config
        self.given = given
        self.where = place(out)
        self.executor = executor
        self.claim = claim
        self.listen = listen
        self.problems = list(given.skipped)
        self.written: dict[str, Written] = {}
        inputs = contents(given.source, given.files)
        self.identity = identity(config, executor.made_by, inputs, given.schema, given.columns)
        self.job = Job(
            source=given.source,
            out=out,
            fingerprint=fingerprint(self.identity),
            made_by=executor.made_by,
            schema=given.schema,
            columns=given.columns,
            prefix=config.prefix,
            skips=config.on_corrupt == "skip",
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
        known = read_json(self.where, JOB)
        if known is not None:
            check_same(known["identity"], self.identity, self.job.out)
            self._parquet_files()  # a strange one is found before any work
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
        """Whether there is a manifest and all that it lists, as it says; if so, takes it over."""
        manifest = read_json(self.where, MANIFEST)
        if manifest is None or (manifest["skipped"] and not self.job.skips):
            return False
        skipped = {problem["what"] for problem in manifest["skipped"]}
        if skipped & self.identity["inputs"].keys() != {file.what for file in self.given.skipped}:
            return False  # other files can be read now
        listed = {one["name"]: one["sha256"] for one in manifest["files"]}
        if not listed.keys() <= names_in(self.where).keys():
            return False
        digests = in_parallel(lambda name: digest_of(self.where, name), list(listed))
        if digests != list(listed.values()):
            return False
        parts = in_parallel(lambda name: described(self.where, name, listed[name]), list(listed))
        self.written = {part.name: part for part in parts}
        self.problems = [Problem(**problem) for problem in manifest["skipped"]]
        self.job = replace(self.job, fingerprint=manifest["fingerprint"])
        return True

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
        calls = [
            Call("shuffle", tuple(splits[start : start + step]), number)
            for number, start in enumerate(starts)
        ]
        found: dict[int, grouping.Shuffled] = {}
        for call, shuffled in zip(calls, in_parallel(self._found_shuffle, calls), strict=True):
            if shuffled is not None:
                found[call.number] = shuffled
        progress = self._progress("group")
        missing = [call for call in calls if call.number not in found]
        for call, shuffled in self._work(progress, missing):
            stop_unless_skipped(self.config, shuffled.skipped)
            found[call.number] = shuffled
            progress.add(None, call.size_bytes)
        for number in sorted(found):
            for problem in found[number].skipped:
                self._skip(problem)
        totals = [sum(column) for column in zip(*(s.sizes for s in found.values()), strict=True)]
        # Parts are of these shuffle files; from others, that lack other splits, come other parts.
        made_of = {
            "job": self.job.fingerprint,
            "sizes": totals,
            "skipped": [problem.what for problem in self.problems],
        }
        self.job = replace(self.job, num_shuffles=len(starts), fingerprint=fingerprint(made_of))
        cut_again = grouping.cut_buckets(totals, self.config.rows_per_part, self.given.size_bytes)
        return Layout(cut_again, buckets)

    def _found_shuffle(self, call: Call) -> grouping.Shuffled | None:
        """A shuffle file of an earlier run. One that lacks a split is none, unless it may."""
        found = grouping.find_shuffle(self.where, call.number, self.job.shuffled_from(call))
        if found is not None and found.skipped and not self.job.skips:
            self.where.filesystem.delete_file(self.where.within(grouping.shuffle_name(call.number)))
            return None
        return found

    def _resume(self, layout: Layout) -> Progress:
        """Counts the parts that are there as this job wrote them, and takes others away."""
        splits = {part_name(split): split for split in layout.splits}
        there = sorted(self._parquet_files())

        def known(name: str) -> Written | None:
            return find_part(self.where, splits[name], self.job.fingerprint)

        found = in_parallel(known, [name for name in there if name in splits])
        self.written |= {part.name: part for part in found if part is not None}
        manifest = read_json(self.where, MANIFEST)
        if manifest and {one["name"] for one in manifest["files"]} - self.written.keys():
            self.where.filesystem.delete_file(self.where.within(MANIFEST))
        for name in there:
            if name not in self.written:
                self.where.filesystem.delete_file(self.where.within(name))
                why = "not as this job wrote it" if name in splits else "of no split of this job"
                reason = f"{name} was {why}; what it should hold is scored again"
                self.listen({"event": "distrusted", "what": name, "reason": reason})
        progress = self._progress("score")
        for name, part in sorted(self.written.items()):
            progress.resume(part.report, splits[name].size_bytes if name in splits else 0)
        return progress

    def _parquet_files(self) -> list[str]:
        """The parts of the folder. Raises `ConfigError` for a file that readers of the folder would
        take for one."""
        names = [name for name in names_in(self.where) if name.endswith(".parquet")]
        if strange := sorted(name for name in names if not NAME.fullmatch(name)):
            raise ConfigError(
                f"{self.where.within(strange[0])} is no part of a job, but who reads the folder "
                "would count its rows; take it away"
            )
        return names

    def _progress(self, stage: str) -> Progress:
        return Progress(stage, self.given.size_bytes, self.given.rows, time.monotonic())

    def _work(
        self, progress: Progress, calls: Sequence[Call]
    ) -> Generator[tuple[Call, Any], None, None]:
        """Does calls and reports, for as long as the folder is this driver's."""
        with closing(self.executor.work(self.job, calls)) as results:
            for call, result in results:
                self.claim.check()
                yield call, result
                self.listen(progress.snapshot(time.monotonic()))

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

    def _check_whole(self, layout: Layout) -> None:
        """Raises `JobStopped` unless the folder holds what the input does, which is as it was."""
        there = set(self._parquet_files())
        if absent := sorted(self.written.keys() - there):
            raise JobStopped(
                f"{len(absent)} parts are not in {self.job.out!r}, such as {absent[0]}: somebody "
                "took them away, or it is not the same folder on every node; run this again, with "
                "a folder that all nodes share"
            )
        names = sorted(there)
        splits = {part_name(split): split for split in layout.splits}
        rows = in_parallel(lambda name: recount(self.where, self.written[name]), names)
        # Files that could not even be opened are not among the rows that are to be found again. Of
        # lines that were skipped later nobody knows how many they are.
        late = [problem for problem in self.problems if problem not in self.given.skipped]
        known = all(problem.rows is not None for problem in late)
        total = self.given.rows if known else None
        check_conserved(splits, dict(zip(names, rows, strict=True)), self.problems, total)
        inputs = contents(self.given.source, list_files(self.given.source))
        for path, content in self.identity["inputs"].items():
            if inputs.get(path) != content:
                raise JobStopped(changed(path))
        self.claim.renew()
        self.claim.check()

    def _finish(self, layout: Layout, progress: Progress) -> dict[str, Any]:
        """Writes the manifest; only now is the output whole."""
        self._check_whole(layout)
        summary = {
            "made_by": self.executor.made_by,
            "fingerprint": self.job.fingerprint,
            "grouped": bool(layout.num_buckets),
            **progress.stats.to_json(),
            "skipped": [asdict(problem) for problem in self.problems],
        }
        files = [part.entry() for _, part in sorted(self.written.items())]
        manifest = {**summary, "files": files}
        old = read_json(self.where, MANIFEST)
        if old is None or old["files"] != files:
            data = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
            write_whole(self.where, MANIFEST, data)
        remove_partial(self.where)
        for name in names_in(self.where):
            if name.startswith(grouping.SHUFFLE):
                self.where.filesystem.delete_file(self.where.within(name))
        self.listen({**progress.snapshot(time.monotonic()), **summary, "event": "done"})
        return manifest
