"""The end of a job: its parts are read once more, and only then does it say that it is done."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from polar_ray.data.storage import names_in, read_whole, remove, remove_partial, write_whole
from polar_ray.errors import JobStopped
from polar_ray.offline import grouping
from polar_ray.offline.claim import CLAIM
from polar_ray.offline.conservation import check_conserved
from polar_ray.offline.inputs import arrived, in_parallel
from polar_ray.offline.parts import part_name, part_names, prove
from polar_ray.offline.progress import Progress
from polar_ray.offline.run import Layout, Run
from polar_ray.offline.state import JOB, MANIFEST, manifest_bytes, write_manifest


def finish(run: Run, layout: Layout, progress: Progress) -> dict[str, Any]:
    """Writes the manifest; only now is the output whole."""
    new = _check_whole(run, layout)
    if new:
        reason = (
            f"{len(new)} file(s) came into the input while the job ran, such as {new[0]}; they "
            "are not part of this job: score them into another folder"
        )
        run.listen({"event": "arrived", "what": new[0], "reason": reason})
    summary = {
        "made_by": run.executor.made_by,
        "fingerprint": run.job.fingerprint,
        "grouped": layout.buckets is not None,
        **progress.stats.to_json(),
        "skipped": [asdict(problem) for problem in (*run.given.skipped, *run.skipped)],
        "arrived": new,
    }
    files = [part.entry() for _, part in sorted(run.written.items())]
    manifest = {**summary, "buckets": layout.buckets or [], "files": files}
    _write_manifest(run, manifest)
    if run.claim is not None:
        remove_partial(run.where, lambda name: name != CLAIM)
        for name in names_in(run.where):
            if name.startswith(grouping.SHUFFLE):
                remove(run.where, name)
    # Bytes of splits are rounded; what was skipped is over, too.
    last = {**progress.snapshot(time.monotonic()), "share": 1.0, "eta_s": 0.0}
    run.listen({**last, **summary, "event": "done"})
    return manifest


def _write_manifest(run: Run, manifest: dict[str, Any]) -> None:
    """Says that the job is done, unless that is said already, in just these words; and whose parts
    these are, where that has changed meanwhile."""
    if run.job_file is not None and read_whole(run.where, JOB) != run.job_file:
        run.distrust(JOB, "was changed while the job ran; it is written as it was")
        write_whole(run.where, JOB, run.job_file)
    old = read_whole(run.where, MANIFEST)
    if old == manifest_bytes(manifest):
        return
    run.check_writable(f"{MANIFEST} does not say what its parts hold")
    if old is not None:
        run.distrust(MANIFEST, "did not say what the parts hold; it is written anew")
    write_manifest(run.where, manifest)


def _check_whole(run: Run, layout: Layout) -> list[str]:
    """Raises `JobStopped` unless the folder holds what the input does, which is as it was. The
    files that have come into the input since."""
    there = part_names(run.where)
    if absent := sorted(run.written.keys() - set(there)):
        raise JobStopped(
            f"{len(absent)} parts are not in {run.job.out!r}, such as {absent[0]}: somebody "
            "took them away, or it is not the same folder on every node; run this again, with "
            "a folder that all nodes share"
        )
    if more := [name for name in there if name not in run.written]:
        raise JobStopped(
            f"{run.where.within(more[0])} came into the folder while the job ran; run this again"
        )
    splits = {part_name(split): split for split in layout.splits}
    progress = run.progress("check")

    def rows_of(name: str) -> int:
        rows = prove(run.where, run.written[name])
        progress.add(None, splits[name].size_bytes)
        return rows

    rows = in_parallel(rows_of, there, lambda: run.tell(progress))
    # Files that could not even be opened are not among the rows that are to be found again. Of
    # lines that were skipped later nobody knows how many they are.
    known = all(problem.rows is not None for problem in run.skipped)
    total = run.given.rows if known else None
    check_conserved(splits, dict(zip(there, rows, strict=True)), run.skipped, total)
    new = arrived(run.given.source, run.identity["inputs"])
    if run.claim is not None:
        run.claim.renew()
        run.claim.check()
    return new
