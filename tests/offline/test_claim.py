"""One job, one driver: who is refused, and when an owner is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pyarrow import fs as pafs
from rescoring import ROWS, Config, expected, read, scores

from polar_ray.data.storage import Place, place, read_whole, write_whole
from polar_ray.errors import JobStopped
from polar_ray.offline import claim as claims
from polar_ray.offline import rescore
from polar_ray.offline.claim import CLAIM, Claim, Owner, claimed, this_process


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes a blink, and no claim is renewed by itself."""
    monkeypatch.setattr(claims, "RENEW_S", 3600.0)
    monkeypatch.setattr(claims, "GONE_S", 0.05)
    monkeypatch.setattr(claims, "LOOK_S", 0.01)
    monkeypatch.setattr(claims, "SETTLE_S", 0.01)


@pytest.fixture(params=["local", "fsspec", "other"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder: of this system, of a store of fsspec's, and of one that can only be written to."""
    if request.param == "local":
        return place(str(tmp_path))
    if request.param == "fsspec":
        found = place(f"memory://claims{tmp_path}")
        found.filesystem.create_dir(found.path)
        return found
    return Place(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "")


def elsewhere() -> Owner:
    """A driver of another host."""
    return replace(this_process(), host="far-away", pids="another boot")


def leave(where: Place, owner: Owner) -> None:
    write_whole(where, CLAIM, orjson.dumps({**asdict(owner), "renewed": "now"}))


def owner(where: Place) -> Owner:
    said = orjson.loads(read_whole(where, CLAIM) or b"")
    return Owner(**{field.name: said[field.name] for field in fields(Owner)})


def test_a_second_driver_is_refused_by_name(where: Place) -> None:
    with claimed(where):
        first = owner(where)
        with pytest.raises(
            JobStopped, match=rf"another driver's: process {os.getpid()} on .*since"
        ):
            Claim(where, this_process()).take()
        assert owner(where) == first
        Claim(where, first).take()  # its own, of which it was not told
    assert read_whole(where, CLAIM) is None
    with claimed(where):
        assert owner(where) != first


def test_a_process_that_is_dead_is_gone_at_once(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GONE_S", 3600.0)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        dead = replace(this_process(), pid=sleeper.pid, started=claims._started(sleeper.pid))
        leave(where, dead)
        with pytest.raises(JobStopped, match=f"process {sleeper.pid} on"):
            Claim(where, this_process()).take()
        sleeper.send_signal(signal.SIGKILL)
        # Not waited for: a process that nobody has reaped is dead as well.
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        Claim(where, this_process()).take()
        assert owner(where).pid == os.getpid()
        # Another process has got its id.
        leave(where, replace(this_process(), started="0"))
        Claim(where, this_process()).take()
        assert owner(where).started != "0"
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_an_owner_elsewhere_is_gone_once_it_renews_no_more(where: Place) -> None:
    leave(where, elsewhere())
    Claim(where, this_process()).take()
    assert owner(where).pid == os.getpid()
    # Nor is there anything to wait for in a claim that nobody can read.
    write_whole(where, CLAIM, b"{")
    with claimed(where) as claim:
        claim.check()


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_is_no_file_in_the_claims_place_is_named(
    config: Config, source: Path, out: Path, kind: str
) -> None:
    out.mkdir()
    if kind == "folder":
        (out / CLAIM).mkdir()
    elif kind == "pipe":
        os.mkfifo(out / CLAIM)
    else:
        (out / CLAIM).symlink_to("nowhere")
    with pytest.raises(JobStopped, match=r"_driver\.json is no file.*take it away"):
        rescore(config(), str(source), str(out))


def test_a_claim_that_can_neither_be_made_nor_read_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "write_whole", lambda *_, **__: False)
    with pytest.raises(JobStopped, match=r"_driver\.json was neither to be made nor to be read"):
        Claim(place(str(tmp_path)), this_process()).take()


def test_a_claim_is_renewed_in_other_words_though_the_clock_stands(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_now", lambda: "2026-01-01T00:00:00+00:00")
    with claimed(where) as claim:
        before = read_whole(where, CLAIM)
        claim.renew()
        assert read_whole(where, CLAIM) != before
        claim.check()


def test_who_tidies_up_leaves_a_claim_that_is_being_written(
    config: Config, source: Path, out: Path
) -> None:
    partial = out / f".{CLAIM}.0123.partial"
    left = out / ".part-000000.parquet.0123.partial"
    seen: list[bool] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "opened":
            partial.touch()
            left.touch()
        elif event["event"] == "start":
            seen.append(left.exists())

    rescore(config(), str(source), str(out), listen)
    assert (partial.exists(), seen) == (True, [False])
    rescore(config(), str(source), str(out))  # nobody writes it any more
    assert not list(out.glob(".*"))


def test_an_owner_elsewhere_that_renews_is_there(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = elsewhere()
    leave(where, far)

    def sleep(seconds: float) -> None:
        write_whole(where, CLAIM, orjson.dumps({**asdict(far), "renewed": "again"}))

    monkeypatch.setattr(claims.time, "sleep", sleep)
    with pytest.raises(JobStopped, match="on far-away, since"):
        Claim(where, this_process()).take()
    assert owner(where) == far


def test_an_owner_that_was_replaced_stops_and_leaves_the_claim_alone(where: Place) -> None:
    with claimed(where) as claim:
        claim.renew()
        claim.check()
        other = elsewhere()
        leave(where, other)
        claim.renew()
        with pytest.raises(JobStopped, match=r"taken it over .*on far-away"):
            claim.check()
    assert owner(where) == other


def test_an_owner_that_cannot_renew_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_S", 0.01)

    def full(*_: Any, **__: Any) -> bool:
        raise OSError(28, "No space left on device")

    where = place(str(tmp_path))
    claim = Claim(where, this_process())
    claim.take()
    monkeypatch.setattr(claims, "write_whole", full)
    claim.renew_until(threading.Event())
    with pytest.raises(JobStopped, match=r"could not renew its claim: .*No space"):
        claim.check()
    claim.release()


@pytest.mark.parametrize("kind", ["nobody's", "a dead one's"])
def test_of_many_at_once_one_has_it(tmp_path: Path, kind: str) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        folder.mkdir()
        where = place(str(folder))
        if kind != "nobody's":
            leave(where, replace(this_process(), started="0"))
        drivers = [Claim(where, this_process()) for _ in range(8)]
        ready = threading.Barrier(8)

        def take(driver: Claim, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            try:
                driver.take()
            except JobStopped:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            took = list(threads.map(take, drivers))
        assert took.count(True) == 1
        assert owner(where) == drivers[took.index(True)]._owner
        assert [path.name for path in folder.iterdir()] == [CLAIM]


def test_a_second_job_in_the_folder_neither_writes_nor_takes_away(
    config: Config, source: Path, out: Path
) -> None:
    refused: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        partial = out / ".part-000009.parquet.1-1.partial"
        partial.touch()
        with pytest.raises(JobStopped, match="another driver's") as caught:
            rescore(config(engine={"type": "native"}), str(source), str(out))
        refused.append(str(caught.value))
        assert partial.exists()

    manifest = rescore(config(), str(source), str(out), listen)
    assert len(refused) > 5
    assert (manifest["rows"], manifest["made_by"]["engine"]) == (ROWS, "stub")
    assert scores(read(out)) == expected(config())
    assert not (out / CLAIM).exists()


def test_a_driver_that_lost_its_folder_writes_no_manifest(
    config: Config, source: Path, out: Path
) -> None:
    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["rows"] == ROWS:
            leave(place(str(out)), elsewhere())

    with pytest.raises(JobStopped, match="another driver has taken it over"):
        rescore(config(), str(source), str(out), listen)
    assert not (out / "_manifest.json").exists()
    assert rescore(config(), str(source), str(out))["rows"] == ROWS
