"""sglang's log: the last lines, for whoever asks why it ended, and what its cache has saved.

Its answers do not tell how many tokens were computed; a line for each of its forward passes does.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable

logger = logging.getLogger(__name__)

KEPT_LINES = 40

GIST_LINES = 3

LONGEST_LINE = 300
"""Characters of a line in the gist."""

_FORWARD = re.compile(r"Prefill batch.*?#new-token: (\d+), #cached-token: (\d+)")


class Log:
    """Reads lines in a thread of its own while another asks."""

    def __init__(self) -> None:
        self.forwards = 0
        self.tokens_computed = 0
        self.tokens_cached = 0
        self._last = deque[str](maxlen=KEPT_LINES)

    def read(self, lines: Iterable[str]) -> None:
        """Takes all lines until they end."""
        for line in lines:
            self.take(line.rstrip())

    def take(self, line: str) -> None:
        """One line."""
        if (found := _FORWARD.search(line)) is not None:
            self.forwards += 1
            self.tokens_computed += int(found[1])
            self.tokens_cached += int(found[2])
        elif line:
            self._last.append(line)
            logger.debug("sglang: %s", line)

    @property
    def text(self) -> str:
        """The last lines."""
        return "\n".join([*self._last])

    @property
    def gist(self) -> str:
        """The very last, for a message."""
        last = [line[:LONGEST_LINE] for line in self._last][-GIST_LINES:]
        return "its log ends: " + " | ".join(last) if last else "it has logged nothing"
