"""From files to tables, JSON and one self-contained page, by the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from sample_records import GROUPS
from typer.testing import CliRunner, Result

from polar_ray import client
from polar_ray.cli import cli
from polar_ray.evaluate import read
from polar_ray.evaluate.estimate import Estimate
from polar_ray.evaluate.figures import to_svg
from polar_ray.evaluate.html import to_html
from polar_ray.evaluate.report import Bars, Histogram, Lines, Report, Scatter, Table
from polar_ray.scorer import Scorer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    messages = [{"role": "user", "content": "Add 12 and 24."}]
    rows = [
        {"prompt": messages, "reference": "36", "chosen": "36", "rejected": "no", "category": "a"},
        {"prompt": messages, "reference": "36", "chosen": "36", "rejected": "12", "category": "b"},
        {"prompt": messages, "reference": "36", "chosen": "3", "rejected": "36", "category": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.parquet"
    table = pa.table(
        {
            "group": ["x", "x", "x", "y", "y"],
            "score": [3.0, 1.0, None, 2.0, 5.0],
            "correct": [True, False, True, True, False],
        }
    )
    pq.write_table(table, path)
    return path


def test_preference_files_are_scored_on_the_way(
    pairs: Path, tiny_dir: Path, scorer: Scorer
) -> None:
    done = run("preferences", pairs, "--model", tiny_dir)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    sides = []
    for side in ("chosen", "rejected"):
        records = [{k: r[k] for k in ("prompt", "reference")} | {"output": r[side]} for r in rows]
        sides.append(np.array(scorer.score(records)["score"].to_pylist()))
    assert said["figures"]["accuracy"]["value"] == pytest.approx((sides[0] > sides[1]).mean())
    assert said["figures"]["by_category"]["b"]["count"] == 2
    assert said["facts"]["model_digest"] == scorer.provenance["model_digest"]


def test_columns_have_any_names_and_any_format(pairs: Path, tiny_dir: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    flat = [
        {"q": r["prompt"][0]["content"], "ref": r["reference"], "yes": r["chosen"],
         "no": r["rejected"], "category": r["category"]}
        for r in rows
    ]  # fmt: skip
    names = ["prompt=q", "reference=ref", "chosen=yes", "rejected=no"]
    wanted = json.loads(run("preferences", pairs, "--model", tiny_dir).stdout)["figures"]
    pcsv.write_csv(pa.Table.from_pylist(flat), tmp_path / "in.csv")
    (tmp_path / "in.json").write_text(json.dumps(flat))
    for path in (tmp_path / "in.csv", tmp_path / "in.json"):
        done = run("preferences", path, *names, "--model", tiny_dir)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["figures"] == wanted
    nested = tmp_path / "nested.parquet"
    pq.write_table(pa.table({"a": flat, "score": ["1.5", "2", None], "yes": ["true"] * 3}), nested)
    done = run("groups", nested, "prompt=a.q", "reference=a.ref", "--label", "yes")
    assert json.loads(done.stdout)["figures"]["unscored"] == 1
    done = run("groups", nested, "prompt=a.q", "reference=a.ref", "--score", "a.category")
    assert "column 'a.category', row 0 (counted from 0): 'a'; a score is" in done.stderr


def test_a_running_pool_scores_what_has_no_scores(
    pairs: Path, tiny_dir: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    class Pool:
        score_table = staticmethod(scorer.score)

        def tell_waiting(self, tell: object) -> None:
            pass

    def connect(**options: object) -> Pool:
        given.update(options)
        return Pool()

    monkeypatch.setattr(client, "connect", connect)
    wanted = json.loads(run("preferences", pairs, "--model", tiny_dir).stdout)
    said = json.loads(run("preferences", pairs, "--address", "http://pool").stdout)
    assert said["figures"] == wanted["figures"]
    assert said["facts"]["model_digest"] == scorer.provenance["model_digest"]
    assert (given["address"], given["priority"]) == ("http://pool", "eval")
    mixed = run("preferences", pairs, "--address", "http://pool", "--model", tiny_dir)
    assert "drop --model" in mixed.stderr


def test_preference_files_with_scores_need_no_model(tmp_path: Path) -> None:
    path = tmp_path / "scored.parquet"
    pq.write_table(pa.table({"chosen_score": [1.0, 2.0], "rejected_score": [0.0, None]}), path)
    figures = json.loads(run("preferences", path).stdout)["figures"]
    assert figures["accuracy"]["value"] == 1.0
    assert figures["unscored"] == 1
    assert figures["prefers_longer"] is None


def test_groups_with_labels_without_and_without_scores(
    labelled: Path, tmp_path: Path, tiny_dir: Path
) -> None:
    figures = json.loads(run("groups", labelled, "--group", "group").stdout)["figures"]
    assert figures["pairwise"]["value"] == 0.5
    assert figures["unscored"] == 1
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(labelled).drop_columns("correct"), plain)
    spread = run("groups", plain, "--group", "group")
    assert json.loads(spread.stdout)["figures"]["mean standard deviation within groups"] == 1.25
    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.Table.from_pylist(GROUPS).append_column("correct", [[1] * 12]), bare)
    done = run("groups", bare, "--model", tiny_dir, "engine.type=stub")
    assert json.loads(done.stdout)["figures"]["groups"] == 4


def test_agreement_matches_rows_by_order_or_by_key(labelled: Path, tmp_path: Path) -> None:
    table = pq.read_table(labelled).append_column("id", [["a", "b", "c", "d", "e"]])
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    pq.write_table(table, one)
    backwards = table.take([4, 3, 2, 1, 0])
    pq.write_table(backwards.rename_columns(["group", "s", "c", "id"]), other)
    keyed = json.loads(
        run("agreement", one, other, "--key", "id", "--other-score", "s", "--group", "group").stdout
    )
    assert keyed["figures"]["pearson"] == pytest.approx(1.0)
    assert keyed["figures"]["top1"]["value"] == 1.0
    refused = run("agreement", one, other, "--other-score", "s")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "the 'id' of row 0 (counted from 0) is not the same on both sides" in refused.stderr
    pq.write_table(table.drop_columns("id"), one)
    by_order = json.loads(run("agreement", one, other, "--other-score", "s").stdout)
    assert by_order["figures"]["pearson"] == pytest.approx(3 / 7)
    assert by_order["figures"]["top1"] is None
    unnamed = run("agreement", one, other)
    assert f"{other}: no column 'score'" in unnamed.stderr


def test_agreement_says_what_made_either_side(tmp_path: Path, scorer: Scorer) -> None:
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    table = scorer.score(GROUPS)
    pq.write_table(table, one)
    metadata = {**table.schema.metadata, b"polar_ray.dtype": b"fp8"}
    pq.write_table(table.replace_schema_metadata(metadata), other)
    facts = json.loads(run("agreement", one, other).stdout)["facts"]
    assert (facts["one"], facts["other"]) == ("one.parquet: score", "other.parquet: score")
    assert facts["one model_digest"] == facts["other model_digest"] == scorer.info.digest
    assert (facts["one dtype"], facts["other dtype"]) == ("float32", "fp8")


def test_a_person_sees_what_was_evaluated(
    labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    cli(["eval", "groups", str(labelled), "--group", "group"], standalone_mode=False)
    assert labelled.name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["groups", "absent.parquet"], "no file"),
        (["groups", "{labelled}"], "name the column of groups with --group"),
        (["groups", "{labelled}", "--group", "group", "--label", "score"], "in every row"),
        (
            ["groups", "{labelled}", "--group", "group", "--score", "correct"],
            "row 0 (counted from 0): True; a",
        ),
        (["preferences", "{labelled}"], "no scores, and to make them: which column is the prompt?"),
        (["agreement", "{labelled}", "{labelled}", "--key", "group"], "each once"),
        (["agreement", "{labelled}", "{labelled}", "--key", "id"], "no column 'id'"),
        (["preferences", "{labelled}", "output=group"], "preferences have chosen= and rejected="),
        (["groups", "{labelled}", "chosen=group"], "chosen='group': no such setting"),
        (["groups", "{labelled}", "--group", "x"], "no column 'x'; there are group, score"),
        (["groups", "{labelled}", "--group", "group", "--label", "x"], "no column 'x'; there are"),
        (["groups", "{labelled}", "--group", "group", "--score", "x"], "no column 'x'; there are"),
        (["groups", "{labelled}", "--group", "group", "output=x"], "no column 'x'; there are"),
        (["preferences", "{labelled}", "--chosen", "x"], "no column 'x'; there are"),
        (["preferences", "{labelled}", "--rejected", "x"], "no column 'x'; there are"),
        (["preferences", "{labelled}", "--chosen", "score"], "no column 'rejected_score'"),
        (["preferences", "{labelled}", "--category", "x"], "no column 'x'; there are"),
        (["preferences", "{labelled}", "chosen=x"], "no column 'x'; there are"),
        (["agreement", "{labelled}", "{labelled}", "--score", "x"], "no column 'x'; there are"),
        (
            ["agreement", "{labelled}", "{labelled}", "--group", "group", "prompt=x"],
            "no column 'x'; there are",
        ),
        (["groups", "{labelled}", "--format", "xml"], "format 'xml' is not known"),
        (
            ["groups", "{labelled}", "--group", "group", "--model", "m"],
            "score holds scores, so that nothing is to be scored: drop model",
        ),
        (
            ["groups", "{labelled}", "--group", "group", "--address", "http://x", "--timeout-s", 5],
            "drop --address, --timeout-s",
        ),
        (["groups", "{labelled}", "--timeout-s", "5"], "--timeout-s: for a pool; give its --addr"),
        (["agreement", "{labelled}", "{labelled}", "model=m"], "model='m': no such setting"),
    ],
)
def test_mistakes_are_one_line(labelled: Path, arguments: list[str], message: str) -> None:
    done = run(*[str(argument).format(labelled=labelled) for argument in arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_groups_are_named_by_several_columns_and_messages(tmp_path: Path) -> None:
    table = pa.table(
        {"p": [[{"content": "a"}], [{"content": "a"}], None], "r": ["x", "y", "y"]},
    )
    assert len(set(read.names(table, ["p", "r"]))) == 3
    assert read.names(table, ["p"])[0] == read.names(table, ["p"])[1]
    np.testing.assert_array_equal(read.lengths(read.outputs(table, "p")), [1, 1, np.nan])


def test_a_page_needs_nothing_else_and_escapes_what_it_shows(labelled: Path) -> None:
    page = labelled.with_suffix(".html")
    done = run("groups", labelled, "--group", "group", "--html", page, "--title", "<b>&")
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "<title>&lt;b&gt;&amp;</title>" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    assert "<script" not in text
    assert len(re.findall(r"<svg ", text)) == 2


@pytest.mark.parametrize(
    "plot",
    [
        Histogram("h", "x", {"a": np.array([1.0, 2.0]), "b": np.array([])}),
        Histogram("one value", "x", {"a": np.array([1.0])}),
        Histogram("nothing", "x", {"a": np.array([])}),
        Bars("b", "x", {"a": Estimate(0.5, 0.4, 0.6, 9), "b": Estimate(np.nan, 0, 0, 0)}),
        Lines("l", "x", "y", [1, 2, 4], {"a": [0.1, 0.2, 0.3]}),
        Scatter("s", "x", "y", np.arange(20000.0), np.arange(20000.0)),
    ],
    ids=lambda plot: plot.title,
)
def test_plots_are_svg_in_the_pages_colours(plot: object) -> None:
    svg = to_svg(plot)  # type: ignore[arg-type]
    ElementTree.fromstring(svg)
    assert "var(--ink)" in svg
    assert len(svg) < 2_000_000
    assert svg == to_svg(plot)  # type: ignore[arg-type]


def test_figures_that_do_not_exist_are_null() -> None:
    report = Report("t", {}, {"a": np.nan, "b": [np.inf, 1.0]}, [Table("t", ("a",), [("b",)])])
    assert report.to_json()["figures"] == {"a": None, "b": [None, 1.0]}
    assert "<td>b</td>" in to_html("t", [report])


def test_a_page_of_one_report_says_its_title_once() -> None:
    report = Report("Agreement", {}, {}, [], [])
    assert to_html("Agreement", [report]).count(">Agreement<") == 2, "in the head and above"
    assert "<h2>Agreement</h2>" in to_html("Two models", [report])


def test_a_legend_stands_where_there_is_something_to_tell_apart() -> None:
    one = to_svg(Histogram("t", "score", {"rows": np.arange(5.0)}))
    assert "legend" not in one
    assert ">rows<" in one, "the axis says what is counted"
    both = to_svg(Histogram("t", "score", {"right": np.arange(5.0), "wrong": np.arange(3.0)}))
    assert "legend" in both
    assert all(text in both for text in (">right<", ">wrong<", ">count<"))
