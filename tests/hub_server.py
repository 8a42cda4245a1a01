"""A model hub on this machine: the few endpoints that huggingface_hub uses to fetch a model.

Started and asked by tests; what it should do wrong is set on the object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name, each a commit per revision and a folder per commit."""

    url: str = ""
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "let me in"
    """What opens gated repositories."""

    cut_after: int | None = None
    """Bytes after which an answer with a file breaks off."""

    asked: list[str] = field(default_factory=list)
    """"METHOD path" of each request."""

    def add(self, repo: str, folder: Path, revision: str = "main") -> str:
        """Puts a folder there as a new commit of a revision; the commit."""
        commit = hashlib.sha1(f"{repo} {folder} {len(self.folders)}".encode()).hexdigest()
        self.refs.setdefault(repo, {})[revision] = commit
        self.folders[commit] = folder
        return commit

    def fetched(self) -> list[str]:
        """Names of the files that were sent, in order."""
        gets = [path for path in self.asked if path.startswith("GET ") and "/resolve/" in path]
        return [path.rpartition("/resolve/")[2].partition("/")[2] for path in gets]


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            try:
                if path.startswith("/api/models/"):
                    self._about(path.removeprefix("/api/models/"))
                else:
                    repo, _, rest = path.removeprefix("/").partition("/resolve/")
                    revision, _, name = rest.partition("/")
                    self._file(repo, revision, name)
            except _Refused as refused:
                self._send(refused.status, b"{}", {"X-Error-Code": refused.code})

        def _about(self, path: str) -> None:
            owner, name, *rest = path.split("/")
            repo = f"{owner}/{name}"
            what, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
            commit = self._commit(repo, revision)
            files = sorted(p for p in hub.folders[commit].rglob("*") if p.is_file())
            names = [str(p.relative_to(hub.folders[commit])) for p in files]
            if what == "tree":
                body: Any = [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": _etag(p)}
                    for n, p in zip(names, files, strict=True)
                ]
            else:
                body = {"id": repo, "sha": commit, "siblings": [{"rfilename": n} for n in names]}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _commit(self, repo: str, revision: str) -> str:
            if repo not in hub.refs:
                raise _Refused(404 if self._known() else 401, "RepoNotFound")
            commit = hub.refs[repo].get(revision, revision)
            if commit not in hub.folders:
                raise _Refused(404, "RevisionNotFound")
            return commit

        def _known(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def _file(self, repo: str, revision: str, name: str) -> None:
            commit = self._commit(repo, revision)
            if repo in hub.gated and not self._known():
                raise _Refused(401, "GatedRepo")
            path = hub.folders[commit] / name
            if not path.is_file():
                raise _Refused(404, "EntryNotFound")
            body = path.read_bytes()
            headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit}
            start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
            status = 206 if int(start) else 200
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._send(status, body[int(start) :], headers, cut=hub.cut_after)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
                self.close_connection = cut is not None

    return Handler


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
