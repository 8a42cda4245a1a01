"""Records that are known to kill: found again, forgotten after an hour, bounded in number."""

from __future__ import annotations

import pyarrow as pa
import pytest
from examples import GROUPS

from polar_ray.pool import quarantine as module
from polar_ray.pool.quarantine import Quarantine

TABLE = pa.Table.from_pylist(GROUPS)


def test_a_record_is_found_wherever_it_stands_and_for_an_hour() -> None:
    quarantine = Quarantine()
    assert quarantine.find(TABLE, 0.0) == []
    quarantine.add(TABLE, 3, 0.0)
    assert quarantine.find(TABLE, 1.0) == [3]
    assert quarantine.find(pa.concat_tables([TABLE, TABLE.slice(3, 2)]), 1.0) == [3, len(GROUPS)]
    assert quarantine.find(TABLE.slice(4), 1.0) == []
    assert quarantine.find(TABLE, module.REMEMBERED_S + 1) == []


def test_text_does_not_move_between_fields_and_null_is_not_empty() -> None:
    fields = {
        "prompt": ["ab", "a", "ab", "ab"],
        "reference": ["c", "bc", "cd", "cd"],
        "output": ["d", "d", "", None],
    }
    table = pa.table(fields)
    for row in range(table.num_rows):
        quarantine = Quarantine()
        quarantine.add(table, row, 0.0)
        assert quarantine.find(table, 0.0) == [row]


def test_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    quarantine = Quarantine()
    for row in range(3):
        quarantine.add(TABLE, row, float(row))
    assert quarantine.find(TABLE, 3.0) == [1, 2]
