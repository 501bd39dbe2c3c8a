"""The parts of Kubernetes objects that the operator uses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a pod that an election looks at."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    phase: str = "Running"
    ready: bool = True
    terminating: bool = False
    node: str = ""
    hostname: str = ""
    """The host name that its processes see, if that is not the pod's name."""
    domain: str = ""
    """The part of its DNS name after the host name, `<subdomain>.<namespace>.svc`; empty if it has
    no DNS name. The cluster's domain, which follows in the DNS name, is unknown here."""
    ip: str = ""
    ips: tuple[str, ...] = ()
    """All its addresses, of both families; the first one is `ip`."""
    ports: tuple[tuple[str, str, int], ...] = ()
    """The named ports of its containers: name, protocol, number."""
    created: str = ""
    """`metadata.creationTimestamp`, RFC 3339."""


@dataclass(frozen=True, slots=True, order=True)
class ElectionKey:
    """The namespace and name of a `LeaderElection`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"
