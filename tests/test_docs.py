"""What the docs name exists: files, links, commands with their options, settings, imports."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from polar_ray.cli import cli
from polar_ray.cli.settings import CONFIGS, rows
from polar_ray.config import PoolConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "polar_ray"
MAP = PACKAGE / "README.md"
FOLDERS = ("polar_ray", "tests", "benchmarks", "cluster", "examples")
DOCS = [ROOT / "README.md", *(path for top in FOLDERS for path in (ROOT / top).rglob("*.md"))]

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|md|html))`")
NAMED_SUITE = re.compile(r"`(test_\w+)`")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
SETTINGS = {setting.name.split("=")[0] for config in CONFIGS.values() for setting in rows(config)}

every_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(doc: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(doc.read_text("utf-8")) if kind == language]


def commands(doc: Path) -> Iterator[list[str]]:
    """The words of each `polar-ray` command in a doc's shell blocks."""
    for block in blocks(doc, "bash"):
        for command in re.split(r"&&|\n", block.replace("\\\n", " ")):
            words = command.split("#")[0].split(">")[0].strip()
            if re.match(r"(\S*/)?polar-ray ", words):
                yield shlex.split(words)[1:]


def files_section() -> str:
    return MAP.read_text("utf-8").split("\n## Files\n")[1].split("\n## ")[0]


@every_doc
def test_files_that_a_doc_names_exist(doc: Path) -> None:
    text = doc.read_text("utf-8")
    if doc == MAP:  # there, names are within folders; they have a test of their own
        text = text.replace(files_section(), "")
    missing = [name for name in LINK.findall(text) if not (doc.parent / name).exists()]
    places = (doc.parent, PACKAGE, ROOT)
    named = NAMED_FILE.findall(text)
    missing += [name for name in named if not any((place / name).exists() for place in places)]
    stems = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    missing += [name for name in NAMED_SUITE.findall(text) if name not in stems]
    assert not missing


@every_doc
def test_sections_that_a_doc_names_exist(doc: Path) -> None:
    for name, anchor in ANCHOR.findall(doc.read_text("utf-8")):
        place = doc.parent / name if name else doc
        headings = HEADING.findall(place.read_text("utf-8"))
        # As GitHub makes anchors of them.
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert anchor in anchors, (name, anchor)


@every_doc
def test_commands_of_a_doc_have_their_options_and_settings(doc: Path) -> None:
    for words in commands(doc):
        command = get_command(cli)
        while hasattr(command, "commands"):
            name, *words = words
            command = command.commands[name]
        given = command.make_context(name, words, resilient_parsing=False).params
        settings = [*(given.get("overrides") or []), *(given.get("settings") or [])]
        names = [word.split("=")[0] for word in settings if "=" in word]
        assert set(names) <= SETTINGS, names


@every_doc
def test_python_of_a_doc_compiles_and_its_imports_exist(doc: Path) -> None:
    for block in blocks(doc, "python"):
        tree = compile(block, str(doc), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("polar_ray"):
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


@every_doc
def test_serve_configs_of_a_doc_are_settings_of_a_pool(doc: Path) -> None:
    for block in blocks(doc, "yaml"):
        for application in yaml.safe_load(block)["applications"]:
            PoolConfig.model_validate(application["args"])
            for deployment in application.get("deployments", ()):
                assert set(deployment.get("user_config", {})) <= set(PoolConfig.model_fields)


def test_the_map_lists_the_files_of_the_package() -> None:
    """In its section Files; a folder in bold, then the names of its files."""
    listed, folder = set(), ""
    for opened, name in re.findall(r"\*\*`([\w/]+/)`\*\*|`(\w+\.py)`", files_section()):
        folder = opened or folder
        listed |= {folder + name} if name else set()
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    files = {name for name in files if not name.endswith("__init__.py")}
    files = {name for name in files if not name.startswith("train/recipe/")}
    assert not sorted(listed - files), "listed, and not there"
    assert not sorted(files - listed), "there, and not listed"
