"""The files of `cluster/kubernetes`: schemas, and what must hold beyond them. Each rule is shown to
find the mistake that it is for."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml
from cluster.kustomize import apply, build, load
from cluster.manifests import check, cluster_of, pods_of
from cluster.schemas import CRDS, check_custom
from typer.main import get_command

from polar_ray.cli import cli
from polar_ray.config import RescoreConfig
from polar_ray.config_base import parse_overrides

FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"

Object = dict[str, Any]

FOLDERS = ("base", "overlays/cpu", "overlays/h200")
JOBS = ("jobs/fetch-model.yaml", "jobs/rescore.yaml")


@cache
def _made(place: str) -> list[Object]:
    return build(FOLDER / place) if place in FOLDERS else load(FOLDER / place)


def made(place: str) -> list[Object]:
    return copy.deepcopy(_made(place))


def test_every_file_is_used() -> None:
    used = {FOLDER / place for place in JOBS}
    for place in FOLDERS:
        path = FOLDER / place / "kustomization.yaml"
        values = yaml.safe_load(path.read_text("utf-8"))
        patches = [patch["path"] for patch in values.get("patches", ())]
        names = [*values["resources"], *patches]
        used |= {path, *(path.parent / name for name in names if name.endswith(".yaml"))}
    assert set(FOLDER.rglob("*.yaml")) == used


@pytest.mark.parametrize("place", [*FOLDERS, *JOBS])
def test_a_place_is_what_it_should_be(place: str) -> None:
    check(made(place))


def in_order(objects: Iterable[Object]) -> list[Object]:
    return sorted(objects, key=lambda found: (found["kind"], found["metadata"]["name"]))


def printed(*command: str) -> list[Object]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return in_order(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("place", FOLDERS)
def test_a_folder_is_printed_without_kubectl(place: str) -> None:
    program = Path(__file__).with_name("kustomize.py")
    assert printed(sys.executable, str(program), str(FOLDER / place)) == in_order(made(place))


@pytest.mark.skipif(not which("kubectl"), reason="no kubectl here")
@pytest.mark.parametrize("place", FOLDERS)
def test_kubectl_makes_the_same_of_a_folder(place: str) -> None:
    assert printed("kubectl", "kustomize", str(FOLDER / place)) == in_order(made(place))


@pytest.mark.skipif(not CRDS, reason="POLAR_RAY_KUBERAY_CRDS names no folder of CRDs")
@pytest.mark.parametrize("place", [*FOLDERS, "jobs/rescore.yaml"])
def test_kuberays_own_schema_takes_it_and_refuses_what_it_does_not_know(place: str) -> None:
    [found] = [one for one in made(place) if one["apiVersion"] == "ray.io/v1"]
    check_custom(found)
    for path in ((), ("headGroupSpec",), ("headGroupSpec", "template", "spec")):
        wrong = copy.deepcopy(found)
        inner = cluster_of(wrong)
        for part in path:
            inner = inner[part]
        inner["nobodyReadsThis"] = 1
        with pytest.raises(Exception, match="nobodyReadsThis"):
            check_custom(wrong)


def test_the_job_runs_a_command_that_there_is() -> None:
    [job, *_] = made("jobs/rescore.yaml")
    program, name, *words = job["spec"]["entrypoint"].replace("'", "").split()
    assert (program, name) == ("polar-ray", "rescore")
    given = get_command(cli).commands[name].make_context(name, words).params
    config = RescoreConfig.model_validate(
        {**parse_overrides(given["settings"]), "model": given["model"]}
    )
    [workers] = pods_of(cluster_of(job))[1:]
    assert config.num_workers is not None
    limits = workers.container["resources"]["limits"]
    assert config.num_workers * config.num_gpus == int(limits["nvidia.com/gpu"])
    assert config.num_workers * config.num_cpus <= float(limits["cpu"])
    for pods in pods_of(cluster_of(job)):
        for path in (str(config.model), "/data/rollouts", "/data/scored"):
            assert "persistentVolumeClaim" in pods.mounted(path)


def test_a_model_is_fetched_to_where_it_is_read() -> None:
    job, _ = made("jobs/fetch-model.yaml")
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] == "/models/POLAR-7B"
    assert "*.bin" not in container["args"]
    [service, *_] = made("overlays/h200")
    assert "model: /models/POLAR-7B" in service["spec"]["serveConfigV2"]


SPEC = "/spec/rayClusterConfig"
HEAD = f"{SPEC}/headGroupSpec/template/spec"
WORKER = f"{SPEC}/workerGroupSpecs/0/template/spec"
PARAMS = f"{SPEC}/workerGroupSpecs/0/rayStartParams"
BOX = "/containers/0"

Change = tuple[str, Any]
GONE = object()

SERVICE: dict[str, Change] = {
    "open: no tokens": (f"{SPEC}/authOptions", GONE),
    "open: tokens off": (f"{SPEC}/authOptions/mode", "disabled"),
    "open: a token that the operator makes anew": (f"{SPEC}/authOptions/secretName", "other"),
    "a head that forgets": (f"{SPEC}/gcsFaultToleranceOptions", GONE),
    "a head that needs a Redis which nobody has": (
        f"{SPEC}/gcsFaultToleranceOptions",
        {"backend": "redis", "redisAddress": "redis:6379"},
    ),
    "a store too small": (f"{SPEC}/gcsFaultToleranceOptions/storage/size", "1Mi"),
    "work on the head": (f"{SPEC}/headGroupSpec/rayStartParams/num-cpus", "4"),
    "work on the head, unsaid": (f"{SPEC}/headGroupSpec/rayStartParams/num-cpus", GONE),
    "callers at the head": ("/spec/excludeHeadPodFromServeSvc", GONE),
    "a port of Serve's at the head": (
        f"{HEAD}{BOX}/ports/-",
        {"name": "serve", "containerPort": 8000},
    ),
    "another Ray": (f"{SPEC}/rayVersion", "2.59.0"),
    "a key of no version": ("/spec/serveConfig", "x"),
    "a key of the cluster of no version": (f"{SPEC}/headGroupSpecs", {}),
    "root": (f"{WORKER}/securityContext/runAsUser", 0),
    "root, unsaid": (f"{WORKER}/securityContext/runAsNonRoot", GONE),
    "a user that is not the image's": (f"{HEAD}/securityContext/runAsUser", 1001),
    "files that the user cannot read": (f"{WORKER}/securityContext/fsGroup", GONE),
    "every system call": (f"{WORKER}/securityContext/seccompProfile", GONE),
    "privileged": (f"{WORKER}{BOX}/securityContext/privileged", True),
    "privileges to be had": (f"{WORKER}{BOX}/securityContext/allowPrivilegeEscalation", True),
    "capabilities": (f"{HEAD}{BOX}/securityContext/capabilities", GONE),
    "no security at all": (f"{HEAD}{BOX}/securityContext", GONE),
    "the node's network": (f"{WORKER}/hostNetwork", True),
    "the node's processes": (f"{WORKER}/hostPID", True),
    "the node's files": (f"{WORKER}/volumes/1", {"name": "ray", "hostPath": {"path": "/tmp"}}),
    "the node's port": (f"{WORKER}{BOX}/ports/0/hostPort", 8000),
    "Kubernetes' own token": (f"{WORKER}/automountServiceAccountToken", GONE),
    "a secret in the file": (f"{WORKER}{BOX}/env", [{"name": "RAY_AUTH_TOKEN", "value": "x"}]),
    "a switch that breaks the pool": (
        f"{WORKER}{BOX}/env",
        [{"name": "RAY_SERVE_THROUGHPUT_OPTIMIZED", "value": "1"}],
    ),
    "no probe": (f"{WORKER}{BOX}/readinessProbe", GONE),
    "Serve's probe, not ours": (f"{WORKER}{BOX}/readinessProbe/httpGet/path", "/-/healthz"),
    "a probe that ends waiting": (f"{WORKER}{BOX}/readinessProbe/httpGet/path", "/ready"),
    "a probe of another port": (f"{WORKER}{BOX}/readinessProbe/httpGet/port", 8080),
    "a probe that kills what loads": (
        f"{WORKER}{BOX}/livenessProbe",
        {"httpGet": {"path": "/ready", "port": 8000}},
    ),
    "a probe too hasty": (f"{WORKER}{BOX}/readinessProbe/timeoutSeconds", 1),
    "another port": (f"{WORKER}{BOX}/ports/0/containerPort", 8001),
    "a port more": (f"{WORKER}{BOX}/ports/-", {"name": "ssh", "containerPort": 22}),
    "no shared memory": (f"{WORKER}{BOX}/volumeMounts/0", GONE),
    "shared memory on a disk": (f"{WORKER}/volumes/0/emptyDir/medium", GONE),
    "shared memory too small": (f"{WORKER}/volumes/0/emptyDir/sizeLimit", "1Gi"),
    "an object store too large": (f"{PARAMS}/object-store-memory", str(1 << 40)),
    "an object store of Ray's choice": (f"{PARAMS}/object-store-memory", GONE),
    "shared memory and nothing else": (f"{WORKER}{BOX}/resources/limits/memory", "4Gi"),
    "spills to memory": (f"{PARAMS}/object-spilling-directory", "/dev/shm/spill"),
    "memory that is lent": (f"{WORKER}{BOX}/resources/requests/memory", "1Gi"),
    "no limits": (f"{WORKER}{BOX}/resources", {}),
    "killed with work in hand": (f"{WORKER}/terminationGracePeriodSeconds", 30),
    "killed with work in hand, unsaid": (f"{WORKER}/terminationGracePeriodSeconds", GONE),
    "both routers on one node": (f"{WORKER}/topologySpreadConstraints", GONE),
    "pods that no policy sees": (
        f"{SPEC}/workerGroupSpecs/0/template/metadata/labels",
        {"app": "polar"},
    ),
    "an image without a version": (f"{WORKER}{BOX}/image", "polar-ray"),
    "an image that changes": (f"{WORKER}{BOX}/image", "polar-ray:latest"),
    "two images": (f"{WORKER}{BOX}/image", "polar-ray:0.0.9-cpu"),
    "no tokens for callers": (f"{WORKER}{BOX}/volumeMounts/2", GONE),
    "tokens for all to read": (f"{WORKER}/volumes/2/secret/defaultMode", 0o444),
    "tokens of another secret": (f"{WORKER}/volumes/2/secret/secretName", "other"),
    "a pod spec that is none": (f"{WORKER}{BOX}/imagePulPolicy", "Always"),
    "fewer pods": (f"{SPEC}/workerGroupSpecs/0/replicas", 1),
    "a probe that is none": (f"{WORKER}{BOX}/readinessProbe/httpGet/pth", "/health"),
}
"""Changes of the base's RayService: where, and what stands there then."""

