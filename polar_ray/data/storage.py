"""Where files are: local paths, globs, folders and URIs, and how a file appears there whole."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from polar_ray.errors import ConfigError

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
}
"""Formats by ending. `.json` holds one array of objects, or lines as jsonl does."""

LINES = ("jsonl", "csv", "json")
NOTES = ("csv", "json")
"""Formats of which a folder often has a file beside its data, such as dataset_info.json: they are
read where their ending is said, or where nothing else is there."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings that may stand behind those of `LINES`, by Arrow's names for them. The other formats
compress within."""

UNREAD = (*COMPRESSIONS, ".xz", ".lzma", ".lz4", ".br", ".sz", ".snappy", ".zip", ".7z", ".z")
"""Endings that tell, behind one of `FORMATS`, of data that is not read as it is."""

ENDINGS = ", ".join(FORMATS) + f" (.jsonl, .csv and .json also with {', '.join(COMPRESSIONS)})"
WILD = re.compile(r"[*?]")
PARTIAL = ".partial"
MOST_BYTES = 1 << 28
"""Of what is read at once: some 300 for each part of a job."""

NOT_UTF8 = (
    "a name that is not UTF-8 can neither be opened nor be named in what is written; rename it"
)


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read, by its path within its filesystem."""

    path: str
    size_bytes: int
    modified: str
    """When, as the filesystem tells it; a change of it is a change of the input."""

    given_format: str | None = None
    """Where somebody said it; else the ending does."""

    @property
    def version(self) -> tuple[int, str]:
        """What changes when the file does."""
        return self.size_bytes, self.modified

    @property
    def format(self) -> str:
        """One of the values of `FORMATS`."""
        return self.given_format or FORMATS[_ending(self.path) or _unread(self.path)]


@dataclass(frozen=True, slots=True)
class Place:
    """A path on a filesystem. Made again in each process from its URI, so only that travels."""

    filesystem: Any
    path: str

    def within(self, name: str) -> str:
        """The path of a file in this folder."""
        return f"{self.path.rstrip('/')}/{name}"


