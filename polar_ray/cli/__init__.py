"""The command line, `polar-ray`. Heavy imports happen inside the commands."""

import logging
import signal

from polar_ray.cli import capacity, evaluation, rescoring, scoring, settings, verification
from polar_ray.cli.app import cli

__all__ = [
    "capacity",
    "cli",
    "evaluation",
    "main",
    "rescoring",
    "scoring",
    "settings",
    "verification",
]


def main() -> None:
    """Entry point of the `polar-ray` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    cli()


def _terminated(number: int, frame: object) -> None:
    """Ends the process as an exception does, so that files and pools that are begun are taken away;
    a second signal does not wait for that."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)
