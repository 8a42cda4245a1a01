"""A process that uses a client, forks, and lets parent and children score at the same time.

`python tests/client/forking.py ADDRESS`: prints, for each process, how many of its answers were
wrong or did not come.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from fake_pool import score_of

from polar_ray.client import Client, connect

CALLS = 10


def wrong(client: Client, who: int) -> int:
    """How many of this process's calls had an answer that is not theirs, or none."""
    count = 0
    for number in range(CALLS):
        record = {"prompt": f"{who}", "reference": f"{number}", "output": "o"}
        try:
            (score,) = client.score([record], timeout_s=20)
            (later,) = asyncio.run(client.score_async([record], timeout_s=20))
        except Exception as error:
            print(f"process {who}: {type(error).__name__}: {error}", file=sys.stderr)
            score = later = None
        count += {score, later} != {score_of(*record.values())}
    return count


def fork(client: Client, who: int) -> int:
    """The id of a child that scores; its exit status is what was wrong."""
    pid = os.fork()
    if pid == 0:
        # What the parent held at the fork must not hold the child for ever.
        threading.Timer(100, os._exit, (99,)).start()
        os._exit(wrong(client, who))
    return pid


def main(address: str) -> None:
    with connect(address=address) as client:
        # Connections that a child could use: of a call that blocks, and of one that is awaited.
        first = [{"prompt": "p", "reference": "r", "output": "o"}]
        client.score(first)
        asyncio.run(client.score_async(first))
        # A call of another thread is out while this one forks: locks are held, a thread watches.
        busy = threading.Thread(target=wrong, args=(client, 9))
        busy.start()
        children = [fork(client, who) for who in range(4)]
        own = wrong(client, 8)
        busy.join()
        found = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(*found, own)


if __name__ == "__main__":
    main(sys.argv[1])
