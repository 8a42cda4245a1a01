"""Files of bearer tokens: one a line, as a pool and its callers read them."""

from __future__ import annotations

import re
from pathlib import Path

from polar_ray.errors import ConfigError

_TOKEN = re.compile(r"[!-~]+")


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, in order.

    A line that begins with `#` is a comment, spaces around a line do not count. A token is
    printable ASCII without spaces: nothing else comes through a header as it was sent. `ValueError`
    names a line that is none, and shows nothing of it.
    """
    # Editors on Windows begin a file with a byte order mark, and end lines with two characters.
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:  # which holds the file
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    tokens = {at: line for at, line in enumerate(lines, 1) if line and not line.startswith("#")}
    for at, token in tokens.items():
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"line {at} is no token: only printable ASCII without spaces is one")
    return list(tokens.values())


def check_token(token: str | None) -> str | None:
    """The same; raises `ConfigError`, which shows nothing of it, for one that no header carries."""
    if token is None or (isinstance(token, str) and _TOKEN.fullmatch(token)):
        return token
    raise ConfigError("token: it must be a text of printable ASCII without spaces, and not empty")


def first_token(path: str | Path, setting: str) -> str:
    """The token that a caller sends. Raises `ConfigError`, in which `setting` says who named the
    file: `token_file`, `--token-file`."""
    try:
        tokens = read_tokens(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting}={str(path)!r}: {error}") from None
    if not tokens:
        raise ConfigError(f"{setting}={str(path)!r} holds no token")
    return tokens[0]
