"""A network cable as a process, which may be slow and lose things, as not every kernel has netem.
`python slow_link.py NEAR FAR` makes two network devices and carries frames between them; each line
of its input, a `Link` as JSON, changes how well. TCP sees a real loss, and has to send again."""

from __future__ import annotations

import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NamedTuple

TUNSETIFF = 0x400454CA
TAP_OF_BARE_FRAMES = 0x0002 | 0x1000
LONGEST_FRAME = 65_536
LONGEST_QUEUE_S = 0.25
"""What would wait longer for its turn finds no room in the buffer, as in a router."""


@dataclass(frozen=True, slots=True)
class Link:
    """How well a link carries frames, in each direction."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    """None: as fast as they come."""

    loss: float = 0.0
    """Share of frames that never arrive."""

    every_s: float | None = None
    """How often it is gone altogether; None: never."""

    gone_s: float = 0.0
    """For how long it is, then."""

    def as_json(self) -> str:
        """What this program reads."""
        return json.dumps(asdict(self))


class Direction:
    """Decides when each frame of one direction arrives."""

    def __init__(self, link: Link, chance: random.Random, began: float = 0.0) -> None:
        self.link = link
        self._chance = chance
        self._began = began
        self._free_at = 0.0

    def arrives(self, now: float, size: int) -> float | None:
        """When a frame that is sent now arrives; None: never."""
        link = self.link
        if self._is_gone(now) or self._chance.random() < link.loss:
            return None
        starts = max(now, self._free_at)
        if starts - now > LONGEST_QUEUE_S:
            return None
        self._free_at = starts + (size / link.bytes_per_s if link.bytes_per_s else 0.0)
        return self._free_at + link.delay_s

    def _is_gone(self, now: float) -> bool:
        """At the end of each span of `every_s`."""
        every_s = self.link.every_s
        return every_s is not None and (now - self._began) % every_s >= every_s - self.link.gone_s


class Frame(NamedTuple):
    """A frame on its way; the number keeps those of one instant in order."""

    at: float
    number: int
    to: int
    content: bytes


def main(near: str, far: str) -> None:
    """Carries frames until it is killed, or its input ends."""
    ends = [_device(near), _device(far)]
    chance = random.Random(0)
    ways = {end: Direction(Link(), chance) for end in ends}
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    numbers = itertools.count()
    on_their_way: list[Frame] = []
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        wait = max(0.0, on_their_way[0].at - time.monotonic()) if on_their_way else None
        readable, _, _ = select.select([*ends, sys.stdin], [], [], wait)
        now = time.monotonic()
        for end in readable:
            if end is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                link = Link(**json.loads(line))
                ways = {each: Direction(link, chance, now) for each in ends}
                continue
            for content in _frames(end):
                at = ways[end].arrives(now, len(content))
                if at is not None:
                    heapq.heappush(on_their_way, Frame(at, next(numbers), other[end], content))
        while on_their_way and on_their_way[0].at <= now:
            _send(heapq.heappop(on_their_way))


def _device(name: str) -> int:
    """A new network device whose frames this process has."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_OF_BARE_FRAMES))
    return device


def _frames(device: int) -> list[bytes]:
    """What a device has by now, at most as much as leaves the other its turn."""
    found: list[bytes] = []
    while len(found) < 64:
        try:
            found.append(os.read(device, LONGEST_FRAME))
        except BlockingIOError:
            break
    return found


def _send(frame: Frame) -> None:
    """A device that is not up, or is gone with its host, takes nothing."""
    with suppress(OSError):
        os.write(frame.to, frame.content)


if __name__ == "__main__":
    main(*sys.argv[1:3])