TEXT: dict[str, tuple[str, str]] = {
    "a renamed setting": ("num_replicas", "replicas"),
    "a setting that is none": ("num_threads", "threads"),
    "more cores than there are": ("num_replicas: 2", "num_replicas: 20"),
    "routers on the head": ("router_num_cpus: 0.5", "router_num_cpus: 0"),
    "one router": ("num_routers: 2", "num_routers: 1"),
    "open to callers": ("http: { token_file: /etc/polar/http/tokens }", "timeout_s: 60"),
    "tokens that are nowhere": ("/etc/polar/http/tokens", "/etc/tokens/http"),
    "another port": ("port: 8000", "port: 9000"),
    "a model that is nowhere": ("engine:", "model: /models/POLAR-7B\n      engine:"),
    "GPUs that nobody has": ("num_cpus: 2", "num_gpus: 1"),
    "another program": ("polar_ray:app", "other:app"),
}
"""Changes of the base's Serve config."""

OTHERS: dict[str, tuple[int, str, Any]] = {
    "Ray's ports for callers": (3, "/spec/ingress/0/ports/0/port", 6379),
    "all ports for callers": (3, "/spec/ingress/0/ports", GONE),
    "everybody is a caller": (3, "/spec/ingress/0/from/0/podSelector", GONE),
    "the whole world calls": (3, "/spec/ingress/0/from", GONE),
    "callers at the head, too": (3, "/spec/podSelector/matchLabels/polar-ray.io~1part", GONE),
    "everybody at the dashboard": (2, "/spec/ingress/0/from/0/namespaceSelector", {}),
    "the operator at all ports": (2, "/spec/ingress/0/ports", GONE),
    "everybody within": (1, "/spec/ingress/0/from", GONE),
    "out to the world": (1, "/spec/egress/-", {}),
    "out, unsaid": (1, "/spec/policyTypes", ["Ingress"]),
    "no names of hosts": (1, "/spec/egress/1", GONE),
    "a policy of no version": (1, "/spec/podSelectors", {}),
    "a policy of another pool": (1, "/spec/podSelector/matchLabels", {"app": "other"}),
    "a budget that Kubernetes ignores": (4, "/spec/maxUnavailable", 1),
    "a budget that allows all": (4, "/spec/minAvailable", 0),
    "a budget that forbids all": (4, "/spec/minAvailable", 2),
    "a budget of other pods": (4, "/spec/selector/matchLabels/polar-ray.io~1part", "head"),
}
"""Changes of the base's other objects, by their place in it."""

