"""verifiers: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from adapters.recorded import ASKED, WANTED
from fake_pool import FakePool

from polar_ray.adapters import verifiers
from polar_ray.adapters.pool import Unscored


def test_verifiers_asks_with_a_task_and_a_trace(pool: FakePool) -> None:
    from pydantic import BaseModel

    class Data(BaseModel):
        prompt: Any
        answer: Any = None

    trace = SimpleNamespace(last_reply="four")
    for prompt in ("2+2=", [SimpleNamespace(model_dump=lambda: ASKED[0])]):
        assert asyncio.run(verifiers.polar(Data(prompt=prompt, answer="4"), trace)) == WANTED[0]
    with pytest.raises(Unscored, match="null_field"):
        asyncio.run(verifiers.polar(Data(prompt="2+2="), trace))
    assert asyncio.iscoroutinefunction(verifiers.polar), "verifiers refuses a plain def"
