"""The EndpointSlices of a Service that reaches only the leader: pure functions.

A slice has addresses of one IP family, so a Service of two families has two slices. The slices
belong to the election (`ownerReferences`) and carry a label that keeps the controllers of
Kubernetes away. Each of them holds at most one pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import API_VERSION, GROUP, KIND, SERVICE_NAME, Resource

FAMILIES = ("IPv4", "IPv6")

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
"""Labels of a slice, beside `SERVICE_NAME`. The first one names the slice's writer; the controllers
of Kubernetes leave slices of another writer alone. The second one tells kube-proxy to ignore the
slice (discovery/v1)."""

WRITE = f"{GROUP}/write"
"""Annotation on a slice, with a new value for each write. The API server drops a write that changes
nothing, and then it would not refuse an older write that is still on its way."""

Slice = Mapping[str, Any]
"""An EndpointSlice as JSON."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the operator cannot point a Service to the leader."""

    reason: str
    """The reason in the condition that reports the obstacle."""
    message: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service, and its target port."""

    name: str
    protocol: str
    application: str | None
    target: int | str
    """The target port: a number, or the name of a port of the pod."""


@dataclass(frozen=True, slots=True)
class Service:
    """The fields of a Service that its slices depend on."""

    name: str
    families: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    headless: bool
    unready: bool
    """Whether the Service also reaches pods that are not ready."""


def service_from(body: Mapping[str, Any]) -> Service:
    """Return a Service from its JSON."""
    spec = body["spec"]
    return Service(
        name=body["metadata"]["name"],
        families=tuple(spec.get("ipFamilies") or FAMILIES[:1]),
        ports=tuple(
            ServicePort(
                name=port.get("name", ""),
                protocol=port.get("protocol", "TCP"),
                application=port.get("appProtocol"),
                target=port.get("targetPort") or port["port"],
            )
            for port in spec.get("ports") or ()
        ),
        headless=spec.get("clusterIP") == "None",
        unready=bool(spec.get("publishNotReadyAddresses")),
    )


def obstacle_from(resource: Resource, body: Mapping[str, Any] | None) -> Obstacle | None:
    """Say why an election may not write slices of its Service; None if it may."""
    name = resource.service
    if body is None:
        message = f"there is no Service {name}: create it, without a selector"
        return Obstacle("ServiceNotFound", message)
    spec = body["spec"]
    if spec.get("selector"):
        message = (
            f"Service {name} has a selector, by which Kubernetes finds pods for it, too: remove the"
            " selector, or let it ask for the election's label and remove `routing`"
        )
        return Obstacle("ServiceHasSelector", message)
    if spec.get("type") == "ExternalName":
        message = f"Service {name} is a name outside (ExternalName): give it another type"
        return Obstacle("ServiceInvalid", message)
    return None


def others_from(resource: Resource, found: Iterable[Slice]) -> Obstacle | None:
    """Say which slices lead clients of the Service to other pods; None if there are no such slices.

    Slices that were written for elections are left out. Another module decides which election may
    use the Service.
    """
    names = sorted(
        one["metadata"]["name"]
        for one in found
        if one.get("endpoints") and one["metadata"].get("labels", {}).get(MANAGED_BY) != GROUP
    )
    if not names:
        return None
    message = (
        f"Service {resource.service} reaches others, too, by EndpointSlices that Kubernetes leaves"
        f" when a selector is removed, or that somebody made ({', '.join(names[:3])}): delete the"
        f" Endpoints {resource.service}, if there are any, and then these slices"
    )
    return Obstacle("ServiceHasOthers", message)


def name_of(resource: Resource, family: str) -> str:
    """Return the name of the slice of a family.

    It does not depend on the Service, so an election never has more slices than families.
    """
    return f"incumbent-{resource.key.name}-{family.lower()}"


def filled(
    resource: Resource, service: Service, family: str, *, pod: Pod, token: int
) -> dict[str, Any] | None:
    """Return the slice for a leading pod; None if the pod has no address of this family."""
    addresses = [ip for ip in pod.ips or (pod.ip,) if _family(ip) == family]
    if not addresses:
        return None
    endpoint: dict[str, Any] = {
        "addresses": addresses[:1],
        "conditions": {
            # The values that Kubernetes sets for a pod that a Service's selector finds.
            "ready": service.unready or (pod.ready and not pod.terminating),
            "serving": pod.ready,
            "terminating": pod.terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
    }
    if pod.node:
        endpoint["nodeName"] = pod.node
    body = emptied(resource, service, family)
    body["metadata"]["annotations"][resource.token_key] = str(token)
    return {**body, "endpoints": [endpoint], "ports": list(_ports(service, pod))}


def emptied(resource: Resource, service: Service | None, family: str) -> dict[str, Any]:
    """Return the slice for a time when no pod of this site leads."""
    labels = {SERVICE_NAME: resource.service, MANAGED_BY: GROUP}
    if service is not None and service.headless:
        labels[HEADLESS] = ""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": resource.key.name,
        "uid": resource.uid,
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": resource.key.namespace,
            "name": name_of(resource, family),
            "labels": labels,
            "annotations": {},
            "ownerReferences": [owner],
        },
        "addressType": family,
        "endpoints": [],
        "ports": [],
    }


def unknown_ports(service: Service, pod: Pod) -> list[str]:
    """Return the named target ports of a Service that a pod does not have."""
    return [str(port.target) for port in service.ports if not isinstance(_target(port, pod), int)]


def shows(found: Slice, wanted: Slice) -> bool:
    """Whether a slice has the wanted content, regardless of its writer."""
    have, want = found["metadata"], wanted["metadata"]
    return (
        all((have.get(kind) or {}).items() >= want[kind].items() for kind in _MAPPINGS)
        and have.get("ownerReferences") == want["ownerReferences"]
        and (found.get("endpoints") or []) == wanted["endpoints"]
        and (found.get("ports") or []) == wanted["ports"]
    )


_MAPPINGS = ("labels", "annotations")


def holds(found: Slice | None) -> bool:
    """Whether a slice has an endpoint."""
    return bool(found and found.get("endpoints"))


def of_another_service(found: Slice, resource: Resource) -> bool:
    """Whether a slice was made for another Service than the election names now.

    Such a slice must be deleted. Changing its label is not enough, because kube-proxy does not look
    at the label's previous value.
    """
    labels = found["metadata"].get("labels") or {}
    return bool(labels.get(SERVICE_NAME) != resource.service)


def _ports(service: Service, pod: Pod) -> Iterator[dict[str, Any]]:
    for port in service.ports:
        number = _target(port, pod)
        if number is None:
            continue
        found = {"name": port.name, "protocol": port.protocol, "port": number}
        if port.application is not None:
            found["appProtocol"] = port.application
        yield found


def _target(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.target, int):
        return port.target
    named = {(name, protocol): number for name, protocol, number in reversed(pod.ports)}
    return named.get((port.target, port.protocol))


def _family(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}" if address else ""
