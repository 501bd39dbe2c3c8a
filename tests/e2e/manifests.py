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
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels or {}},
    }


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
    labels = {"app": NAME}
    spread = {
        "maxSkew": 1,
        "topologyKey": _HOST,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
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
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"application.py": (_PODS / "application.py").read_text()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {"metadata": {"labels": labels}, "spec": pods},
            },
        },
    ]


def election(*, routing: bool = True) -> dict[str, Any]:
    """Return the election, whose office the second Service leads to if `routing` says so."""
    spec: dict[str, Any] = {"key": NAME, "selector": {"matchLabels": {"app": NAME}}}
    if routing:
        spec["routing"] = {"service": BY_SLICE, "mode": "EndpointSlice"}
    return {
        "apiVersion": "incumbent.dev/v1alpha1",
        "kind": "LeaderElection",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": spec,
    }


def service(name: str) -> dict[str, Any]:
    """Return one of the two Services."""
    spec: dict[str, Any] = {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    if name == BY_LABEL:
        spec["selector"] = {"app": NAME, f"incumbent.dev/{NAME}": "leader"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


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
    labels = {"app": CLIENTS}
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
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CLIENTS, "namespace": CLIENTS},
            "data": {"client.py": (_PODS / "client.py").read_text()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": CLIENTS, "namespace": CLIENTS},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pods},
            },
        },
    ]


def volume(name: str, folder: Path, node: str) -> dict[str, Any]:
    """Return a volume on the disk of a node, for the claim of the chart's NATS server."""
    term = {"matchExpressions": [{"key": _HOST, "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }
