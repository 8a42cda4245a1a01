"""What must hold of this project's Kubernetes objects, beyond their schemas: each rule with the
sentence that says what would go wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import yaml
from cluster.schemas import CRDS, check_core, check_custom, check_pod
from cluster.serve_config import Pool, parse

from polar_ray.pool.settings import DANGEROUS, REPLICA

Object = dict[str, Any]


def pool_label(name: str) -> dict[str, str]:
    """The label of one Ray cluster's pods, by which policies and budgets know them from others."""
    return {"polar-ray.io/pool": name}


def part_labels(name: str, which: str) -> dict[str, str]:
    """The labels of its head, or of its workers."""
    return {**pool_label(name), "polar-ray.io/part": which}


WORKER = part_labels("polar", "worker")

SPEC = {
    "RayService": {
        "excludeHeadPodFromServeSvc",
        "rayClusterConfig",
        "rayClusterDeletionDelaySeconds",
        "serveConfigV2",
        "upgradeStrategy",
    },
    "RayJob": {
        "activeDeadlineSeconds",
        "backoffLimit",
        "entrypoint",
        "rayClusterSpec",
        "shutdownAfterJobFinishes",
        "submissionMode",
        "ttlSecondsAfterFinished",
    },
}
"""Keys of KubeRay 1.7 that these files use, where no copy of its schema is at hand."""

CLUSTER = {
    "authOptions",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
GROUP = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}


@dataclass(frozen=True, slots=True)
class Pods:
    """One group of pods of a Ray cluster."""

    part: str
    count: int
    params: dict[str, str]
    template: Object

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    @property
    def container(self) -> Object:
        """The one that Ray runs in."""
        [found] = self.spec["containers"]
        assert isinstance(found, dict)
        return found

    def mounted(self, path: str) -> Object:
        """The volume under which a path lies."""
        mounts = [
            m for m in self.container["volumeMounts"] if f"{path}/".startswith(m["mountPath"])
        ]
        assert mounts, f"nothing is mounted where {path} should be"
        names = {volume["name"]: volume for volume in self.spec["volumes"]}
        found: Object = names[mounts[0]["name"]]
        return found


def cluster_of(found: Object) -> Object:
    """The Ray cluster of a service or job."""
    key = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}[found["kind"]]
    spec: Object = found["spec"][key]
    return spec


def pods_of(cluster: Object) -> list[Pods]:
    """All groups of pods, the head's first."""
    head = cluster["headGroupSpec"]
    return [
        Pods("head", 1, head["rayStartParams"], head["template"]),
        *(
            Pods("worker", group["replicas"], group["rayStartParams"], group["template"])
            for group in cluster["workerGroupSpecs"]
        ),
    ]


def check(objects: list[Object]) -> None:
    """Raises for the first thing that is wrong with the objects of one folder or file."""
    for found in objects:
        assert found["metadata"].get("namespace") == "polar"
        if found["apiVersion"] == "ray.io/v1":
            check_ray(found)
        else:
            check_core(found)
        if found["kind"] == "Job":
            check_security(found["spec"]["template"]["spec"])
    services = [found for found in objects if found["kind"] == "RayService"]
    policies = [found for found in objects if found["kind"] == "NetworkPolicy"]
    for service in services:
        check_service(service)
        check_network(policies, "polar", [CALLERS])
        check_budget(service, objects)
    for job in [found for found in objects if found["kind"] == "RayJob"]:
        check_network(policies, job["metadata"]["name"], [])


def check_ray(found: Object) -> None:
    """What holds of every Ray cluster."""
    assert set(found["spec"]) <= SPEC[found["kind"]], "KubeRay knows no such key"
    if CRDS:
        check_custom(found)
    cluster = cluster_of(found)
    assert set(cluster) <= CLUSTER, "KubeRay knows no such key"
    assert cluster["rayVersion"] == ray.__version__, "KubeRay would speak to another Ray"
    auth = cluster["authOptions"]
    name = found["metadata"]["name"]
    # Whoever has a cluster's token can run code there: each has its own.
    assert auth == {"mode": "token", "secretName": f"{name}-ray-token"}, "open to others"
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP, "KubeRay knows no such key"
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    groups = pods_of(cluster)
    assert (groups[0].params["num-cpus"], groups[0].params["num-gpus"]) == ("0", "0"), (
        "work on the head dies with it"
    )
    for pods in groups:
        check_pods(pods, name)
    assert len({pods.container["image"] for pods in groups}) == 1, "one cluster, one image"


