"""How the work of a job is cut: by the files as they are, or by buckets of grouped records.

The layout of a grouped job comes from its shuffle files, which go when it is done. After that the
parts prove what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

from polar_ray.data.splits import Split, cut
from polar_ray.data.storage import read_whole, remove
from polar_ray.offline import grouping
from polar_ray.offline.conservation import Problem
from polar_ray.offline.identity import fingerprint
from polar_ray.offline.inputs import in_parallel, keep, stop_unless_skipped
from polar_ray.offline.parts import part_name, part_names
from polar_ray.offline.run import Layout, Run
from polar_ray.offline.state import JOB, read_account, write_job
from polar_ray.offline.work import Call, Job


def layout_of(run: Run) -> Layout:
    """The layout of the folder's job, or a new one, which is then the folder's."""
    splits = cut(run.given.extents, run.config.rows_per_part)
    if run.known is not None:
        buckets = run.known.num_buckets
    else:
        buckets = _choose_buckets(run, splits)
        write_job(run.where, run.identity, buckets, keep(run.given))
    run.job_file = read_whole(run.where, JOB)
    if not buckets:
        return Layout(splits)
    # Once a job is done its shuffle files are gone, and so is the need for them.
    return _finished(run, buckets) or _shuffled(run, splits, buckets)


def _finished(run: Run, count: int) -> Layout | None:
    """The layout of a grouped job that is done. The manifest tells what it was, and is believed
    if every part that there must then be is sealed as a part of just that."""
    account = read_account(run.where)
    first = len(run.given.skipped)
    if (
        account is None
        or len(account.buckets) != count
        or sum(account.buckets) > run.given.rows
        or account.skipped[:first] != run.given.skipped
        or (len(account.skipped) > first and not run.job.skips)
    ):
        return None
    before = run.job
    run.job = _grouped(run, account.buckets, account.skipped[first:])
    layout = _cut(run, account.buckets)
    names = {part_name(split) for split in layout.splits}
    if names and names <= set(part_names(run.where)):
        run.prove(layout)
        if run.written.keys() == names:
            for problem in account.skipped[first:]:
                run.skip(problem)
            return layout
    run.job, run.written = before, {}
    return None


def _grouped(run: Run, sizes: Sequence[int], skipped: Sequence[Problem]) -> Job:
    """The job of parts that are cut from such buckets: of others, or of other rows, come other
    parts."""
    made_of = {
        "job": run.job.fingerprint,
        "sizes": sizes,
        "files": [problem.what for problem in run.given.skipped],
        "skipped": [asdict(problem) for problem in skipped],
    }
    return replace(run.job, fingerprint=fingerprint(made_of))


def _cut(run: Run, sizes: list[int]) -> Layout:
    rows, size_bytes = run.config.rows_per_part, run.given.size_bytes
    return Layout(grouping.cut_buckets(sizes, rows, size_bytes), sizes)


def _choose_buckets(run: Run, splits: list[Split]) -> int:
    """How many buckets to group records into; 0 for as they are."""
    count = grouping.num_buckets(run.given.rows, run.config.rows_per_part)
    if run.config.group == "never" or len(splits) < 2:
        return 0
    if run.config.group == "always":
        return count
    few = splits[:: max(1, len(splits) // 16)][:16]
    first = list(_samples(run, few))
    # No split can lose more than what all its prompts and references cost it.
    saving = grouping.most_saving(first)
    if saving >= grouping.PAYS_FROM:
        saving = grouping.saving(first if len(few) == len(splits) else _samples(run, splits))
    run.listen({"event": "grouping", "saving": round(saving, 4)})
    return count if saving >= grouping.PAYS_FROM else 0


def _samples(run: Run, splits: Sequence[Split]) -> Iterator[grouping.Sample]:
    progress = run.progress("measure")
    for call, result in run.work(progress, [Call("sample", (split,)) for split in splits]):
        progress.add(None, call.size_bytes)
        if isinstance(result, Problem):
            stop_unless_skipped(run.config, [result])
        else:
            yield result


def _shuffled(run: Run, splits: list[Split], buckets: int) -> Layout:
    """Writes the shuffle files that are missing and cuts the work from their buckets."""
    run.check_writable("its parts are not those that its manifest says")
    run.job = replace(run.job, num_buckets=buckets)
    step = grouping.SPLITS_PER_SHUFFLE
    starts = range(0, len(splits), step)
    calls = [
        Call("shuffle", tuple(splits[start : start + step]), number)
        for number, start in enumerate(starts)
    ]
    found: dict[int, grouping.Shuffled] = {}
    there = in_parallel(partial(_found_shuffle, run), calls)
    for call, shuffled in zip(calls, there, strict=True):
        if shuffled is not None:
            found[call.number] = shuffled
    progress = run.progress("group")
    missing = [call for call in calls if call.number not in found]
    for call, shuffled in run.work(progress, missing):
        stop_unless_skipped(run.config, shuffled.skipped)
        found[call.number] = shuffled
        progress.add(None, call.size_bytes)
    for number in sorted(found):
        for problem in found[number].skipped:
            run.skip(problem)
    sizes = [sum(column) for column in zip(*(s.sizes for s in found.values()), strict=True)]
    run.job = replace(_grouped(run, sizes, run.skipped), num_shuffles=len(starts))
    return _cut(run, sizes)


def _found_shuffle(run: Run, call: Call) -> grouping.Shuffled | None:
    """A shuffle file of an earlier run. One that lacks a split is none, unless it may."""
    found = grouping.find_shuffle(run.where, call.number, run.job.shuffled_from(call))
    if found is not None and found.skipped and not run.job.skips:
        remove(run.where, grouping.shuffle_name(call.number))
        return None
    return found
