"""Repeats are a share of what succeeds; what the budget refuses waits for it."""

from __future__ import annotations

from parcels import parcel

from polar_ray.pool.router.queue import Queue
from polar_ray.pool.router.retries import Repeats, RetryBudget


def test_repetitions_are_a_share_of_what_succeeds_and_a_trickle() -> None:
    budget = RetryBudget(share=0.25, per_s=1.0, burst=2.0)
    assert [budget.spend(100.0) for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend(100.0) for _ in range(2)] == [True, False]
    assert [budget.spend(101.0) for _ in range(2)] == [True, False]
    assert not budget.spend(50.0), "a clock that goes back pays nothing"
    assert not budget.spend(101.0), "nor when it comes again"


def test_what_the_budget_refuses_is_sent_later_in_order_and_only_if_it_is_wanted() -> None:
    queue = Queue()
    repeats = Repeats(queue, RetryBudget(burst=1.0, per_s=1.0))
    first, unwanted, last = parcel(), parcel(), parcel()
    for lost in (first, unwanted, last):
        repeats.add(lost, 100.0)
    assert (len(queue), len(repeats), repeats.count) == (1, 2, 1)
    unwanted.items[0].call.end()
    repeats.drop_answered()
    repeats.release(101.0)
    assert len(repeats) == 0
    assert [queue.pop(), queue.pop(), queue.pop()] == [first, last, None]
    assert repeats.count == 2
