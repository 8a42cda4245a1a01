"""Kubernetes' and KubeRay's schemas, read strictly: a key that they do not have is an error.

KubeRay's CRDs are not part of this project: `POLAR_RAY_KUBERAY_CRDS` names a folder of them, as its
Helm chart has (`helm-chart/kuberay-operator/crds`).
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.33"
"""An old one of those that are supported: what it has, newer ones have, too."""

CRDS = os.environ.get("POLAR_RAY_KUBERAY_CRDS")

OPEN = "x-kubernetes-preserve-unknown-fields"

Object = dict[str, Any]


def check_core(found: Object) -> None:
    """Raises for an object of Kubernetes' own that its API server would not take as it is."""
    _check(json.dumps(found))


@cache
def _check(text: str) -> None:
    """Of many objects only one is changed at a time, and the schemas take long to read."""
    kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)


def check_pod(template: Object) -> None:
    """The same for a pod's template, which KubeRay's schema takes from Kubernetes."""
    metadata = {"name": "made", **template.get("metadata", {})}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    check_core(pod)


def check_custom(found: Object) -> None:
    """Raises for an object of KubeRay's that is not as its CRD says. Needs `CRDS`."""
    validator = jsonschema.Draft202012Validator(_crd(found["kind"]))
    validator.validate(found)


@cache
def _crd(kind: str) -> Object:
    assert CRDS, "POLAR_RAY_KUBERAY_CRDS names no folder"
    path = Path(CRDS) / f"ray.io_{kind.lower()}s.yaml"
    values = yaml.safe_load(path.read_text("utf-8"))
    [version] = [one for one in values["spec"]["versions"] if one["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"], top=True)


def strict(schema: Any, *, top: bool = False) -> Any:
    """A structural schema as JSON Schema: other keys refused, quantities text or number."""
    if not isinstance(schema, dict):
        return schema  # additionalProperties: true
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    made = dict(schema)
    if properties := schema.get("properties"):
        made["properties"] = {name: strict(part) for name, part in properties.items()}
        if "additionalProperties" not in schema and not schema.get(OPEN):
            made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in schema:
            made[key] = strict(schema[key])
    if top:  # Kubernetes' own part, of which a CRD says nothing
        made["properties"]["metadata"] = {"type": "object"}
    return made
