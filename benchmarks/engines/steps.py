"""Steps of a measurement on a machine that is lent for minutes: none can spoil the others."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Report:
    """What steps found, in a JSON file that is whole after each of them.

    A step that raises leaves its error; one that would begin after `seconds` is left out.
    """

    def __init__(self, path: Path, *, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.found: dict[str, Any] = {}
        self.failed: list[str] = []
        self._started = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, which must be JSON; None where there is nothing."""
        began = time.monotonic()
        result: Any = None
        if began - self._started > self.seconds:
            entry: dict[str, Any] = {"left out": f"{self.seconds:.0f} s were over"}
        else:
            try:
                result = work()
                entry = {"found": result}
            except Exception as error:
                where = traceback.format_exception_only(error)[-1].strip()
                entry = {"error": where[:2000], "at": traceback.format_exc()[-2000:]}
                self.failed.append(name)
        entry["took_s"] = round(time.monotonic() - began, 2)
        self.found[name] = entry
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        partial.replace(self.path)
        told = entry.get("found", entry.get("error", entry.get("left out")))
        print(f"{name} ({entry['took_s']} s): {json.dumps(told)[:600]}", flush=True)
        return result
