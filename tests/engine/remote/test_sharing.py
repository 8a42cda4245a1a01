"""A pack in requests, and requests among servers."""

from __future__ import annotations

import numpy as np

from polar_ray.engine.order import Order
from polar_ray.engine.remote.server import SILENT_S, Server
from polar_ray.engine.remote.sharing import Load, Request, assign, budget, cut


def order(lengths: list[int], after: list[int]) -> Order:
    records = [np.zeros(length, dtype=np.int32) for length in lengths]
    return Order(records, after, np.arange(len(lengths)))


def test_neighbours_stay_together_up_to_the_budget() -> None:
    found = cut(order([4, 4, 4, 20, 4], [-1, 0, 0, -1, -1]), 10, leads=False)
    assert [request.places for request in found] == [(0, 1), (2,), (3,), (4,)]
    assert [request.num_tokens for request in found] == [8, 4, 20, 4]


def test_the_first_of_each_prefix_goes_ahead() -> None:
    [found] = cut(order([4] * 5, [-1, 0, 0, -1, 3]), 100, leads=True)
    assert found == Request((0, 3), (1, 2, 4), 20)


def test_a_part_of_a_group_has_a_first_of_its_own() -> None:
    assert len(cut(order([4] * 16, [-1, *[0] * 15]), 8, leads=True)) == 1
    first, second = cut(order([4] * 18, [-1, *[0] * 17]), 8, leads=True)
    assert (first.ahead, len(first.rest)) == ((0,), 15)
    # Its leader is in another request, maybe at another server.
    assert second.ahead == (16, 17)


def test_groups_are_not_divided_for_another_ones_sake() -> None:
    found = cut(order([4] * 6, [-1, 0, 0, -1, 3, 3]), 8, leads=True)
    assert [request.places for request in found] == [(0, 1, 2), (3, 4, 5)]


def test_no_records_are_no_request() -> None:
    assert cut(order([], []), 10, leads=True) == []


def test_a_request_is_neither_tiny_nor_over_its_limit() -> None:
    assert budget(100_000, 8, 4096) == 4096
    assert budget(10_000, 8, 4096) == 625
    assert budget(100, 8, 4096) == 256
    assert budget(100, 0, 4096) == 256


def test_requests_go_where_they_are_done_first() -> None:
    loads = {"fast": Load(0, 100, 2), "slow": Load(0, 10, 2)}
    both = ["fast", "slow"]
    # Up to ten waiting requests the fast one is done sooner, though it has no room.
    assert assign([(10, both)] * 4, loads) == [(0, "fast"), (1, "fast")]
    loads = {"fast": Load(0, 100, 2), "slow": Load(0, 10, 2)}
    assert assign([(10, both)] * 12, loads) == [(0, "fast"), (1, "fast"), (10, "slow")]


def test_a_request_goes_only_where_it_may() -> None:
    loads = {"a": Load(0, 10, 1), "b": Load(0, 10, 1)}
    assert assign([(10, ["b"]), (10, ["gone"]), (10, ["b", "a"])], loads) == [(0, "b"), (2, "a")]


def test_speed_is_that_of_the_whole_server() -> None:
    server = Server("vllm", "http://a")
    server.believe(0.0)
    server.begin("x", 968, 0.0)
    server.begin("y", 968, 0.0)
    server.end("x", 2.0, done=True)
    server.end("y", 2.0, done=True)
    assert abs(server.speed(2.0) - 1000) < 20
    assert server.speed(3.0, fastest=5000) < 1100
    assert server.speed(100.0, fastest=5000) == 5000  # idle for long: it may be faster now


def test_silence_goes_by_the_speed_measured() -> None:
    server = Server("vllm", "http://a")
    server.believe(0.0)
    assert server.silent_s(100.0) is None
    server.begin("x", 968, 0.0)
    server.end("x", 1.0, done=True)  # 1000 tokens a second
    server.begin("y", 9968, 1.0)
    assert server.silent_s(1.0 + 39) is None
    assert server.silent_s(1.0 + 41) == 41
    server.vouch(30.0)
    assert server.silent_s(1.0 + 41) is None
    assert server.silent_s(30.0 + 41) == 41
    server.end("y", 42.0, done=False)
    server.begin("z", 1, 50.0)
    assert server.silent_s(50.0 + SILENT_S) is None
    assert server.silent_s(50.1 + SILENT_S) is not None


def test_pauses_grow_until_it_has_brought_scores() -> None:
    server = Server("vllm", "http://user:secret@a")
    assert "secret" not in server.name
    pauses = []
    for _ in range(9):
        server.put_aside("gone")
        pauses.append(server.pause_s)
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    server.believe(1.0)
    assert server.able(1.0)
    server.succeeded(1.0)
    server.put_aside("again")
    assert server.pause_s == 0.25
    server.succeeded(2.0)
    assert server.aside == "again"  # it was not for its silence
    server.believe(3.0)
    server.put_aside("silent", silent=True)
    server.succeeded(4.0)
    assert server.able(4.0)


def test_a_server_in_use_is_questioned_again_for_a_hundredth_of_its_time() -> None:
    server = Server("vllm", "http://a")
    assert not server.is_to_be_questioned(0.0)  # it is aside
    server.believe(0.0)
    server.questioned(0.0, 0.1)
    assert not server.is_to_be_questioned(60.0)
    assert server.is_to_be_questioned(60.2)
    server.questioned(100.0, 120.0)
    assert not server.is_to_be_questioned(120.0 + 1999)
    assert server.is_to_be_questioned(120.0 + 2001)


def test_a_busy_server_rests() -> None:
    server = Server("vllm", "http://a")
    server.believe(0.0)
    assert server.rest(2.0, 10.0) == 0
    assert not server.able(11.9)
    assert server.able(12.0)
    assert server.rest(2.0, 13.0) == 3
