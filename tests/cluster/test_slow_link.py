"""The cable: what its settings mean, and that it carries what TCP makes of them."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from cluster.hosts import network, why_not
from cluster.slow_link import Direction, Link

LISTEN = """
import hashlib, socket, sys
with socket.create_server(("", 5000)) as server:
    print("listening", flush=True)
    with server.accept()[0] as peer:
        digest = hashlib.sha256()
        while part := peer.recv(65536):
            digest.update(part)
print(digest.hexdigest())
"""
SEND = """
import hashlib, os, socket, sys
content = os.urandom(300_000)
with socket.create_connection((sys.argv[1], 5000)) as peer:
    peer.sendall(content)
print(hashlib.sha256(content).hexdigest())
"""


def arrivals(link: Link, *sent: tuple[float, int]) -> list[float | None]:
    way = Direction(link, random.Random(0))
    return [way.arrives(now, size) for now, size in sent]


def test_a_good_link_carries_all_at_once() -> None:
    assert arrivals(Link(), (1, 1500), (1, 1500), (2, 60)) == [1, 1, 2]


def test_a_slow_link_takes_frames_one_after_the_other() -> None:
    link = Link(delay_s=0.5, bytes_per_s=1000)
    assert arrivals(link, (1, 100), (1, 100), (9, 100)) == pytest.approx([1.6, 1.7, 9.6])


def test_what_finds_no_room_is_lost() -> None:
    link = Link(bytes_per_s=1000)
    found = arrivals(link, (1, 300), (1, 300), (1.1, 300))
    assert found == [pytest.approx(1.3), None, pytest.approx(1.6)]


def test_a_link_loses_its_share() -> None:
    found = arrivals(Link(loss=0.25), *[(i, 60) for i in range(10_000)])
    assert found.count(None) == pytest.approx(2500, abs=200)


def test_a_link_is_gone_at_the_end_of_each_span() -> None:
    link = Link(every_s=10, gone_s=2)
    sent = [(now, 60) for now in (0, 7, 8, 9, 10, 18.5, 20)]
    assert arrivals(link, *sent) == [0, 7, None, None, 10, None, 20]


def test_tcp_gets_all_over_a_link_that_loses_some() -> None:
    if reason := why_not():
        pytest.skip(reason)
    with network() as net:
        one, two = net.host(1), net.host(2, by_wire=True)
        net.spoil(two, Link(delay_s=0.001, loss=0.02))
        listen = subprocess.Popen(
            one.command(sys.executable, "-c", LISTEN), stdout=subprocess.PIPE, text=True
        )
        assert listen.stdout is not None
        assert listen.stdout.readline() == "listening\n"
        command = two.command(sys.executable, "-c", SEND, one.address)
        sent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert listen.communicate(timeout=60)[0] == sent.stdout
