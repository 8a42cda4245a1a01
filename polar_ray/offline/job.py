"""The job: what is to be done, what is done already, and the order of the rest.

Whatever ends a run, parts that exist are whole; the next run of the same command counts those that
prove themselves and does the others. `_manifest.json` is written last: readers that wait for it see
all or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from polar_ray.config import RescoreConfig
from polar_ray.data.splits import Split
from polar_ray.data.storage import (
    list_files,
    make_folder,
    place,
    read_whole,
    remove,
    remove_partial,
    within_each_other,
)
from polar_ray.errors import ConfigError, DeviceLost, JobStopped, PoolError
from polar_ray.offline.claim import CLAIM, Claim, claimed
from polar_ray.offline.conservation import Problem
from polar_ray.offline.ending import finish
from polar_ray.offline.executor import Executor, ThreadExecutor
from polar_ray.offline.identity import asked, check_same, identity
from polar_ray.offline.inputs import Content, Input, contents, open_input
from polar_ray.offline.layout import layout_of
from polar_ray.offline.parts import parquet_files, part_name, part_names
from polar_ray.offline.progress import Progress
from polar_ray.offline.run import Layout, Listener, Run
from polar_ray.offline.scoring import scoring_for
from polar_ray.offline.state import JOB, MANIFEST, JobFile, read_account, read_job
from polar_ray.offline.stats import Stats
from polar_ray.offline.work import Call


def rescore(
    config: RescoreConfig, source: str, out: str, listen: Listener = lambda event: None
) -> dict[str, Any]:
    """Rescores a dataset into a folder of parts and returns the manifest.

    Raises `JobStopped` where the job cannot go on but the same command can later.
    """
    if within_each_other(source, out):
        raise ConfigError(f"what is written to {out!r} would be read as {source!r}; part them")
    with _stopping():
        given, inputs = _open(config, source, out, listen)
    wanted = asked(config, inputs, given.schema, given.columns)
    with _held(out) as claim:
        # Mistakes are found before a model is loaded.
        with _stopping():
            known = _known(out, wanted, claim)
        listen({"event": "opened", "files": len(given.files), "rows": given.rows})
        with _executor(config, out) as executor:
            listen({"event": "loaded", "made_by": executor.made_by})
            with _stopping():
                job = identity(wanted, executor.made_by)
                if known is not None:
                    check_same(known.identity.model_dump(), job, out)
                run = Run(config, given, job, known, out, executor, claim, listen)
                return finish(run, *_work(run))


@contextmanager
def _stopping() -> Iterator[None]:
    """The disk, this process's device and the pool end the run, not the job."""
    try:
        yield
    except IsADirectoryError as error:
        raise JobStopped(
            f"{error.filename} is a folder, where a job keeps a file; take it away, and run this "
            "again"
        ) from None
    except (OSError, DeviceLost, PoolError) as error:
        reason = str(error).rstrip(".")
        if isinstance(error, OSError) and error.filename and error.strerror:
            reason = f"{error.filename}: {error.strerror}"
        raise JobStopped(f"{reason}. Parts that were written stay; run this again") from None
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise JobStopped(f"{error}: a limit of memory or processes; raise it") from None


def _open(
    config: RescoreConfig, source: str, out: str, listen: Listener
) -> tuple[Input, dict[str, Content]]:
    """The input, and what its files are. JSON is read to its end, unless the folder's job has kept
    what these files hold."""
    files = list_files(source)
    inputs = contents(source, files)
    kept = None
    with suppress(ConfigError):  # which is said once the folder is held
        known = read_job(place(out))
        if known is not None and known.identity.inputs == inputs:
            kept = known.opened
    size_bytes = sum(file.size_bytes for file in files)
    progress = Progress("read", size_bytes, None, time.monotonic())

    def tell(done_bytes: int) -> None:
        progress.done_bytes = done_bytes
        listen(progress.snapshot(time.monotonic()))

    return open_input(config, source, files, kept, tell), inputs


