"""Stand-ins for libraries that a trainer imports while it loads, and does not use here.

Any submodule and any name of them can be imported; a name is an empty class.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any, ClassVar


class _StandIn(types.ModuleType):
    __path__: ClassVar[list[str]] = []
    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__init__": lambda self, *given, **named: None})
        setattr(self, name, made)
        return made


class _Finder:
    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in(*names: str) -> None:
    """Makes these libraries importable."""
    sys.meta_path.append(_Finder(names))  # type: ignore[arg-type]
