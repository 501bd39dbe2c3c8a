"""Conversion of the API server's JSON into a `Pod`. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import GROUP

MOST_PORTS = 100
"""Greatest number of named ports kept of a pod: as many as an EndpointSlice may have."""
LONGEST_HOSTNAME = 63
"""Greatest length of a host name in Linux and DNS."""


def pod_from(pod: Mapping[str, Any]) -> Pod:
    """Return the part of a pod's JSON that elections use."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        labels=metadata.get("labels", {}),
        annotations={
            key: value
            for key, value in metadata.get("annotations", {}).items()
            if key.startswith(f"{GROUP}/")
        },
        phase=status.get("phase", "Unknown"),
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions", ())
        ),
        terminating="deletionTimestamp" in metadata,
        node=spec.get("nodeName", ""),
        hostname=hostname_from(metadata["name"], spec),
        domain=domain_from(metadata["namespace"], spec),
        ip=status.get("podIP", ""),
        ips=tuple(address["ip"] for address in status.get("podIPs", ())),
        ports=tuple(itertools.islice(named_ports(spec), MOST_PORTS)),
        created=metadata.get("creationTimestamp", ""),
    )


def hostname_from(name: str, spec: Mapping[str, Any]) -> str:
    """Return the host name that the kubelet gives to a pod; empty if it is the pod's name.

    The kubelet cuts names to 63 letters, and then removes hyphens and periods at the end
    (`truncatePodHostnameIfNeeded` in pkg/kubelet/kubelet_pods.go).
    """
    if override := spec.get("hostnameOverride"):
        return str(override)
    if spec.get("hostNetwork"):
        return str(spec.get("nodeName", ""))
    hostname = str(spec.get("hostname") or name)[:LONGEST_HOSTNAME].rstrip("-.")
    return hostname if hostname != name else ""


def domain_from(namespace: str, spec: Mapping[str, Any]) -> str:
    """Return what follows a pod's host name in its DNS name, without the cluster's domain."""
    subdomain = spec.get("subdomain")
    if not subdomain or spec.get("hostnameOverride") or spec.get("hostNetwork"):
        return ""
    return f"{subdomain}.{namespace}.svc"


def named_ports(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield the named ports of a pod's containers and sidecars."""
    sidecars = (
        one for one in spec.get("initContainers", ()) if one.get("restartPolicy") == "Always"
    )
    for container in (*spec.get("containers", ()), *sidecars):
        for port in container.get("ports", ()):
            if "name" in port:
                yield port["name"], port.get("protocol", "TCP"), port["containerPort"]
