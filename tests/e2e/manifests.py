"""What is applied besides the chart: an application, its election, its Services, and clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.images import PYTHON

NAMESPACE = "shop"
NAME = "billing"
"""Of the application, of its election, and of its key."""
BY_LABEL = f"{NAME}-leader"
"""A Service that selects the leader's label."""
BY_SLICE = f"{NAME}-office"
"""A Service without a selector, whose endpoints the operator writes."""
CLIENTS = "clients"
"""Their namespace, and the name of their DaemonSet."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_PODS = Path(__file__).parent / "pods"
_HOST = "kubernetes.io/hostname"
_SECURE = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def namespace(name: str, *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a namespace."""
    return _object("v1", "Namespace", {"name": name, "labels": labels or {}})


def application(ledger: str, *, replicas: int = 3) -> list[dict[str, Any]]:
    """Return the application, in pods that the strictest policy of Kubernetes allows."""
    operator = "http://incumbent.incumbent:8080/v1/elections"
    name = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    container = {
        "name": NAME,
        "image": PYTHON,
        "command": ["python3", "/program/application.py"],
        "env": [
            {"name": "POD", **name},
            {"name": "ELECTION", "value": f"{operator}/{NAMESPACE}/{NAME}"},
            {"name": "LEDGER", "value": ledger},
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 2,  # one probe can be late on two cores that start pods
        },
        "resources": {"requests": {"cpu": "250m"}},
        "securityContext": _SECURE,
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": _HOST,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": NAME}},
    }
    pods = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": NAME}}],
    }
    update = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    spec = {"replicas": replicas, "strategy": update}
    return _program("Deployment", NAME, NAMESPACE, "application.py", pods, spec)


def election(*, routing: bool = True) -> dict[str, Any]:
    """Return the election, whose office the second Service leads to if `routing` says so."""
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": NAME}}}
    if routing:
        spec["routing"] = {"service": BY_SLICE, "mode": "EndpointSlice"}
    about = {"name": NAME, "namespace": NAMESPACE}
    return _object("incumbent.dev/v1alpha1", "LeaderElection", about, spec=spec)


def service(name: str) -> dict[str, Any]:
    """Return one of the two Services."""
    spec: dict[str, Any] = {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    if name == BY_LABEL:
        spec["selector"] = {"app": NAME, f"incumbent.dev/{NAME}": "leader"}
    return _object("v1", "Service", {"name": name, "namespace": NAMESPACE}, spec=spec)


def clients(
    targets: list[str], record: Path, *, every: float, path: str, node: str
) -> list[dict[str, Any]]:
    """Return a client on every node, or on one.

    Args:
        targets: of each Service `name=address:port`.
        record: a folder of the node, for what they write down.
        every: seconds between two requests.
        path: what they ask for.
        node: where; empty: everywhere.
    """
    host = {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = {
        "name": CLIENTS,
        "image": PYTHON,
        "command": ["python3", "-u", "/program/client.py"],
        "env": [
            {"name": "NODE", **host},
            {"name": "RECORD", "value": "/record/$(NODE).jsonl"},
            {"name": "TARGETS", "value": " ".join(targets)},
            {"name": "EVERY", "value": str(every)},
            {"name": "ASK_FOR", "value": path},
        ],
        "resources": {"requests": {"cpu": "100m"}},
        "volumeMounts": [
            {"name": "program", "mountPath": "/program"},
            {"name": "record", "mountPath": "/record"},
        ],
    }
    pods = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {_HOST: node} if node else {},
        "containers": [container],
        "volumes": [
            {"name": "program", "configMap": {"name": CLIENTS}},
            {"name": "record", "hostPath": {"path": str(record)}},
        ],
    }
    return _program("DaemonSet", CLIENTS, CLIENTS, "client.py", pods, {})


def volume(name: str, folder: Path, node: str) -> dict[str, Any]:
    """Return a volume on the disk of a node, for the claim of the chart's NATS server."""
    term = {"matchExpressions": [{"key": _HOST, "operator": "In", "values": [node]}]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }
    return _object("v1", "PersistentVolume", {"name": name}, spec=spec)


def _program(
    kind: str, name: str, namespace: str, file: str, pods: dict[str, Any], spec: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a workload of that kind, and the ConfigMap with the program that its pods run."""
    about, labels = {"name": name, "namespace": namespace}, {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pods}
    spec = {**spec, "selector": {"matchLabels": labels}, "template": template}
    return [
        _object("v1", "ConfigMap", about, data={file: (_PODS / file).read_text()}),
        _object("apps/v1", kind, about, spec=spec),
    ]


def _object(api_version: str, kind: str, about: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": about, **rest}
