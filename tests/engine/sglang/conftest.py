"""An environment with a fake sglang."""

from __future__ import annotations

from pathlib import Path

import pytest
from sglang_faking import Fake, known

from polar_ray.engine.sglang import engine


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Known answers are the fake's, too: it has no network."""
    found = Fake(tmp_path)
    monkeypatch.setenv("FAKE_SGLANG_LOG", str(found.log))
    monkeypatch.setattr(engine, "known_answers", lambda folder: known(found, folder))
    return found
