"""The `curl` commands of the docs, at the pool's own routes: each is answered."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from scorer_as_router import ScorerAsRouter
from test_docs import DOCS, ROOT, blocks

from polar_ray.pool.http.routes import build_http
from polar_ray.scorer import Scorer

OPTIONS = {"-H": 1, "-d": 1, "--silent": 0, "--fail": 0, "--max-time": 1}
"""Those that every curl knows, and how many words follow. --json came in 2022."""

ASSIGNMENT_OR_CURL = re.compile(r"^\w+='.*|\bcurl .*?(?=;|$)", re.MULTILINE)

TELL = "import json, sys; print(json.dumps(sys.argv[1:]))"
SHELL = f'curl() {{ {shlex.quote(sys.executable)} -c {shlex.quote(TELL)} "$@"; }}\n'


@dataclass
class Request:
    path: str = ""
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def curls(doc: Path) -> list[list[str]]:
    """The words of each `curl` in a doc, as bash makes them."""
    text = "\n".join(blocks(doc, "bash")).replace("\\\n", " ")
    script = SHELL + "\n".join(ASSIGNMENT_OR_CURL.findall(text.replace(" && ", ";")))
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in said.stdout.splitlines()]


def request_of(words: list[str]) -> Request:
    made, rest = Request(), iter(words)
    for word in rest:
        if not word.startswith("-"):
            made.path = urlsplit(word).path
            continue
        values = [next(rest) for _ in range(OPTIONS[word])]
        if word == "-d":
            [made.body] = values
        elif word == "-H":
            name, _, value = values[0].partition(": ")
            made.headers[name] = value
    return made


@pytest.mark.parametrize(
    "doc",
    [doc for doc in DOCS if any("curl " in block for block in blocks(doc, "bash"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_curls_of_a_doc_are_answered(doc: Path, scorer: Scorer) -> None:
    http = TestClient(build_http(lambda: ScorerAsRouter(scorer)))
    found = curls(doc)
    assert found
    for words in found:
        asked = request_of(words)
        method = "GET" if asked.body is None else "POST"
        answer = http.request(method, asked.path, content=asked.body, headers=asked.headers)
        assert answer.status_code == 200, (words, answer.text)
