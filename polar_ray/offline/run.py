"""One run of a job: what it knows, whom it tells, and what it trusts of the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from polar_ray.config import RescoreConfig
from polar_ray.data.splits import Split
from polar_ray.data.storage import place
from polar_ray.errors import ConfigError
from polar_ray.offline.claim import Claim
from polar_ray.offline.conservation import Problem
from polar_ray.offline.executor import Executor
from polar_ray.offline.identity import fingerprint
from polar_ray.offline.inputs import Input, in_parallel, stop_unless_skipped
from polar_ray.offline.parts import Written, find_part, part_name, part_names
from polar_ray.offline.progress import Progress
from polar_ray.offline.state import JobFile
from polar_ray.offline.work import Call, Job

Listener = Callable[[dict[str, Any]], None]
"""Hears of every step as a JSON object with an `event`."""


@dataclass(slots=True)
class Layout:
    """How the work is cut."""

    splits: list[Split]
    buckets: list[int] | None = None
    """Rows of each bucket of grouped records; None where rows stay as they are."""


class Run:
    """What the steps of a run share."""

    def __init__(
        self,
        config: RescoreConfig,
        given: Input,
        job: Mapping[str, Any],
        known: JobFile | None,
        out: str,
        executor: Executor,
        claim: Claim | None,
        listen: Listener,
    ) -> None:
        self.config = config
        self.given = given
        self.identity = job
        self.known = known
        self.where = place(out)
        self.executor = executor
        self.claim = claim
        self.listen = listen
        self.skipped: list[Problem] = []
        """Splits that cannot be read; files are with the input."""

        self.written: dict[str, Written] = {}
        self.job_file: bytes | None = None
        """`_job.json` as it is in the folder."""

        self.job = Job(
            source=given.source,
            out=out,
            fingerprint=fingerprint(job),
            made_by=executor.made_by,
            schema=given.schema,
            columns=given.columns,
            prefix=config.prefix,
            skips=config.on_corrupt == "skip",
        )

    def prove(self, layout: Layout) -> None:
        """Takes the parts of a layout over that are there as this job wrote them."""
        there = {*part_names(self.where)} - self.written.keys()
        splits = [split for split in layout.splits if part_name(split) in there]
        progress = self.progress("prove")

        def known(split: Split) -> Written | None:
            found = find_part(self.where, split, self.job.fingerprint)
            progress.add(None, split.size_bytes)
            return found

        found = in_parallel(known, splits, lambda: self.tell(progress))
        self.written |= {part.name: part for part in found if part is not None}

    def check_writable(self, why: str) -> None:
        """Raises `ConfigError` where something is to be written, and nothing can be."""
        if self.claim is None:
            raise ConfigError(
                f"{self.job.out} is read-only here, and its job is not done: {why}. Make it "
                "writable, and run this again"
            )

    def distrust(self, name: str, why: str) -> None:
        """Says of a file of the folder that it was not what it should be."""
        self.listen({"event": "distrusted", "what": name, "reason": f"{name} {why}"})

    def tell(self, progress: Progress) -> None:
        """Says how far a stage is."""
        self.listen(progress.snapshot(time.monotonic()))

    def progress(self, stage: str) -> Progress:
        """That of a stage which begins now."""
        return Progress(stage, self.given.size_bytes, self.given.rows, time.monotonic())

    def work(
        self, progress: Progress, calls: Sequence[Call]
    ) -> Generator[tuple[Call, Any], None, None]:
        """Does calls and reports, for as long as the folder is this driver's."""
        with closing(self.executor.work(self.job, calls)) as results:
            for call, result in results:
                if self.claim is not None:
                    self.claim.check()
                yield call, result
                self.tell(progress)

    def skip(self, problem: Problem) -> None:
        """Leaves out what cannot be read and says so. Raises `JobStopped` unless that is wanted."""
        stop_unless_skipped(self.config, [problem])
        self.skipped.append(problem)
        self.listen({"event": "skipped", **asdict(problem)})