@contextmanager
def _held(out: str) -> Iterator[Claim | None]:
    """The claim on a folder; None for one that cannot be written to, where nobody can take anything
    from a job that says that it is done."""
    try:
        where = make_folder(out)
    except ConfigError:
        if read_whole(place(out), MANIFEST) is None:
            raise
        where = None
    if where is None:
        yield None
    else:
        with claimed(where) as claim:
            yield claim


def _known(out: str, wanted: Mapping[str, Any], claim: Claim | None) -> JobFile | None:
    """The job of a folder, None for a new one. Raises `ConfigError` where it is another, as far as
    that is to be seen without who scores, or the folder holds what is none of a job."""
    where = place(out)
    known = read_job(where)
    if known is not None:
        part_names(where)
        check_same(known.identity.model_dump(), wanted, out)
    elif found := parquet_files(where):
        raise ConfigError(
            f"{out} holds other files, such as {found[0]}, and no {JOB} that says whose they are"
        )
    elif claim is None:
        raise ConfigError(f"{out} is read-only here, and holds no {JOB}")
    return known


@contextmanager
def _executor(config: RescoreConfig, out: str) -> Iterator[Executor]:
    """The executor that a config describes, for a job that writes to `out`."""
    if config.num_workers or config.app_name is not None:
        from polar_ray.pool.local import set_environment

        set_environment()
        from polar_ray.offline.tasks import open_tasks

        with open_tasks(config, out) as tasks:
            yield tasks
    else:
        with closing(scoring_for(config)) as scoring:
            yield ThreadExecutor(scoring, config.in_flight)


def _work(run: Run) -> tuple[Layout, Progress]:
    """All that is not done yet, in order."""
    if run.claim is not None:
        remove_partial(run.where, lambda name: name != CLAIM)
    layout = layout_of(run)
    progress = _resume(run, layout)
    missing = [split for split in layout.splits if part_name(split) not in run.written]
    run.listen({"event": "start", "parts": len(layout.splits), "missing": len(missing)})
    _check_errors(run, progress.stats)
    calls = [Call("score", (split,)) for split in missing]
    with closing(run.work(progress, calls)) as results:
        for call, result in results:
            if isinstance(result, Problem):
                run.skip(result)
                continue
            run.written[result.name] = result
            progress.add(result.report, call.size_bytes)
            _check_errors(run, progress.stats)
    return layout, progress


def _resume(run: Run, layout: Layout) -> Progress:
    """Counts the parts that are there as this job wrote them, and takes others away."""
    run.prove(layout)
    splits = {part_name(split): split for split in layout.splits}
    distrusted = [name for name in part_names(run.where) if name not in run.written]
    if distrusted or len(run.written) < len(splits):
        _check_rest(run, distrusted, splits)
        # Who waits for a manifest must not take the folder for whole.
        if run.claim is not None:
            remove(run.where, MANIFEST)
    for name in distrusted:
        remove(run.where, name)
        why = "not as this job wrote it" if name in splits else "of no split of this job"
        run.distrust(name, f"was {why}; what it should hold is scored again")
    progress = run.progress("score")
    for name, part in sorted(run.written.items()):
        progress.resume(part.report, splits[name].size_bytes)
    return progress


def _check_rest(run: Run, distrusted: Sequence[str], splits: Mapping[str, Split]) -> None:
    """Nothing needs to be written where all that is missing could not be read before, and cannot be
    read now."""
    account = read_account(run.where)
    listed = {problem.what for problem in account.skipped} if account else set()
    missing = [name for name in splits if name not in run.written]
    if distrusted or any(str(splits[name]) not in listed for name in missing):
        run.check_writable(f"{len(run.written)} of its {len(splits)} parts are there")


def _check_errors(run: Run, stats: Stats) -> None:
    most = run.config.max_errors
    if most is not None and stats.num_errors > most:
        kinds = ", ".join(f"{n} {code}" for code, n in stats.errors.most_common())
        raise JobStopped(
            f"{stats.num_errors} rows without a score, max_errors is {most}: {kinds}. Parts "
            "that were written stay; run this again with a larger one to go on"
        )
