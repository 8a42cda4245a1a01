"""Classes that derive from a trainer's own, made when they are asked for by name.

An adapter's part of such a class stands in a plain class, which can be imported, and tested,
without the trainer.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from typing import Any


def derived(own: type, name: str, base: str) -> type:
    """`own` before the trainer's class `base` ("module.Class"), as `name` of `own`'s module.

    It is put there, so that it is made once and found again when it is unpickled.
    """
    module, _, base_name = base.rpartition(".")
    parent: Any = getattr(import_module(module), base_name)

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(__module__=own.__module__, __doc__=own.__doc__)

    made = types.new_class(name, (own, parent), exec_body=fill)
    keep(made, name, own.__module__)
    return made


def keep(made: Any, name: str, module: str) -> Any:
    """The same, from now on a name of the module."""
    setattr(sys.modules[module], name, made)
    return made


def no_such(module: str, name: str) -> AttributeError:
    """What a module's `__getattr__` raises."""
    return AttributeError(f"module {module!r} has no attribute {name!r}")