def check_pods(pods: Pods, name: str) -> None:
    """What holds of every pod that Ray runs in, of the service or job of this name."""
    check_pod(pods.template)
    check_security(pods.spec)
    labels = pods.template["metadata"]["labels"]
    assert labels == part_labels(name, pods.part), "not what its own policies and budget see"
    for entry in pods.container.get("env", ()):
        assert entry["name"] not in DANGEROUS, DANGEROUS[entry["name"]]
        assert not entry["name"].startswith("RAY_AUTH"), "tokens are KubeRay's to give"
    assert not re.search(r":latest$|^[^:]*$", pods.container["image"]), "the image has no version"
    assert "livenessProbe" not in pods.container, "KubeRay's own asks the Ray node"
    resources = pods.container["resources"]
    assert resources["requests"] == resources["limits"], "what is lent can be taken away"
    shm = pods.mounted("/dev/shm")["emptyDir"]
    assert shm["medium"] == "Memory"
    store = int(pods.params["object-store-memory"])
    assert store <= size(shm["sizeLimit"]), "the object store has no room"
    assert 2 * size(shm["sizeLimit"]) <= size(resources["limits"]["memory"]), "it counts as memory"
    spill = pods.params.get("object-spilling-directory", "/tmp/ray")
    assert "medium" not in pods.mounted(spill)["emptyDir"], "spills to memory"
    if pods.part == "worker":
        grace = pods.spec["terminationGracePeriodSeconds"]
        assert grace > REPLICA["graceful_shutdown_timeout_s"], "killed with work in hand"


def check_security(spec: Object) -> None:
    """Nothing that a container could do to its node."""
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == USER
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]
    for volume in spec["volumes"]:
        assert "hostPath" not in volume


USER = 1000
"""Whom the image runs as."""


def check_service(service: Object) -> None:
    """The pool, and whether its pods have what it asks for."""
    spec = service["spec"]
    assert spec["excludeHeadPodFromServeSvc"] is True, "callers would come to the head"
    cluster = spec["rayClusterConfig"]
    tolerance = cluster["gcsFaultToleranceOptions"]
    assert tolerance["backend"] == "rocksdb", "a lost head takes the cluster with it"
    assert size(tolerance["storage"]["size"]) >= 1 << 30
    head, *workers = pods_of(cluster)
    gpus = any("nvidia.com/gpu" in pods.container["resources"]["limits"] for pods in workers)
    kind = spec["upgradeStrategy"]["type"]
    assert kind in (("None",) if gpus else ("None", "NewCluster")), "there are no GPUs twice"
    values = yaml.safe_load(spec["serveConfigV2"])
    [pool] = parse(values)
    for pods in workers:
        check_worker(pods, pool, values["http_options"]["port"])
    assert "serve" not in {port["name"] for port in head.container["ports"]}
    check_room(pool, workers)


