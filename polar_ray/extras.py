"""Which optional library comes with which extra, so that whatever lacks one says what to install.

The base install is the client over HTTP. `pyproject.toml` has the versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

RAY = ("ray", "fastapi")  # Serve's handles need what `ray[serve]` brings
ENGINE = (
    "google.protobuf",
    "huggingface_hub",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
)

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "ray": RAY,
    "engine": ENGINE,
    "serve": (*ENGINE, *RAY, "psutil"),
    "eval": ("matplotlib", "scipy"),
    "train": ENGINE,
}
"""The modules of each, smaller extras first."""


def require(extra: str, what: str) -> None:
    """Raises an `ImportError` that says what to install for `what`, and all that it lacks."""
    if missing := [module for module in EXTRAS[extra] if not _installed(module)]:
        raise ImportError(
            f"{what} needs {', '.join(missing)}; {install(extra)}", name=missing[0]
        ) from None


def install(extra: str) -> str:
    """How to install an extra: from a clone; the name on PyPI is not this project's."""
    return f"install it with: pip install 'DIR[{extra}]', DIR a clone of polar_ray"


def extra_of(module: str | None) -> str | None:
    """The smallest extra that brings a module, such as `ray.serve`; None for others."""
    for extra, modules in EXTRAS.items():
        for known in modules:
            if module is not None and f"{module}.".startswith(f"{known}."):
                return extra
    return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it would be in
        return False
