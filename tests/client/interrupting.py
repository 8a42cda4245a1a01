"""A process whose timer interrupts its calls wherever they are, as a bound on a reward's time does.

`python tests/client/interrupting.py ADDRESS TIMES`: prints how many calls were interrupted, and
whether calls of other threads and of another client still come back.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time

from polar_ray.client import connect

ROW = {"prompt": "p", "reference": "r", "output": "o"}
GUARD_S = 60.0


class Late(Exception):
    pass


def late(number: int, frame: object) -> None:
    raise Late


def main(address: str, times: str) -> None:
    client = connect(address=address, timeout_s=20)
    client.score([ROW])
    began = time.monotonic()
    for _ in range(20):
        client.score([ROW])
    takes_s = (time.monotonic() - began) / 20
    signal.signal(signal.SIGALRM, late)
    interrupted = 0
    while interrupted < int(times):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + random.random() * takes_s)
                client.score([ROW])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Late:
            interrupted += 1
    answered: list[float] = []

    def score_elsewhere() -> None:
        answered.extend(client.score([ROW], timeout_s=5))
        answered.extend(connect(address=address, timeout_s=5).score([ROW]))

    other = threading.Thread(target=score_elsewhere, daemon=True)
    other.start()
    other.join(GUARD_S)
    print(interrupted, len(answered), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
