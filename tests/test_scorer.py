"""The whole path in one process: order, invariance to batch mates, rows that say why not.

Parity by transitivity: golden rewards == native unpacked (tests/model); native packed == native
one by one (here); the pool == one scorer (tests/pool).
"""

from __future__ import annotations

import logging
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dead_device import Dying
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import BAD_ROWS, GROUPS, records

import polar_ray.scorer as module
from polar_ray.checkpoint import model_dir
from polar_ray.config import EncodingConfig, ScorerConfig, StubEngineConfig
from polar_ray.engine.native import NativeEngine
from polar_ray.engine.protocol import Done, Pending
from polar_ray.engine.stub import stub_score
from polar_ray.errors import ConfigError, DeviceLost, EngineClosed, EngineError
from polar_ray.planning import Pack
from polar_ray.records import check_scores, provenance
from polar_ray.scorer import Scorer

TOLERANCE = 1e-5
"""float32 on a CPU: sums of a packed forward are taken in another order."""


def scores(table: pa.Table) -> np.ndarray:
    return table["score"].to_numpy()


def test_a_score_does_not_depend_on_its_batch(scorer: Scorer) -> None:
    together = scores(scorer.score(GROUPS))
    alone = np.concatenate([scores(scorer.score([record])) for record in GROUPS])
    assert np.ptp(together) > 0.1, "scores that are all alike would prove nothing"
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)


@pytest.mark.parametrize("max_tokens", [16, 64, 100_000])
def test_a_score_does_not_depend_on_the_pack_budget(
    scorer: Scorer, tiny_dir: Path, max_tokens: int
) -> None:
    other = Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=max_tokens))
    np.testing.assert_allclose(
        scores(other.score(GROUPS)), scores(scorer.score(GROUPS)), atol=TOLERANCE
    )