H200: dict[str, Change] = {
    "GPUs idle": (f"{WORKER}{BOX}/resources/limits/nvidia.com~1gpu", "9"),
    "a second cluster": ("/spec/upgradeStrategy/type", "NewCluster"),
    "no model": (f"{WORKER}{BOX}/volumeMounts/-1", GONE),
}

JOB: dict[str, Change] = {
    "open": ("/spec/rayClusterSpec/authOptions", GONE),
    "open to the pool's token": (
        "/spec/rayClusterSpec/authOptions/secretName",
        "polar-ray-token",
    ),
    "workers that the pool's budget counts": (
        "/spec/rayClusterSpec/workerGroupSpecs/0/template/metadata/labels/polar-ray.io~1pool",
        "polar",
    ),
    "root": (
        "/spec/rayClusterSpec/headGroupSpec/template/spec/securityContext/runAsUser",
        0,
    ),
    "a key of no version": ("/spec/entryPoint", "x"),
}


def change(found: Object, path: str, value: Any) -> None:
    path = path.replace("/-1", f"/{_last(found, path)}") if path.endswith("/-1") else path
    if value is GONE:
        apply(found, {"op": "remove", "path": path})
    else:
        exists = not path.endswith("/-") and _exists(found, path)
        apply(found, {"op": "replace" if exists else "add", "path": path, "value": value})


