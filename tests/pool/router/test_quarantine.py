"""Records that are known to kill: found again, forgotten after an hour, bounded in number."""

from __future__ import annotations

import pyarrow as pa
import pytest
from sample_records import GROUPS

from polar_ray.pool.router import quarantine as module
from polar_ray.pool.router.quarantine import Quarantine, Suspicions

TABLE = pa.Table.from_pylist(GROUPS)


def test_a_record_is_found_wherever_it_stands_and_for_its_time() -> None:
    quarantine = Quarantine(lasts_s=10.0)
    assert quarantine.find(TABLE, 0.0) == []
    quarantine.add(TABLE, 3, 0.0)
    assert quarantine.find(TABLE, 1.0) == [3]
    assert quarantine.find(pa.concat_tables([TABLE, TABLE.slice(3, 2)]), 1.0) == [3, len(GROUPS)]
    assert quarantine.find(TABLE.slice(4), 1.0) == []
    assert quarantine.find(TABLE, 11.0) == []


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


def test_the_oldest_is_forgotten_first() -> None:
    quarantine = Quarantine(limit=2)
    for row in range(3):
        quarantine.add(TABLE, row, float(row))
    assert quarantine.find(TABLE, 3.0) == [1, 2]


def test_suspicions_add_up_until_they_are_old_or_refuted() -> None:
    suspicions, table = Suspicions(lasts_s=600.0), TABLE
    suspicions.add(table, [0, 1], 100.0, weight=1.0)
    suspicions.add(table, [1], 200.0, weight=1.0, trials_lost=1)
    found = suspicions.find(TABLE.take([1, 3, 0]), 300.0)
    assert {row: (known.weight, known.trials_lost) for row, known in found.items()} == {
        0: (2.0, 1),
        2: (1.0, 0),
    }
    assert list(suspicions.find(table, 700.0)) == [1]
    suspicions.forget(table, [1])
    assert suspicions.find(table, 300.0) == {}


def test_there_are_never_too_many_suspicions() -> None:
    suspicions, table = Suspicions(limit=2), TABLE
    suspicions.add(table, [0, 1, 2], 100.0, weight=1.0)
    assert list(suspicions.find(table, 101.0)) == [1, 2]


@pytest.mark.parametrize("rows", [module.FEW_ROWS, module.FEW_ROWS + 1, 1000])
def test_only_rows_of_the_same_lengths_are_hashed(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing a large batch would hold up the event loop."""
    texts = [str(10**row) for row in range(rows)]
    table = pa.table({"prompt": texts, "reference": texts, "output": texts})
    quarantine, hashed = Quarantine(), list[int]()
    quarantine.add(table, 5, 0.0)
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda *at: hashed.append(at[1]) or digest(*at))
    assert quarantine.find(table, 1.0) == [5]
    assert hashed == ([5] if rows > module.FEW_ROWS else list(range(rows)))
