"""Paths, globs, folders and URIs; files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from polar_ray.data import storage as places
from polar_ray.data.storage import list_files, names_in, place, read_whole, write_whole
from polar_ray.errors import ConfigError

READ = [
    "a.parquet",
    "b.jsonl",
    "f.jsonl.gz",
    "sub/c.parquet",
    "sub/deep/d.arrow",
    "sub/g.jsonl.zst",
]
NOTES = ["e.csv", "e.csv.gz", "dataset_info.json"]
NAMES = [*READ, *NOTES, "_notes.jsonl", "sub/.x.jsonl", "e.gz", "e.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "in"


def found(uri: object) -> list[str]:
    return [Path(file.path).name for file in list_files(str(uri))]


def test_paths_globs_and_folders(folder: Path) -> None:
    assert found(folder) == [name.rpartition("/")[2] for name in READ]
    assert found(folder / "a.parquet") == ["a.parquet"]
    assert found(folder / "*.parquet") == ["a.parquet"]
    assert found(folder / "**/*.parquet") == ["a.parquet", "c.parquet"]
    assert found(folder / "su?/*") == [".x.jsonl", "c.parquet", "g.jsonl.zst"]
    assert found(folder / "*.gz") == ["f.jsonl.gz"]
    assert found(folder / "*.csv") == ["e.csv"]
    assert found(folder / "?.*") == ["a.parquet", "b.jsonl", "f.jsonl.gz"]
    assert found(folder.as_uri()) == found(folder)
    assert found(folder.as_uri() + "/*.parquet") == ["a.parquet"]


def test_tables_and_lists_are_read_where_a_folder_holds_nothing_else(tmp_path: Path) -> None:
    for name in ("a.csv", "b.json", "_notes.json"):
        (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path) == ["a.csv", "b.json"]


def test_endings_may_be_in_capitals(tmp_path: Path) -> None:
    for name in ("A.JSONL", "b.Jsonl.GZ", "C.CSV"):
        (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path) == ["A.JSONL", "b.Jsonl.GZ"]
    assert found(tmp_path / "C.CSV") == ["C.CSV"]
    assert found(tmp_path / "*.CSV") == ["C.CSV"]
    assert [file.format for file in list_files(str(tmp_path))] == ["jsonl", "jsonl"]
    assert places.compression("b.jsonl.GZ") == "gzip"


@pytest.mark.parametrize("name", ["b.jsonl.xz", "b.parquet.gz", "b.JSONL.ZIP", "b.csv.lz4"])
def test_what_is_packed_otherwise_is_named_and_not_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"{name}' is packed in a way .*; unpack it"):
        list_files(str(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(b"x")
    if "csv" in name:  # as other tables beside data are
        assert found(tmp_path) == ["a.jsonl"]
    else:
        with pytest.raises(ConfigError, match=f"{name}' is packed"):
            list_files(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"{name}' (is packed|ends in none)"):
        list_files(str(tmp_path / name))


def test_a_name_that_is_there_is_no_glob(tmp_path: Path) -> None:
    for name in ("b*.jsonl", "b1.jsonl", "in?/c.jsonl", "inx/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path / "b*.jsonl") == ["b*.jsonl"]
    assert found(tmp_path / "in?") == ["c.jsonl"]
    assert found(tmp_path / "?1.jsonl") == ["b1.jsonl"]
    assert places.within_each_other(str(tmp_path / "in?"), str(tmp_path / "in?" / "out"))
    assert not places.within_each_other(str(tmp_path / "in?"), str(tmp_path / "inx" / "out"))


def test_a_folder_is_looked_into_once_wherever_links_lead(folder: Path) -> None:
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "self").symlink_to(folder / "sub")
    (folder / "again").symlink_to(folder / "sub" / "deep")
    (folder / "lost.parquet").symlink_to(folder / "lost.parquet")
    (folder / "h.parquet").symlink_to(folder / "a.parquet")  # as a hub's cache has its files
    assert sorted(found(folder)) == sorted([*(Path(name).name for name in READ), "h.parquet"])
    assert found(folder / "**/c.parquet") == ["c.parquet"]


def test_a_pipe_is_no_file_to_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(ConfigError, match=r"in\.jsonl' is a pipe, which .* to a file first"):
        list_files(str(tmp_path / "in.jsonl"))


def test_a_format_that_is_said_needs_no_ending(folder: Path) -> None:
    [file] = list_files(str(folder / "e.txt"), "csv")
    assert file.format == "csv"


def test_relative_paths_are_this_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert found("sub/*.parquet") == ["c.parquet"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("absent", "no file or folder 'absent'"),
        ("{folder}/*.md", "no file"),
        ("{folder}/e.txt", "ends in none of .parquet"),
        ("{folder}/e.gz", r"ends in none of .*\.jsonl, .* also with \.gz"),
        ("nonsense://x", "nonsense"),
    ],
)
def test_mistakes_are_named(folder: Path, uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_files(uri.format(folder=folder))


def test_stores_of_fsspec_are_places() -> None:
    where = place("memory://bucket/folder")
    where.filesystem.create_dir(where.path)
    write_whole(where, "a.parquet", b"data")
    assert read_whole(where, "a.parquet") == b"data"
    assert read_whole(where, "b.parquet") is None
    assert found("memory://bucket/folder") == ["a.parquet"]
    assert found("memory://bucket/*/a.parquet") == ["a.parquet"]


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(str(tmp_path))
    write_whole(where, "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(where, "f", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old"}


def test_what_killed_writers_left_is_taken_away(tmp_path: Path) -> None:
    kept = ["part-0.parquet", ".other", ".mine.12.partial"]
    for name in [".part-0.parquet.12-3.partial", *kept]:
        (tmp_path / name).write_bytes(b"")
    places.remove_partial(place(str(tmp_path)), lambda name: name == "part-0.parquet")
    assert set(names_in(place(str(tmp_path)))) == set(kept)


@pytest.mark.parametrize(
    ("source", "out", "within"),
    [
        ("/d", "/d", True),
        ("/d", "/d/scored", True),
        ("/d/a.parquet", "/d", False),
        ("/d/*.parquet", "/d", True),
        ("/d/**", "/d/scored", True),
        ("/d/*.jsonl", "/d", False),
        ("/d", "/dd", False),
        ("/d", "memory://d", False),
    ],
)
def test_output_is_never_input(source: str, out: str, within: bool) -> None:
    assert places.within_each_other(source, out) is within


def test_local_is_arrows_own() -> None:
    assert isinstance(place("x").filesystem, pafs.LocalFileSystem)
