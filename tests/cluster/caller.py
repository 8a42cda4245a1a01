"""Calls of a pool from one of its Ray nodes, as a trainer there makes them: a program, and what a
test sees of it from outside. The program says several times a second what became of its calls."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.load import CALLERS, Account, Oracle, by, run_load
from chaos.observe import GUARD_S
from cluster.hosts import Host

import polar_ray

NAME = "polar"
BUILT_IN = Path(polar_ray.__file__).parent / "assets" / "polar-tiny"
EVERY_S = 0.2
Report = dict[str, Any]


class Caller:
    """The program in a host, as the test sees it."""

    def __init__(
        self,
        host: Host,
        env: dict[str, str],
        log: Path,
        *,
        size: int = 250,
        callers: int = CALLERS,
        timeout_s: float = 2 * GUARD_S,
    ) -> None:
        words = [sys.executable, __file__, str(size), str(callers), str(timeout_s)]
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                host.command(*words),
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.last: Report = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def until(self, what: str, is_so: Callable[[Report], bool]) -> float:
        """Waits until something is so; how long it took."""
        began = time.monotonic()
        while not (self.last and is_so(self.last)):
            assert time.monotonic() - began < GUARD_S, f"not in {GUARD_S:g} s: {what}; {self.last}"
            assert not self.has_ended, f"the caller ended: {self._log.read_text()[-2000:]}"
            time.sleep(0.05)
        return time.monotonic() - began

    def answered(self, more: int) -> None:
        """Returns once so many more calls were answered."""
        self.until("calls", lambda _: True)
        enough = self.last["answered"] + more
        self.until(f"{more} more calls", lambda report: report["answered"] >= enough)

    def finish(self) -> Report:
        """Lets the calls that are out end, and starts no others; what became of all."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=GUARD_S)
        self._reader.join()
        assert self.last.get("finished"), f"it died: {self._log.read_text()[-2000:]}"
        return self.last

    def kill(self) -> None:
        """Ends it whatever it does."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"answered"'):  # Ray writes to the same stream
                self.last = json.loads(line)


def figures(report: Report) -> str:
    """What became of all calls, for people."""
    return (
        f"{report['rows']} records: {report['lost']} lost, {report['duplicated']} duplicated, "
        f"{report['wrong']} wrong, {report['errors']} row errors; latency p50 "
        f"{report['p50_s']:.2f} s, worst {report['worst_s']:.2f} s"
        + "".join(f"; {count} times {error}" for error, count in report["why"])
    )


def is_exact(report: Report) -> bool:
    """Nothing is missing, twice or wrong."""
    return not any(report[what] for what in ("lost", "duplicated", "wrong", "errors"))


async def main(size: int, callers: int, timeout_s: float) -> None:
    """Scores record after record, until the input ends."""
    import ray

    from polar_ray.client import connect

    ray.init(address="auto", namespace="serve", log_to_driver=False)
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()}
    account, over, seen = Account(), asyncio.Event(), {"replicas": 0}
    load = asyncio.create_task(
        run_load(
            by(connect(app_name=NAME), timeout_s),
            Oracle(BUILT_IN),
            records=0,
            size=size,
            callers=callers,
            until=over,
            account=account,
        )
    )
    loop = asyncio.get_running_loop()
    waiter = threading.Thread(target=_when_over, args=(loop, over), daemon=True)
    waiter.start()
    watch = asyncio.create_task(_watch(seen))
    while not load.done():
        await asyncio.sleep(EVERY_S)
        _say(account, seen, nodes)
    watch.cancel()
    await load
    _say(account, seen, nodes, finished=True)


def _when_over(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    sys.stdin.read()
    loop.call_soon_threadsafe(over.set)


async def _watch(seen: dict[str, int]) -> None:
    """How many replicas the pool's router has by its own word; 0 while it does not answer."""
    from ray import serve

    handle = serve.get_app_handle(NAME)
    while True:
        try:
            stats = await asyncio.wait_for(handle.stats.remote(), 5)
            seen["replicas"] = int(stats["replicas"])
        except Exception:  # whatever it is, the calls are there to tell
            seen["replicas"] = 0
        await asyncio.sleep(EVERY_S)


def _say(
    account: Account, seen: dict[str, int], nodes: dict[str, str], finished: bool = False
) -> None:
    latencies = sorted(account.latencies)
    report = {
        "answered": len(latencies),
        "calls": account.calls,
        "rows": account.rows,
        "lost": account.lost,
        "duplicated": account.duplicated,
        "wrong": account.wrong,
        "errors": account.errors,
        "p50_s": latencies[len(latencies) // 2] if latencies else 0.0,
        "worst_s": account.worst_s,
        "why": account.why.most_common(3),
        "at": time.monotonic(),
        "nodes": nodes,
        "finished": finished,
        **seen,
    }
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
