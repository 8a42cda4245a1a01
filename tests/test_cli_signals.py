"""Signals to `polar-ray serve` and `rescore`: the first stops it, a second one does not disturb
that."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polar_ray.cli import cli
from polar_ray.cli.interrupts import interrupted_once, stopping_is_said
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
def test_the_first_interrupts_and_the_second_does_not(first: int, second: int) -> None:
    interrupted_once(signal.SIGINT, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(first)
    signal.raise_signal(second)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_a_script_has_in_its_background_stays_deaf_to_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted_once(signal.SIGINT, signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_ray_does_not_replace_a_handler_of_sigterm() -> None:
    interrupted_once(signal.SIGINT, signal.SIGTERM)
    with _own_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as `ray.init` puts its own
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_what_is_waited_for_is_said_at_once_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping_is_said("stopping: a part"):
        assert capfd.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == "stopping: a part\n"
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is before


def test_rescore_says_that_it_stops_and_how_it_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "reference": "b", "output": "c"}\n')

    def interrupting(*arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polar_ray.offline.job.rescore", interrupting)
        arguments = ["rescore", str(tmp_path / "in.jsonl"), str(tmp_path / "out")]
        done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 130
    assert "stopping: what is being scored is finished first" in capfd.readouterr().err
    assert "the same command goes on" in done.stderr
