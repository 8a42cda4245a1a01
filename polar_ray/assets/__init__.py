"""The model that ships with the package."""

from pathlib import Path


def builtin_model_dir() -> Path:
    """The checkpoint directory of the built-in model; its README.md says what it is and is not."""
    return Path(__file__).parent / "polar-tiny"
