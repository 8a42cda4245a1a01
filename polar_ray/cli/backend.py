"""What scores for a command: a scorer in this process, or a running pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from polar_ray.config import HostConfig, ScorerConfig
from polar_ray.errors import ConfigError

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
TimeoutS = Annotated[float, typer.Option(help="Deadline of one request to --address.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the token for --address in its first line.")
]


def open_scoring(
    config: HostConfig,
    address: str | None,
    *,
    timeout_s: float,
    priority: Any,
    token_file: Path | None,
) -> Scoring:
    """The pool at `address`, or without one a scorer by the settings."""
    if address is None:
        from polar_ray import Scorer

        return Scorer(config.scorer).score
    if config.model_fields_set & set(ScorerConfig.model_fields):
        raise ConfigError("--address scores with the pool's model; drop --model and its settings")
    from polar_ray.client import connect

    token = None if token_file is None else read_token(token_file)
    client = connect(address=address, timeout_s=timeout_s, priority=priority, token=token)
    client.tell_waiting(lambda reason: typer.echo(reason, err=True))
    return client.score_table


def read_token(path: Path) -> str:
    """The first line of a file that is neither blank nor a comment, as a pool reads its own."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: {error}") from None
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ConfigError(f"--token-file {path} holds no token")
    return tokens[0]
