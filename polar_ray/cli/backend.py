"""What scores for a command: a scorer in this process, or a running pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from polar_ray.call_options import Priority
from polar_ray.config import HostConfig, ScorerConfig
from polar_ray.errors import ConfigError, RecordError
from polar_ray.extras import require
from polar_ray.token_file import first_token

if TYPE_CHECKING:
    import pyarrow as pa

Scoring: TypeAlias = "Callable[[pa.Table], pa.Table]"
"""Result tables of request tables."""

INPUT_HELP = (
    "parquet, Arrow, jsonl, CSV or a JSON array (the last three also .gz, .zst, .bz2): a file, a "
    "glob, a folder or a URI."
)
Format = Annotated[
    str | None,
    typer.Option(help="parquet, arrow, jsonl, json or csv, where no ending tells it, as of stdin."),
]
ProgressKind = Literal["auto", "json", "none"]
Model = Annotated[str | None, typer.Option(help="Directory or hub name; else built-in.")]
Address = Annotated[
    str | None, typer.Option(help="http://host:port of a running pool; else in this process.")
]
TimeoutS = Annotated[
    float | None, typer.Option(help="Deadline of one request to --address; else 600 s.")
]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the token for --address in its first line.")
]


POOL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Backend:
    """Who scores, as the settings and options of a command say. Raises `ConfigError` for options
    that nobody would hear of."""

    config: HostConfig
    address: str | None
    timeout_s: float | None
    token_file: Path | None
    priority: Priority | None = None
    usual_priority: Priority = "offline"

    def __post_init__(self) -> None:
        if self.address is None:
            if given := self._pool_options:
                raise ConfigError(f"{', '.join(given)}: for a pool; give its --address, too")
        elif self._own_settings:
            raise ConfigError(
                "--address scores with the pool's model; drop --model and its settings"
            )

    @property
    def _pool_options(self) -> list[str]:
        """Those that only a pool has use for."""
        options = {
            "--timeout-s": self.timeout_s,
            "--priority": self.priority,
            "--token-file": self.token_file,
        }
        return [name for name, value in options.items() if value is not None]

    @property
    def _own_settings(self) -> list[str]:
        """Those of a scorer in this process."""
        return sorted(self.config.model_fields_set & set(ScorerConfig.model_fields))

    def check_unused(self, reason: str) -> None:
        """`ConfigError` where somebody said who scores and nobody has to."""
        named = [] if self.address is None else ["--address", *self._pool_options]
        if named := [*self._own_settings, *named]:
            raise ConfigError(f"{reason}, so that nothing is to be scored: drop {', '.join(named)}")

    def prepare(self) -> Callable[[], Scoring]:
        """What opens it, later; what is quickly seen to be wrong is said now."""
        if self.address is not None:
            scoring = self.open()
            return lambda: scoring
        require("engine", "scoring in this process")
        from polar_ray.checkpoint import check_if_visible

        check_if_visible(self.config.scorer)
        return self.open

    def open(self) -> Scoring:
        """The pool at `address`, or without one a scorer by the settings."""
        if self.address is None:
            from polar_ray import Scorer

            return Scorer(self.config.scorer).score
        from polar_ray.client import connect

        timeout_s = POOL_TIMEOUT_S if self.timeout_s is None else self.timeout_s
        try:
            client = connect(
                address=self.address,
                timeout_s=timeout_s,
                priority=self.priority or self.usual_priority,
                token=None
                if self.token_file is None
                else first_token(self.token_file, "--token-file"),
            )
        except RecordError as error:  # a deadline or priority that is none is a setting here
            raise ConfigError(str(error)) from None
        client.tell_waiting(lambda reason: typer.echo(reason, err=True))
        return client.score_table
