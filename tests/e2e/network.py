"""Network namespaces for control planes and nodes, joined by a bridge in our own namespace.

Taking the link of one down is a real partition: packets vanish, and nobody is told.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "machines"
OURS = "172.30.0.1"
"""The address of who runs all this; what has to outlive a cluster listens there."""
NATS = "172.30.0.2"
"""Another one of ours, for a NATS server, so that the way to it alone can be cut."""
_PREFIX = 24
_PRIVATE = (
    "/run/netns",
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
)
"""Folders that tools write into whatever they are told; ours vanish with us."""


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one address, as a machine has it."""

    name: str
    address: str

    @property
    def enter(self) -> list[str]:
        """What a command begins with to run in it.

        Not `ip netns exec`, which mounts a fresh /sys: the kubelet would not find its cgroups.
        """
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    def run(self, *command: str) -> None:
        """Run a command in it, and wait."""
        run(*self.enter, *command)

    def remove(self) -> None:
        """Undo `add_host`."""
        run("ip", "link", "delete", self.name)
        run("ip", "netns", "delete", self.name)

    def pull_link(self) -> None:
        """Cut it off from everything else."""
        run("ip", "link", "set", self.name, "down")

    def mend_link(self) -> None:
        """Undo `pull_link`."""
        run("ip", "link", "set", self.name, "up")

    def drop(self, address: str) -> None:
        """Swallow what is sent to an address, from it and from what is routed through it."""
        self.run("ip", "route", "add", "blackhole", f"{address}/32")

    def pass_on(self, address: str) -> None:
        """Undo `drop`."""
        self.run("ip", "route", "del", "blackhole", f"{address}/32")


def lay() -> None:
    """Make the bridge; our own namespaces, of network and of mounts, have to be new ones."""
    for folder in _PRIVATE:
        Path(folder).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    for address in (OURS, NATS):
        run("ip", "address", "add", f"{address}/{_PREFIX}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    run("sysctl", "--quiet", "net.ipv4.ip_forward=1")


def add_host(name: str, number: int) -> Host:
    """Make a namespace with the address that has this number."""
    host = Host(name, f"{OURS.rpartition('.')[0]}.{number}")
    run("ip", "netns", "add", name)
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "link", "set", name, "master", BRIDGE, "up")
    host.run("ip", "link", "set", "lo", "up")
    host.run("ip", "address", "add", f"{host.address}/{_PREFIX}", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    # The addresses of Services are nowhere: who asks for one needs a route before it is rewritten.
    host.run("ip", "route", "add", "default", "via", OURS)
    host.run("sysctl", "--quiet", "net.ipv4.ip_forward=1")
    return host


def run(*command: str) -> str:
    """Run a command of the machine, and return what it printed.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