def place(uri: str) -> Place:
    """A local path or a URI. S3, GCS, HDFS and file by Arrow itself, other schemes by fsspec."""
    if not is_utf8(uri):
        raise ConfigError(f"{uri!r}: {NOT_UTF8}")
    scheme, sign, _ = uri.partition("://")
    if not sign:
        return Place(pafs.LocalFileSystem(), str(Path(uri).absolute()))
    try:
        # A wildcard is no part of a URI; it is put back behind what Arrow makes of the rest.
        bare = WILD.split(uri)[0]
        filesystem, path = pafs.FileSystem.from_uri(bare)
        if not bare.endswith("/"):
            path = path.rstrip("/")
        elif not path.endswith("/"):
            path += "/"
        return Place(filesystem, path + uri[len(bare) :])
    except (pa.ArrowException, OSError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise ConfigError(f"{uri!r}: {error}") from None
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise ConfigError(f"{scheme}:// needs a package of its own: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{uri!r}: {error}") from None
    return Place(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path)


def make_folder(uri: str) -> Place:
    """A folder to write to; made, if it is not there. Raises `ConfigError` where that fails."""
    where = place(uri)
    try:
        where.filesystem.create_dir(where.path, recursive=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigError(f"{uri!r} cannot be written to: {reason}") from None
    if isinstance(where.filesystem, pafs.LocalFileSystem) and not os.access(where.path, os.W_OK):
        raise ConfigError(f"{uri!r} cannot be written to: it is read-only here")
    return where


def list_files(uri: str, given_format: str | None = None) -> list[InputFile]:
    """The files of a path, a glob (`**` crosses folders) or a folder, by name.

    In folders, names that begin with `_` or `.` and endings of other formats are left out; there
    and for globs that do not say their ending, so are `NOTES`. What is there by its name is no
    glob. Raises `ConfigError` where nothing is left, or a file of a format that is read is packed
    as it must not be.
    """
    where = place(uri)
    path = where.path.lower()
    said = given_format is not None or any(sign in path for sign in (".csv", ".tsv", ".json"))
    if _is_pattern(where):
        pattern = re.compile(_translate(where.path))
        inside = _walk(where.filesystem, _base(where.path))
        found = [i for i in inside if pattern.fullmatch(i.path)]
    else:
        info = where.filesystem.get_file_info(where.path)
        if info.type == pafs.FileType.Directory:
            said = False
            found = [
                i for i in _walk(where.filesystem, where.path) if not _hidden(i.path, where.path)
            ]
        else:
            if info.type == pafs.FileType.Unknown:
                raise ConfigError(
                    f"{uri!r} is a pipe, which can be read once only; write it to a file first"
                )
            if info.type == pafs.FileType.NotFound:
                raise ConfigError(f"no file or folder {uri!r}")
            found = [info]
            if given_format is None and _ending(where.path) not in FORMATS:
                raise ConfigError(f"{uri!r} ends in none of {ENDINGS}")
    files = [
        InputFile(info.path, info.size, str(info.mtime_ns or ""), given_format)
        for info in sorted(found, key=lambda info: info.path)
        if given_format is not None or (_ending(info.path) or _unread(info.path)) in FORMATS
    ]
    if not said and (data := [file for file in files if file.format not in NOTES]):
        files = data
    if given_format is None and (odd := [file.path for file in files if _unread(file.path)]):
        raise ConfigError(
            f"{odd[0]!r} is packed in a way that is not read; unpack it, or move it elsewhere "
            f"(endings that are read: {ENDINGS})"
        )
    if not files:
        raise ConfigError(f"no file {uri!r} that ends in one of {ENDINGS}")
    return files


def compression(path: str) -> str | None:
    """Arrow's name for how a file is compressed, by its ending; None for one that is not."""
    return COMPRESSIONS.get(Path(path).suffix.lower())


def is_read_from_start(path: str) -> bool:
    """Whether the rows of a file are only found by reading all that stand before them."""
    return compression(path) is not None or FORMATS.get(_ending(path)) in ("csv", "json")


def _ending(path: str) -> str:
    """The ending that tells the format, or another's; none where a format is compressed that may
    not be."""
    if _unread(path):
        return ""
    last, inner = _suffixes(path)
    return last if compression(path) is None else inner if FORMATS.get(inner) in LINES else ""


def _unread(path: str) -> str:
    """The ending that would tell the format of a file that is packed as it must not be; else
    none."""
    last, inner = _suffixes(path)
    read = last in COMPRESSIONS and FORMATS.get(inner) in LINES
    return inner if last in UNREAD and inner in FORMATS and not read else ""


def _suffixes(path: str) -> tuple[str, str]:
    """The last ending and the one before it, in small letters."""
    name = Path(path.lower())
    return name.suffix, name.with_suffix("").suffix


def _is_pattern(where: Place) -> bool:
    """Whether a path is a glob: it has its signs, and there is nothing of that name."""
    return WILD.search(where.path) is not None and (
        where.filesystem.get_file_info(where.path).type == pafs.FileType.NotFound
    )


def within_each_other(source: str, out: str) -> bool:
    """Whether what is written to the folder `out` is read as `source`, wherever links lead."""
    one, other = place(source), place(out)
    if one.filesystem.type_name != other.filesystem.type_name:
        return False
    wild = _is_pattern(one)
    pattern = re.compile(_translate(one.path) if wild else f"{re.escape(one.path.rstrip('/'))}/.*")
    parts = [other.within("part-000000.parquet")]
    if isinstance(one.filesystem, pafs.LocalFileSystem):
        # Under each name that the folder has among those that are looked into.
        real = os.path.realpath(other.path)
        for folder, _ in _folders(_base(one.path) if wild else one.path):
            if f"{real}/".startswith(f"{os.path.realpath(folder).rstrip('/')}/"):
                inner = os.path.relpath(f"{real}/part-000000.parquet", os.path.realpath(folder))
                parts.append(f"{folder.rstrip('/')}/{inner}")
    return any(pattern.fullmatch(part) for part in parts)


def _base(pattern: str) -> str:
    """The folder of a glob below which all that it can mean is."""
    return WILD.split(pattern)[0].rpartition("/")[0] or "/"


def _walk(filesystem: Any, base: str) -> list[Any]:
    if isinstance(filesystem, pafs.LocalFileSystem):
        infos = filesystem.get_file_info(list(_local(base)))
        return [i for i in infos if i.type == pafs.FileType.File]
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    return [i for i in filesystem.get_file_info(selector) if i.type == pafs.FileType.File]


def _local(base: str) -> Iterator[str]:
    """Files below a local folder."""
    for folder, names in _folders(base):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            if is_utf8(path):
                yield path
            elif _ending(path) in FORMATS:
                raise ConfigError(f"{path!r}: {NOT_UTF8}")


def _folders(base: str) -> Iterator[tuple[str, list[str]]]:
    """A local folder and those below it, with the names of their files. Each is looked into once,
    wherever links lead."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ConfigError(f"{error.filename!r} cannot be listed: {error.strerror}")

    seen = {os.path.realpath(base)}
    for folder, inner, names in os.walk(base, followlinks=True, onerror=fail):
        inner.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        kept = []
        for name in inner:
            if (real := os.path.realpath(os.path.join(folder, name))) not in seen:
                seen.add(real)
                kept.append(name)
        inner[:] = kept
        yield folder, names


def is_utf8(text: str) -> bool:
    """Whether a name, or what was decoded with `surrogateescape`, was UTF-8: Python has a place for
    other bytes, and Arrow has none."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _hidden(path: str, base: str) -> bool:
    inner = path.removeprefix(base).split("/")
    return any(part[0] in "_." for part in inner if part)


def _translate(pattern: str) -> str:
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(kinds.get(piece, re.escape(piece)) for piece in pieces)


def write_whole(where: Place, name: str, data: bytes | pa.Buffer, *, replace: bool = True) -> bool:
    """A file that appears complete or not at all, in place of one of that name; with
    `replace=False`, one that is there stays. Whether it was written.

    Local files are written beside, synced and renamed; object stores show an object when its
    upload ends, and what appears there during it is replaced.
    """
    path = where.within(name)
    if not replace and where.filesystem.get_file_info(path).type == pafs.FileType.File:
        return False
    if not isinstance(where.filesystem, pafs.LocalFileSystem):
        with where.filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return True
    # Drivers on several hosts may write to one folder, and have the same process ids.
    beside = f"{where.path.rstrip('/')}/.{name}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not replace:
            if _linked(beside, path):
                return True
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # empty until it is replaced
        os.replace(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        # The system does not say of a full disk what was to be written, nor whose name is `beside`.
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        Path(beside).unlink(missing_ok=True)
    return True


def _linked(beside: str, path: str) -> bool:
    """Gives a file a second name, as a rename does not, only where that is free; False on a
    filesystem that has one name for a file."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def read_whole(where: Place, name: str) -> bytes | None:
    """A small file's bytes; None where there is none. Raises `ConfigError` for one that is not
    small."""
    path = where.within(name)
    info = where.filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        return None
    if info.size > MOST_BYTES:
        raise ConfigError(f"{path} has {info.size:,} bytes, which no job writes; take it away")
    try:
        with where.filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except FileNotFoundError:  # it has just gone
        return None


def names_in(where: Place) -> dict[str, int]:
    """Names and sizes of the files that a folder holds."""
    selector = pafs.FileSelector(where.path, allow_not_found=True)
    infos = where.filesystem.get_file_info(selector)
    return {i.base_name: i.size for i in infos if i.type == pafs.FileType.File}


def files_below(where: Place) -> list[str]:
    """The files in a folder and in those below it that who reads the folder would read, by their
    paths within it: names that begin with `_` or `.` are left out."""
    base = where.path.rstrip("/") + "/"
    paths = [info.path for info in _walk(where.filesystem, where.path)]
    return sorted(path.removeprefix(base) for path in paths if not _hidden(path, where.path))


def remove(where: Place, name: str) -> None:
    """Takes a file away, unless somebody else has."""
    with suppress(FileNotFoundError):
        where.filesystem.delete_file(where.within(name))


def remove_partial(where: Place, of: Callable[[str], bool]) -> None:
    """Takes away what killed writers left of files with such names."""
    for name in names_in(where):
        if name.startswith(".") and name.endswith(PARTIAL) and of(name[1:].rsplit(".", 2)[0]):
            remove(where, name)