def check_worker(pods: Pods, pool: Pool, port: int) -> None:
    """The pods that callers come to."""
    ports = {entry["name"]: entry["containerPort"] for entry in pods.container["ports"]}
    assert ports == {"serve": port, "metrics": 8080}
    probe = pods.container["readinessProbe"]
    assert probe["httpGet"] == {"path": "/health", "port": "serve"}, "who answers there?"
    assert probe["timeoutSeconds"] >= 2
    assert pool.config.http.token_file is not None
    folder, _, _ = pool.config.http.token_file.rpartition("/")
    secret = pods.mounted(folder)["secret"]
    assert secret["secretName"] == "polar-http-tokens"
    assert secret["defaultMode"] == 0o440, "others of the node could read it"
    if pool.model is not None:
        assert "persistentVolumeClaim" in pods.mounted(pool.model)
    [spread] = pods.spec["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname", "both routers go with one node"
    assert spread["labelSelector"]["matchLabels"] == WORKER


def check_room(pool: Pool, workers: list[Pods]) -> None:
    """Whether all replicas and routers have a place, and none of them on the head."""
    config = pool.config
    assert config.router_num_cpus > 0, "what reserves nothing may run on the head"
    assert config.num_routers >= 2, "callers would wait for a new one"
    limits = [(pods.count, pods.container["resources"]["limits"]) for pods in workers]
    cpus = sum(count * float(limit["cpu"]) for count, limit in limits)
    gpus = sum(count * int(limit.get("nvidia.com/gpu", 0)) for count, limit in limits)
    need = config.most_replicas * config.num_cpus + config.num_routers * config.router_num_cpus
    assert need <= cpus, f"{need:g} cores are asked for, and there are {cpus:g}"
    assert config.most_replicas * config.num_gpus == gpus, "GPUs would be idle or missing"


def check_budget(service: Object, objects: list[Object]) -> None:
    """A drain of nodes leaves replicas."""
    [budget] = [found for found in objects if found["kind"] == "PodDisruptionBudget"]
    workers = sum(pods.count for pods in pods_of(cluster_of(service)) if pods.part == "worker")
    # Kubernetes counts an operator's pods by `minAvailable` in whole pods alone.
    assert budget["spec"]["minAvailable"] == workers - 1
    assert "maxUnavailable" not in budget["spec"]
    assert budget["spec"]["selector"] == {"matchLabels": WORKER}


def check_network(policies: list[Object], name: str, more: list[Way]) -> None:
    """Who reaches what of a cluster: exactly what every one needs, and `more`."""
    found = sorted(ways(policies), key=str)
    assert found == sorted([*ways_within(name), *more], key=str), found
    assert {"Ingress", "Egress"} in [
        set(policy["spec"]["policyTypes"])
        for policy in policies
        if policy["spec"]["podSelector"] == {"matchLabels": pool_label(name)}
    ], "what is not selected is open"


Way = tuple[str, str, str, tuple[int, ...]]
"""Direction, which pods of the cluster, their peers (namespace and pods), and ports (none: all)."""

CALLERS: Way = ("in", str(WORKER), "all {'polar-ray.io/caller': 'true'}", (8000,))


def ways_within(name: str) -> list[Way]:
    """What every cluster needs: itself, names of hosts, and KubeRay's operator at its head."""
    all_pods, head = str(pool_label(name)), str(part_labels(name, "head"))
    return [
        ("in", all_pods, f"here {all_pods}", ()),
        ("out", all_pods, f"here {all_pods}", ()),
        ("out", all_pods, "{'kubernetes.io/metadata.name': 'kube-system'} any", (53, 53)),
        ("in", head, "{'kubernetes.io/metadata.name': 'kuberay-system'} any", (8265,)),
    ]


def ways(policies: list[Object]) -> Iterator[Way]:
    """Every way that policies open."""
    for policy in policies:
        own = str(policy["spec"]["podSelector"].get("matchLabels"))
        for direction, rules, side in (("in", "ingress", "from"), ("out", "egress", "to")):
            for rule in policy["spec"].get(rules, ()):
                ports = tuple(entry["port"] for entry in rule.get("ports", ()))
                for peer in rule.get(side) or [{"namespaceSelector": {}}]:
                    yield direction, own, _peer(peer), ports


def _peer(peer: Object) -> str:
    if "ipBlock" in peer:
        return str(peer)
    space = "here"
    if "namespaceSelector" in peer:
        space = str(peer["namespaceSelector"].get("matchLabels", "all"))
    return f"{space} {peer.get('podSelector', {}).get('matchLabels', 'any')}"


UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def size(quantity: str) -> int:
    """Bytes of one of Kubernetes' quantities."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]