def _last(found: Object, path: str) -> int:
    return len(_at(found, path.removesuffix("/-1"))) - 1


def _at(found: Any, path: str) -> Any:
    for part in path.split("/")[1:]:
        key = part.replace("~1", "/")
        found = found[int(key) if isinstance(found, list) else key]
    return found


def _exists(found: Any, path: str) -> bool:
    try:
        _at(found, path)
    except (KeyError, IndexError):
        return False
    return True


def finds(objects: list[Object], found: Object, where: str, value: Any) -> None:
    before = copy.deepcopy(found)
    change(found, where, value)
    assert found != before, "the mistake is none"
    # A rule, a schema, Serve's config or a key that is not there: of many kinds.
    with pytest.raises(Exception):  # noqa: B017, PT011
        check(objects)


@pytest.mark.parametrize("mistake", SERVICE)
def test_a_mistake_in_the_service_is_found(mistake: str) -> None:
    objects = made("base")
    finds(objects, objects[0], *SERVICE[mistake])


@pytest.mark.parametrize("mistake", TEXT)
def test_a_mistake_in_the_serve_config_is_found(mistake: str) -> None:
    objects = made("base")
    text = objects[0]["spec"]["serveConfigV2"]
    finds(objects, objects[0], "/spec/serveConfigV2", text.replace(*TEXT[mistake], 1))


@pytest.mark.parametrize("mistake", OTHERS)
def test_a_mistake_beside_the_service_is_found(mistake: str) -> None:
    objects = made("base")
    place, where, value = OTHERS[mistake]
    finds(objects, objects[place], where, value)


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_an_object_that_is_missing_is_found(place: int) -> None:
    objects = made("base")
    del objects[place]
    with pytest.raises(Exception):  # noqa: B017, PT011
        check(objects)


@pytest.mark.parametrize("mistake", H200)
def test_a_mistake_in_the_overlay_is_found(mistake: str) -> None:
    objects = made("overlays/h200")
    finds(objects, objects[0], *H200[mistake])


@pytest.mark.parametrize("mistake", JOB)
def test_a_mistake_in_the_job_is_found(mistake: str) -> None:
    objects = made("jobs/rescore.yaml")
    finds(objects, objects[0], *JOB[mistake])


def test_what_the_pool_selects_are_no_pods_of_a_job() -> None:
    job, *policies = made("jobs/rescore.yaml")
    labels = [set(pods.template["metadata"]["labels"].items()) for pods in pods_of(cluster_of(job))]
    for found in made("base")[1:]:
        spec = found["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        assert not any(set(selector["matchLabels"].items()) <= own for own in labels)
    assert len(policies) == 2
    for place in range(1, 3):
        objects = made("jobs/rescore.yaml")
        del objects[place]
        with pytest.raises(AssertionError):
            check(objects)


WRONG: list[Callable[[], object]] = [
    lambda: apply({"a": {}}, {"op": "replace", "path": "/a/b", "value": 1}),
    lambda: apply({"a": []}, {"op": "replace", "path": "/a/0", "value": 1}),
    lambda: apply({}, {"op": "remove", "path": "/a"}),
    lambda: apply({}, {"op": "merge", "path": "/a"}),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_patch_of_nothing_is_a_mistake(wrong: Callable[[], object]) -> None:
    with pytest.raises((KeyError, IndexError, ValueError)):
        wrong()


def test_patches_are_those_of_rfc_6902() -> None:
    found: Object = {"a": {"b/c": [1, 2]}, "d": 3}
    apply(found, {"op": "add", "path": "/a/b~1c/-", "value": 4})
    apply(found, {"op": "add", "path": "/a/b~1c/0", "value": 0})
    apply(found, {"op": "remove", "path": "/a/b~1c/1"})
    apply(found, {"op": "replace", "path": "/d", "value": {"e": 5}})
    apply(found, {"op": "add", "path": "/d/f", "value": 6})
    assert found == {"a": {"b/c": [0, 2, 4]}, "d": {"e": 5, "f": 6}}
