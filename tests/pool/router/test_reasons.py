"""What a call waits for, from the states that a pool can be in."""

from __future__ import annotations

import pytest

from polar_ray.pool.router.reasons import State, waiting_reason

WHY = (
    "Ray's own command `serve status` says why "
    "(after an AuthenticationError: `export RAY_AUTH_MODE=token`)"
)
ALONE, THREE = "the pool's only replica", "the pool's 3 replicas"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State(0, for_s=12.4), f"the pool has no replica that runs (12 s); {WHY}"),
        (
            State(0, calls=1, for_s=9.6, to_zero=True),
            f"the pool had no replica and starts one (10 s); {WHY}",
        ),
        (
            State(0, to_zero=True),
            "the pool runs no replica while there is no call; the next one starts it",
        ),
        (State(1, calls=1, to_zero=True), f"{ALONE} works on 1 call"),
        (State(1, 1, for_s=12), f"{ALONE} loads a model (12 s); {WHY}"),
        (State(3, 3, for_s=1), f"{THREE} load a model (1 s); {WHY}"),
        (State(1, 0, 1), f"{ALONE} does not answer (0 s); {WHY}"),
        (State(3, 0, 3), f"{THREE} do not answer (0 s); {WHY}"),
        (
            State(3, 2, 1, 7, 9),
            f"of {THREE} 2 load a model and 1 does not answer (9 s); {WHY}",
        ),
        (
            State(1, calls=1, away=1, missing="no server can be used: http://a: gone", for_s=2),
            f"{ALONE} waits for servers (2 s): no server can be used: http://a: gone",
        ),
        (
            State(3, 1, away=2, missing="all gone"),
            f"of {THREE} 1 loads a model and 2 wait for servers (0 s): all gone",
        ),
        (
            State(3, calls=2, away=1, missing="all gone"),
            f"2 of {THREE} work on 2 calls (1 waits for servers)",
        ),
        (State(1, calls=1), f"{ALONE} works on 1 call"),
        (State(3, calls=40), f"{THREE} work on 40 calls"),
        (State(1), f"{ALONE} waits for calls"),
        (State(3), f"{THREE} wait for calls"),
        (State(3, 1), f"2 of {THREE} wait for calls (1 loads a model)"),
        (
            State(3, 1, 1, 2),
            f"1 of {THREE} works on 2 calls (1 loads a model, 1 does not answer)",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_reason_says_who_does_what(state: State, reason: str) -> None:
    assert waiting_reason(state) == reason
