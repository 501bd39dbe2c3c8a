"""A node: containerd, kubelet and kube-proxy in a network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from controlplane.build import node_programs
from controlplane.processes import ControlPlaneError, Process
from e2e.images import PAUSE, SLEEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from controlplane.sites import Site
    from e2e.network import Host

CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "incumbent-e2e"
PLUGINS = "/usr/lib/cni"
_SHARES = {"cpu.shares": "16384", "cpu.weight": "1600"}
"""In version 1 and version 2 of cgroups; 16 times of what others have."""
_START_TIMEOUT = 60
_CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE the score can only be raised, and no sandbox would start.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
"""


class Node:
    """One node of a cluster.

    Args:
        host: where it runs; its name is the node's.
        folder: for everything that it keeps.
        pods: the subnet of its pods.
        site: the cluster.
        dns: the address of the cluster's DNS.
    """

    def __init__(self, host: Host, folder: Path, *, pods: str, site: Site, dns: str) -> None:
        self.host = host
        self.pods = pods
        self._folder = folder
        self._state = folder / "state"
        self._socket = folder / "containerd.sock"
        self._dns = dns
        self._site = site
        programs = node_programs()
        kubeconfig = site.kubeconfig_for("node-agent")
        self.containerd = self._process(
            "containerd", "containerd", f"--config={folder}/containerd.toml"
        )
        self.kubelet = self._process(
            "kubelet",
            programs["kubelet"],
            f"--config={folder}/kubelet.yaml",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={host.name}",
            f"--node-ip={host.address}",
            f"--root-dir={folder}/kubelet",
            f"--cert-dir={folder}/certificates",
        )
        self.kube_proxy = self._process(
            "kube-proxy",
            programs["kube-proxy"],
            "--proxy-mode=nftables",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={host.name}",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.host.name

    async def start(self, images: Sequence[Path]) -> None:
        """Start it for the first time, with these images; it is Ready some seconds later."""
        self._write_files()
        self._cgroups(_make_group)
        await self.boot(images)

    async def boot(self, images: Sequence[Path] = ()) -> None:
        """Start it, also after `reset`, with more images than it has."""
        await self._start_containerd()
        for image in images:
            await self._import(image)
        self.kubelet.start()
        self.kube_proxy.start()

    def reset(self) -> None:
        """End everything on it at once, as the button does; only what is on its disk stays."""
        for process in (self.kubelet, self.kube_proxy, self.containerd):
            process.kill()
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(_mounts_below(self._folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self._state, ignore_errors=True)
        self.host.run("nft", "flush", "ruleset")

    def pids(self, uid: str) -> list[int]:
        """Return the processes of a pod's containers, without that of its sandbox."""
        return [pid for pid in self._pids(uid) if not _command(pid).startswith(SLEEP)]

    def remove(self) -> None:
        """After `reset`, remove what the kernel would keep."""

        def remove(path: Path) -> None:
            for folder in (*sorted(path.rglob("*/"), reverse=True), path, path.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()

        self._cgroups(remove)

    async def _start_containerd(self) -> None:
        async def ready() -> bool:
            return await self._ctr("version") == 0

        self.containerd.start()
        await self.containerd.wait_until(ready, timeout=_START_TIMEOUT)

    async def _import(self, image: Path) -> None:
        if await self._ctr("--namespace=k8s.io", "images", "import", str(image)):
            msg = f"{self.name} cannot import {image}; see {self.containerd.log}."
            raise ControlPlaneError(msg)

    async def _ctr(self, *arguments: str) -> int:
        command = ["ctr", f"--address={self._socket}", *arguments]
        nowhere = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdout=nowhere, stderr=nowhere)
        return await process.wait()

    def _process(self, name: str, program: str | Path, *arguments: str) -> Process:
        command = [*self.host.enter, program, *arguments]
        return Process(command, name=name, folder=self._folder)

    def _write_files(self) -> None:
        (self._folder / "cni").mkdir(parents=True, exist_ok=True)
        (self._folder / "cni" / "pods.conflist").write_text(json.dumps(self._cni()))
        (self._folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet()))
        (self._folder / "containerd.toml").write_text(
            _CONTAINERD.format(
                folder=self._folder,
                state=self._state,
                socket=self._socket,
                pause=PAUSE,
                plugins=PLUGINS,
            )
        )

    def _cni(self) -> dict[str, object]:
        """Return the network of pods.

        Each has a link of its own to the node, and not a bridge: an answer between two pods of a
        bridge would not pass the node, and its address would not be written back.
        """
        ranges = {"ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
        store = {"type": "host-local", "dataDir": str(self._folder / "addresses")}
        return {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipMasq": False, "ipam": store | ranges}],
        }

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.host.address,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "enforceNodeAllocatable": [],
            "resolvConf": "",
            "clusterDNS": [self._dns],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "podLogsDir": str(self._folder / "logs"),
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            # So that a node counts as away after 10 s, with the grace period of the controller.
            "nodeLeaseDurationSeconds": 8,
            "nodeStatusUpdateFrequency": "2s",
        }

    def _pids(self, uid: str = "") -> list[int]:
        """Return all processes of the node's pods, or of one pod, and without one also shims."""
        root = f"/{CGROUP}/{self.name}/"
        found = []
        for process in _processes():
            with contextlib.suppress(OSError):
                groups = (process / "cgroup").read_text()
                if (root in groups and uid in groups) or (
                    not uid and str(self._socket) in _command(int(process.name))
                ):
                    found.append(int(process.name))
        return found

    def _cgroups(self, work: Callable[[Path], None]) -> None:
        for root in (CGROUPS, *CGROUPS.iterdir()):
            if (root / "cgroup.procs").exists() and root.is_mount() and not root.is_symlink():
                work(root / CGROUP / self.name)


def _make_group(path: Path) -> None:
    """Make the group of a node, with more of the processors than control planes have.

    The pods of all nodes would get as much as one process otherwise, and no node shares its
    processors with a control plane.
    """
    path.mkdir(parents=True, exist_ok=True)
    for group in (path.parent, path):
        for file, value in _SHARES.items():
            if (group / file).exists():
                (group / file).write_text(value)


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdecimal())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [path for line in lines if (path := line.split()[1]).startswith(f"{folder}/")]
