"""A whole cluster: control plane, DNS and nodes, each in a network namespace of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Self

from controlplane.build import node_programs
from controlplane.kube import Kube, has_condition
from controlplane.processes import Process, http_status
from controlplane.servers import ControlPlane
from e2e.network import add_host, run
from e2e.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIMEOUT = 60
_READY_PORT = 8181
_DNS = """
.:53 {{
    bind {address}
    errors
    ready {address}:{port}
    kubernetes cluster.local {{
        endpoint {url}
        kubeconfig {kubeconfig}
    }}
}}
"""


class Cluster:
    """Runs one cluster; use it as an asynchronous context manager.

    Args:
        name: of the cluster; those of its nodes begin with it. Short, for links have names of 15
            characters.
        number: from 1; clusters with different ones can run side by side.
        folder: for everything that they keep.
        images: archives that all nodes get.
        nodes: how many.
    """

    def __init__(
        self, name: str, number: int, folder: Path, *, images: Sequence[Path], nodes: int
    ) -> None:
        self._images = images
        self.host = add_host(name, 10 * number)
        address, enter = self.host.address, self.host.enter
        self.control_plane = ControlPlane(
            folder, name=name, address=address, enter=enter, nodes=True
        )
        self.site = self.control_plane.site
        self.kube = Kube(self.site)
        Path(self.site.folder).mkdir(parents=True)
        self._corefile = folder / name / "Corefile"
        self._dns = Process(
            [*enter, node_programs()["coredns"], f"-conf={self._corefile}"],
            name="coredns",
            folder=folder / name,
        )
        self.nodes = [
            Node(
                add_host(f"{name}-{each}", 10 * number + each),
                folder / f"{name}-{each}",
                pods=f"10.{number}.{each}.0/24",
                site=self.site,
                dns=address,
            )
            for each in range(1, nodes + 1)
        ]
        hosts = [self.host, *(node.host for node in self.nodes)]
        for node in self.nodes:
            route = ("ip", "route", "replace", node.pods, "via", node.host.address)
            run(*route)
            for host in hosts:
                if host is not node.host:
                    host.run(*route)

    def node(self, name: str) -> Node:
        """Return the node with this name."""
        return next(node for node in self.nodes if node.name == name)

    async def __aenter__(self) -> Self:
        """Start it, and wait until its nodes are Ready."""
        try:
            await self.start()
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self.kube.__aexit__()
        self.leave()

    async def start(self) -> None:
        """Start it, and wait until its nodes are Ready."""
        await self.control_plane.start()
        await self.kube.__aenter__()
        self._corefile.write_text(
            _DNS.format(
                address=self.host.address,
                port=_READY_PORT,
                url=self.site.url,
                kubeconfig=self.site.kubeconfig,
            )
        )
        self._dns.start()
        await asyncio.gather(*(node.start(self._images) for node in self.nodes))

        async def ready() -> bool:
            return await http_status(f"http://{self.host.address}:{_READY_PORT}/ready") == 200

        await self._dns.wait_until(ready, timeout=_START_TIMEOUT)
        for node in self.nodes:
            await self.until_ready(node)

    async def until_ready(self, node: Node) -> None:
        """Wait until a node is Ready."""
        path = f"/api/v1/nodes/{node.name}"
        await self.kube.until(path, lambda found: has_condition(found, "Ready"), timeout=60)

    def stop(self) -> None:
        """End everything at once: the whole cluster is lost, with all that it runs."""
        for node in self.nodes:
            node.reset()
        self._dns.kill()
        self.control_plane.kill()

    def leave(self) -> None:
        """The same, and nothing of it stays in the kernel."""
        self.stop()
        for node in self.nodes:
            node.remove()
            node.host.remove()
        self.host.remove()