def test_a_large_batch_is_encoded_in_slices(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scorer.score([*GROUPS, *(bad for bad, _ in BAD_ROWS)])
    encode, sizes = scorer.encoder.encode, []

    def counting(table: pa.Table) -> object:
        sizes.append(table.num_rows)
        return encode(table)

    monkeypatch.setattr(scorer.encoder, "encode", counting)
    monkeypatch.setattr(module, "SLICE_BYTES", 300)
    found = scorer.score([*GROUPS, *(bad for bad, _ in BAD_ROWS)])
    assert len(sizes) > 2
    assert sum(sizes) == found.num_rows
    assert found.drop_columns("score").equals(expected.drop_columns("score"), check_metadata=True)
    both = (table["score"].to_numpy(zero_copy_only=False) for table in (found, expected))
    np.testing.assert_allclose(*both, atol=TOLERANCE)


@given(st.permutations(range(len(GROUPS))))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_results_stand_in_request_order(scorer: Scorer, order: list[int]) -> None:
    straight = scores(scorer.score(GROUPS))
    shuffled = scores(scorer.score([GROUPS[i] for i in order]))
    np.testing.assert_allclose(shuffled, straight[order], atol=TOLERANCE)


@given(st.lists(records, max_size=6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_is_scored_or_says_why_not(scorer: Scorer, rows: list[dict[str, str]]) -> None:
    check_scores(scorer.score(rows), len(rows))


def test_bad_rows_leave_their_neighbours_alone(scorer: Scorer) -> None:
    good = list(islice(cycle(GROUPS), len(BAD_ROWS)))
    mixed = [row for (bad, _), sound in zip(BAD_ROWS, good, strict=True) for row in (bad, sound)]
    table = check_scores(scorer.score(mixed), len(mixed))
    np.testing.assert_allclose(scores(table)[1::2], scores(scorer.score(good)), atol=TOLERANCE)
    codes = [str(text).partition(":")[0] for text in table["error"].to_pylist()[::2]]
    assert codes == [code for _, code in BAD_ROWS]


def test_an_empty_batch_has_an_empty_result(scorer: Scorer) -> None:
    assert scorer.score([]).num_rows == 0


def test_ids_come_back_with_their_rows(scorer: Scorer) -> None:
    rows = [{**record, "id": f"r{i}"} for i, record in enumerate(GROUPS)]
    assert scorer.score(rows)["id"].to_pylist() == [row["id"] for row in rows]


def test_a_table_scores_as_its_records_do(scorer: Scorer) -> None:
    table = pa.Table.from_pylist(GROUPS)
    assert scorer.score(table) == scorer.score(GROUPS)


def test_columns_that_no_record_has_are_ignored_and_named_once(
    tiny_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Scorer(tiny_dir, engine={"type": "stub"})
    wanted = scorer.score(GROUPS)
    table = pa.Table.from_pylist(GROUPS).append_column("extra", pa.nulls(len(GROUPS)))
    caplog.clear()
    for _ in range(2):
        assert scorer.score(table) == wanted
        assert scorer.score(table.combine_chunks().to_batches()[0]) == wanted
        assert scorer.score([{**record, "policy": 1} for record in GROUPS]) == wanted
    named = [f"ignoring extra column(s): {name}" for name in ("extra", "policy")]
    assert [entry.getMessage() for entry in caplog.records] == named


@pytest.mark.parametrize("key", ["model", None])
def test_a_scorer_is_made_of_a_model_and_settings(tiny_dir: Path, key: str | None) -> None:
    given: dict[str, Any] = {"engine": {"type": "stub"}, "max_tokens": 256}
    wanted = ScorerConfig(model=str(tiny_dir), **given)
    made = Scorer(str(tiny_dir), **given) if key is None else Scorer(model=str(tiny_dir), **given)
    assert made.config == wanted
    assert Scorer(wanted).score(GROUPS) == made.score(GROUPS)
    shown = f"<Scorer {made.info.name} ({made.info.digest[:12]}) stub {made.info.dtype}>"
    assert repr(made) == shown
    with pytest.raises(ConfigError, match=r"max_token='9': no such setting"):
        Scorer(tiny_dir, max_token="9")
    with pytest.raises(ConfigError, match="model=5"):
        Scorer(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens: put all settings into the ScorerConfig"):
        Scorer(wanted, max_tokens=5)


def test_a_result_says_what_made_it(scorer: Scorer, tiny_dir: Path) -> None:
    made = provenance(scorer.score(GROUPS[:1]))
    assert made["engine"] == "native"
    assert made["dtype"] == "float32"
    assert made["template_version"] == "polar-1"
    assert made["encoding"] == "max_length 2048, response 512, cut right, field 1048576 B"
    assert len(made["model_digest"]) == 64


@pytest.mark.parametrize(
    "changed",
    [{"max_length": 100}, {"max_response_length": 9}, {"cut_side": "left"}, {"max_field_bytes": 9}],
    ids=str,
)
def test_each_setting_of_the_encoding_is_part_of_the_provenance(
    tiny_dir: Path, scorer: Scorer, changed: dict[str, Any]
) -> None:
    given = {"model": str(tiny_dir), "encoding": changed, "engine.type": "stub"}
    other = Scorer(ScorerConfig.model_validate(given)).provenance
    assert other["encoding"] != scorer.provenance["encoding"]


def test_limits_that_mean_the_same_have_one_provenance(tiny_dir: Path, scorer: Scorer) -> None:
    said = EncodingConfig(max_length=2048, max_response_length=512)
    same = Scorer(ScorerConfig(model=str(tiny_dir), encoding=said))
    assert same.provenance == scorer.provenance


def test_truncation_is_reported_and_counted(tiny_dir: Path) -> None:
    encoding = EncodingConfig(max_length=64, max_response_length=16)
    small = Scorer(ScorerConfig(model=str(tiny_dir), encoding=encoding))
    long = {"prompt": "12 + 24 " * 30, "reference": "36", "output": "z" * 100}
    table = small.score([long, {"prompt": "a", "reference": "b", "output": "c"}])
    assert table["truncated"].to_pylist() == [True, False]
    assert table["num_tokens"].to_pylist()[0] <= 64


def test_a_field_that_is_too_large_is_an_error_of_its_row(tiny_dir: Path) -> None:
    strict = Scorer(ScorerConfig(model=str(tiny_dir), encoding=EncodingConfig(max_field_bytes=10)))
    table = strict.score([{"prompt": "p", "reference": "r", "output": "长城长城"}, GROUPS[-1]])
    assert table["error"][0].as_py().startswith("field_too_large: output has 12 bytes")
    assert table["score"].is_valid().to_pylist() == [False, True]


class _Failing:
    """Wraps an engine; fails on any pack that holds one of the poisoned ids."""

    def __init__(
        self, engine: NativeEngine, poison: int, error: Exception | None = None, late: bool = False
    ) -> None:
        self.engine, self.poison, self.calls, self.late = engine, poison, 0, late
        self.error = error or EngineError("out of luck")
        self.name, self.info = engine.name, engine.info

    def submit(self, pack: Pack) -> Pending:
        self.calls += 1
        if (pack.ids == self.poison).any():
            if self.late:
                return self
            raise self.error
        return self.engine.submit(pack)

    def result(self) -> Any:
        if isinstance(self.error, ValueError):
            return np.zeros(99, np.float32)
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize("place", range(0, len(GROUPS), 4))
def test_a_record_that_breaks_the_engine_spoils_only_itself(tiny_dir: Path, place: int) -> None:
    broken = Scorer(ScorerConfig(model=str(tiny_dir)))
    expected = scores(broken.score(GROUPS))
    poison = broken.encoder.tokenizer.encode("\x00")[0]
    broken.engine = _Failing(broken.engine, poison)  # type: ignore[assignment, arg-type]
    rows = [dict(record) for record in GROUPS]
    rows[place]["output"] += "\x00"
    table = check_scores(broken.score(rows), len(rows))
    assert table["error"].to_pylist()[place] == "engine_error: out of luck"
    others = [i for i in range(len(rows)) if i != place]
    np.testing.assert_allclose(scores(table)[others], expected[others], atol=TOLERANCE)


@pytest.mark.parametrize("late", [False, True], ids=["submit", "result"])
@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), IndexError(), MemoryError(), ValueError("shape")], ids=repr
)
def test_an_error_that_is_no_engine_error_spoils_only_its_record(
    tiny_dir: Path, error: Exception, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Scorer(ScorerConfig(model=str(tiny_dir)))
    expected = scores(broken.score(GROUPS))
    poison = broken.encoder.tokenizer.encode("\x00")[0]
    broken.engine = _Failing(broken.engine, poison, error, late)  # type: ignore[assignment, arg-type]
    rows = [dict(record) for record in GROUPS]
    rows[5]["output"] += "\x00"
    table = check_scores(broken.score(rows), len(rows))
    found = table["error"].to_pylist()
    assert found[5].startswith(f"engine_error: {type(error).__name__}: ")
    others = [i for i in range(len(rows)) if i != 5]
    assert [found[i] for i in others] == [None] * len(others)
    np.testing.assert_allclose(scores(table)[others], expected[others], atol=TOLERANCE)
    assert sum(line.exc_info is not None for line in caplog.records) == 1, "one traceback"


def test_a_row_carries_no_endless_message(tiny_dir: Path) -> None:
    scorer = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig()))
    for error in (EngineError("x" * 10_000), RuntimeError("x" * 10_000)):
        scorer.engine = _Failing(scorer.engine, scorer.info.reward_id, error)  # type: ignore[assignment, arg-type]
        assert len(scorer.score(GROUPS[:1])["error"][0].as_py()) < 600


def test_what_before_pack_raises_ends_the_work_whatever_flies(tiny_dir: Path) -> None:
    """Even where the pack in flight fails with a foreign error."""
    scorer = Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=64))
    error = RuntimeError("a bug")
    scorer.engine = _Failing(scorer.engine, scorer.info.reward_id, error, late=True)  # type: ignore[assignment, arg-type]
    calls: list[int] = []

    def before_pack() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("control flow")

    with pytest.raises(KeyError, match="control flow"):
        scorer.forward(scorer.encode(pa.Table.from_pylist(GROUPS)), before_pack)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_device_that_dies_is_no_error_of_any_row(tiny_dir: Path, at: int) -> None:
    mine = Scorer(ScorerConfig(model=str(tiny_dir), max_tokens=64))
    assert mine.score(GROUPS)["error"].null_count == len(GROUPS)
    dying = Dying(mine, at)
    for tried in (at + 1, at + 2):
        with pytest.raises(DeviceLost, match="device-side assert"):
            mine.score(GROUPS)
        assert dying.submitted == tried, "no pack is tried again in smaller ones"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_error(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def submit(pack: Pack) -> Pending:
        return Done(np.where(pack.records == 2, value, 1.0).astype(np.float32))

    monkeypatch.setattr(scorer.engine, "submit", submit)
    table = check_scores(scorer.score(GROUPS), len(GROUPS))
    assert table["score"].to_pylist() == [None if i == 2 else 1.0 for i in range(len(GROUPS))]
    assert table["error"][2].as_py().startswith("nonfinite_score: ")


def test_the_stub_engine_scores_from_the_ids_alone(tiny_dir: Path) -> None:
    stub = Scorer(ScorerConfig(model=str(tiny_dir), engine=StubEngineConfig(), max_tokens=64))
    found = scores(stub.score(GROUPS))
    encoded = stub.encode(pa.Table.from_pylist(GROUPS))
    digest = stub.info.digest
    assert found.tolist() == [np.float32(stub_score(record.ids, digest)) for record in encoded]
    assert len(set(found.tolist())) == len(GROUPS)


def test_a_missing_model_directory_is_named() -> None:
    with pytest.raises(ConfigError, match="no/such/model"):
        Scorer(ScorerConfig(model="no/such/model"))


def test_the_built_in_model_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Scorer().close()
        assert "built-in" in caplog.text
        caplog.clear()
        Scorer(engine={"type": "stub"}).close()
        Scorer(model_dir(None)).close()
    assert caplog.text == "", "a stub scores with no model; who names a model knows it"


@pytest.mark.parametrize("engine", ["native", "stub"])
def test_what_is_being_scored_when_the_scorer_is_closed_is_no_fault_of_its_records(
    tiny_dir: Path, engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Scorer(tiny_dir, engine={"type": engine}, max_tokens=64)
    submit, submitted = mine.engine.submit, []

    def closing(packed: Pack) -> Pending:
        """As if another thread closed it just before the second of several packs."""
        submitted.append(packed)
        if len(submitted) == 2:
            mine.close()
        return submit(packed)

    monkeypatch.setattr(mine.engine, "submit", closing)
    for tried in (2, 2):
        with pytest.raises(EngineClosed, match="let go of"):
            mine.score(GROUPS)
        assert len(submitted) == tried, "nothing is tried again in smaller packs"
    assert "unexpected" not in caplog.text


def test_a_closed_engine_fails_no_record(tiny_dir: Path) -> None:
    mine = Scorer(tiny_dir)
    mine.engine.close()  # as for another model in its place, without a word to who scores with it
    with pytest.raises(EngineClosed):
        mine.score(GROUPS)
