"""What `kubectl kustomize` makes of a folder, as far as this project's folders go: resources, a
namespace, and patches of RFC 6902. Whatever else a kustomization says is refused, not ignored.

`python tests/cluster/kustomize.py cluster/kubernetes/overlays/cpu` prints it.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
KEYS = {"apiVersion", "kind", "namespace", "resources", "patches"}


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization, in its order."""
    path = folder / "kustomization.yaml"
    values = yaml.safe_load(path.read_text("utf-8"))
    if unknown := set(values) - KEYS:
        raise ValueError(f"{path} has {', '.join(sorted(unknown))}")
    objects = [found for name in values["resources"] for found in _resource(folder / name)]
    for found in objects:
        if "namespace" in values:
            found["metadata"]["namespace"] = values["namespace"]
    for patch in values.get("patches", ()):
        _patch(objects, patch["target"], load(folder / patch["path"])[0])
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names)), names
    return objects


def load(path: Path) -> list[Any]:
    """The documents of a file. Copied, so that none of their parts is another's."""
    return [copy.deepcopy(found) for found in yaml.safe_load_all(path.read_text("utf-8")) if found]


def _resource(path: Path) -> list[Object]:
    return build(path) if path.is_dir() else load(path)


def _patch(objects: list[Object], target: dict[str, str], operations: list[Object]) -> None:
    if set(target) != {"kind", "name"}:
        raise ValueError(f"target {target}")
    chosen = [
        found
        for found in objects
        if (found["kind"], found["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    [found] = chosen  # a patch of nothing is a mistake
    for operation in operations:
        apply(found, operation)


def apply(found: Any, operation: Object) -> None:
    """One operation of RFC 6902, in place: add, replace or remove."""
    *path, last = (
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    )
    for part in path:
        found = found[int(part) if isinstance(found, list) else part]
    what, value = operation["op"], copy.deepcopy(operation.get("value"))
    if isinstance(found, list) and last == "-" and what == "add":
        found.append(value)
        return
    key: Any = int(last) if isinstance(found, list) else last
    match what:
        case "add" if isinstance(found, list):
            found.insert(key, value)
        case "add":
            found[key] = value
        case "replace":
            found[key]  # must be there
            found[key] = value
        case "remove":
            del found[key]
        case _:
            raise ValueError(f"operation {what}")


class Printer(yaml.SafeDumper):
    """Texts of several lines as they are read by people."""

    def represent_text(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Printer.add_representer(str, Printer.represent_text)


def main(folder: str) -> None:
    """Prints the objects of a folder as one file of YAML."""
    print(yaml.dump_all(build(Path(folder)), Dumper=Printer, sort_keys=False), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
