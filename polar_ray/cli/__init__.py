"""The command line, `polar-ray`. Heavy imports happen inside the commands."""

import logging

from polar_ray.cli import evaluation, rescoring, scoring, settings, verification
from polar_ray.cli.app import cli

__all__ = ["cli", "evaluation", "main", "rescoring", "scoring", "settings", "verification"]


def main() -> None:
    """Entry point of the `polar-ray` script."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    cli()
