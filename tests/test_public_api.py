"""What `import polar_ray` gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import polar_ray


def test_every_public_name_exists() -> None:
    for name in polar_ray.__all__:
        assert getattr(polar_ray, name) is not None


def test_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, polar_ray, polar_ray.client, polar_ray.cli\n"
        "heavy = {'torch', 'ray', 'fastapi', 'tokenizers', 'sentencepiece'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(polar_ray, "no_such_name")
