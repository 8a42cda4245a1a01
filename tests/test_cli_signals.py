"""Signals to commands that take their time: a second one does not disturb what the first stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from polar_ray.cli.interrupts import interrupted_once
from polar_ray.pool.local import _own_sigterm


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Puts back what a test changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # The tests themselves may run in a script's background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupts_and_the_second_does_not(
    first: int, second: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with interrupted_once("stopping"):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(first)
        assert capfd.readouterr().err == "stopping\n"
        signal.raise_signal(second)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_script_has_in_its_background_stays_deaf_to_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupted_once():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_ray_does_not_replace_a_handler_of_sigterm() -> None:
    with interrupted_once():
        with _own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as `ray.init` puts its own
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
