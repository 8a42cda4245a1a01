"""xtuner: its own calls, as they were recorded, against a fake pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from adapters.recorded import ANSWERS, ASKED, WANTED, stand_in
from fake_pool import FakePool

from polar_ray.adapters import xtuner
from polar_ray.adapters.pool import Unscored


class Judger:
    def __init__(self, judger_name: str | None = None) -> None:
        self.name = judger_name


def payload(text: str, label: Any = "4") -> dict[str, Any]:
    asked = {"message": ASKED, "status": "completed", "data_source": "polar", "task_name": None}
    return {"response": text + "<|im_end|>", "label": label, **asked}


def test_xtuners_judger(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import BaseModel

    class JudgerConfig(BaseModel):
        judger_name: str

    path = "xtuner.v1.rl.judger.native"
    stand_in(monkeypatch, path, Judger=Judger, JudgerConfig=JudgerConfig)
    judger = xtuner.PolarJudgerConfig(polar={"priority": "eval"}).build_local()
    assert isinstance(judger, Judger)
    assert judger.name == "polar"

    def judge(given: Any) -> Any:
        return asyncio.run(judger.judge_payload(given))

    assert judge(payload("four")) == {"score": WANTED[0]}
    assert judge([payload(text) for text in ANSWERS]) == [{"score": one} for one in WANTED]
    assert pool.queries[0]["priority"] == "eval"
    with pytest.raises(Unscored, match="row 1: null_field"):
        judge([payload("four"), payload("4", None)])
