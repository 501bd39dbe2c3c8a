"""The processes of a site: etcd, kube-apiserver, kube-controller-manager, kube-scheduler."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from controlplane.build import programs
from controlplane.processes import Process, Startable, free_port, http_status
from controlplane.sites import Site

LOOPBACK = "127.0.0.1"
AWAY_AFTER = 10
"""Seconds; instead of 50 for a node, and 300 for its pods."""
_START_TIMEOUT = 60
_COMPONENTS = ("kube-controller-manager", "kube-scheduler")
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": [*_COMPONENTS, "node-agent", "system:apiserver"]},
        {"level": "Metadata"},
    ],
}
# They act on nodes without a kubelet, or on pods of such nodes, as those of our node agent are.
_NEED_KUBELETS = (
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
)


class Etcd:
    """One etcd that does not sync its disk: fast, and lost with the machine.

    Args:
        folder: for its data and its log.
        address: where it listens.
        enter: what its command begins with, to run in a namespace that has the address.
    """

    def __init__(self, folder: Path, *, address: str = LOOPBACK, enter: Sequence[str] = ()) -> None:
        self.url = f"http://{address}:{free_port()}"
        self.data = folder / "etcd"
        peer = f"http://{address}:{free_port()}"
        self.process = Process(
            [
                *enter,
                programs()["etcd"],
                "--name=etcd",
                f"--data-dir={self.data}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=etcd={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            name="etcd",
            folder=folder,
        )

    async def start(self) -> None:
        """Start it, and wait until it answers."""

        async def ready() -> bool:
            return await http_status(f"{self.url}/health") == 200

        self.process.start()
        await self.process.wait_until(ready, timeout=_START_TIMEOUT)


class ControlPlane(Startable):
    """Runs one site. It is up about 5 s after `start`, without any node.

    Args:
        folder: for certificates, kubeconfig files, logs and data; made if it does not exist.
        name: the site's name. Sites on one etcd need different ones.
        etcd: of another control plane, to run a second site on it; an own one by default.
        controllers: whether controller-manager and scheduler run; without them there are no
            Deployments, no default service accounts (so no pods that do not name another one),
            and no EndpointSlices.
        address: where everything listens.
        enter: what commands begin with, to run in a namespace that has the address.
        nodes: whether nodes have kubelets. Then the controllers that need them run, too, nodes and
            pods of nodes that fell silent count as away after `AWAY_AFTER` seconds each, and pods
            find the API server at its Service.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "site",
        etcd: Etcd | None = None,
        controllers: bool = True,
        address: str = LOOPBACK,
        enter: Sequence[str] = (),
        nodes: bool = False,
    ) -> None:
        self._programs = programs()
        self._folder = folder / name
        self._address = address
        self._enter = enter
        self._nodes = nodes
        self._owns_etcd = etcd is None
        self.etcd = etcd or Etcd(self._folder, address=address, enter=enter)
        users = ("admin", "operator", "node-agent", *_COMPONENTS)
        self.site = Site(
            name=name,
            url=f"https://{address}:{free_port()}",
            folder=str(self._folder),
            ca=str(self._folder / "certificates" / "apiserver.crt"),
            tokens={user: secrets.token_hex(16) for user in users},
            kubectl=str(self._programs["kubectl"]),
        )
        self.api_server = self._api_server()
        self.controllers = [self._controller(name) for name in _COMPONENTS] if controllers else []

    async def start(self) -> None:
        """Start everything, and wait until it answers."""
        self._write_files()
        if self._owns_etcd:
            await self.etcd.start()
        await self._start_rest()

    async def _start_rest(self) -> None:
        """Start what needs etcd."""
        await self.start_api_server()
        for process, port in self.controllers:
            process.start()

            async def healthy(port: int = port) -> bool:
                url = f"https://{self._address}:{port}/healthz"
                return await http_status(url, verify=False) == 200

            await process.wait_until(healthy, timeout=_START_TIMEOUT)

    async def start_api_server(self) -> None:
        """Start the API server alone, and wait until it is ready."""

        async def ready() -> bool:
            # Unverified, for its certificate is there only a moment after its start.
            url, token = f"{self.site.url}/readyz", self.site.tokens["admin"]
            return await http_status(url, verify=False, token=token) == 200

        self.api_server.start()
        await self.api_server.wait_until(ready, timeout=_START_TIMEOUT)

    async def back_up(self) -> Path:
        """Copy the data of etcd, which is away meanwhile, and return the copy."""
        self.etcd.process.kill()
        copy = self._folder / "backup"
        shutil.copytree(self.etcd.data, copy)
        await self.etcd.start()
        await self.start_api_server()  # it runs, and is ready again
        return copy

    async def restore(self, copy: Path) -> None:
        """Put a backup of etcd back, and start everything anew, as Kubernetes advises."""
        self.kill()
        shutil.rmtree(self.etcd.data)
        shutil.copytree(copy, self.etcd.data)
        await self.etcd.start()
        await self._start_rest()

    async def renew_certificate(self) -> None:
        """Start the API server anew, with a certificate that another authority has signed."""
        self.kill_api_server()
        shutil.rmtree(Path(self.site.ca).parent)
        await self.start_api_server()

    def kill_api_server(self) -> None:
        """End the API server alone; the controllers wait for it, etcd keeps everything."""
        self.api_server.kill()

    def kill(self) -> None:
        """End everything at once."""
        for process, _ in reversed(self.controllers):
            process.kill()
        self.api_server.kill()
        if self._owns_etcd:
            self.etcd.process.kill()

    def _write_files(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file("audit-policy.yaml", yaml.safe_dump(_AUDIT_POLICY))
        self._file("audit.log", "")
        self._file("service-accounts.key", _private_key())
        self._file(
            "tokens.csv",
            "".join(
                f"{token},{user},{user},system:masters\n"
                for user, token in self.site.tokens.items()
            ),
        )

        for user in self.site.tokens:
            self.site.kubeconfig_for(user)

    def _file(self, name: str, content: str) -> None:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(content)

    def _api_server(self) -> Process:
        folder = self._folder
        away = [
            f"--default-{taint}-toleration-seconds={AWAY_AFTER}"
            for taint in ("not-ready", "unreachable")
        ]
        return Process(
            [
                *self._enter,
                self._programs["kube-apiserver"],
                f"--etcd-servers={self.etcd.url}",
                f"--etcd-prefix=/{self.site.name}",
                f"--bind-address={self._address}",
                f"--advertise-address={self._address}",
                f"--secure-port={self.site.url.rpartition(':')[2]}",
                f"--cert-dir={folder / 'certificates'}",
                *(away if self._nodes else ["--endpoint-reconciler-type=none"]),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'service-accounts.key'}",
                f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
                f"--audit-policy-file={folder / 'audit-policy.yaml'}",
                f"--audit-log-path={folder / 'audit.log'}",
                "--audit-log-maxsize=10000",
            ],
            name="kube-apiserver",
            folder=folder,
        )

    def _controller(self, name: str) -> tuple[Process, int]:
        port = free_port()
        arguments = [
            *self._enter,
            str(self._programs[name]),
            f"--kubeconfig={self._folder / f'{name}.kubeconfig'}",
            "--leader-elect=false",
            f"--bind-address={self._address}",
            f"--secure-port={port}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        if name == "kube-controller-manager":
            without = ",".join(f"-{controller}" for controller in _NEED_KUBELETS)
            grace = [f"--node-monitor-grace-period={AWAY_AFTER}s", "--node-monitor-period=1s"]
            arguments += [
                *(grace if self._nodes else [f"--controllers=*,{without}"]),
                f"--root-ca-file={self.site.ca}",
                f"--service-account-private-key-file={self._folder / 'service-accounts.key'}",
            ]
        return Process(arguments, name=name, folder=self._folder), port


def _private_key() -> str:
    """Return a new private key on the curve P-256, as PEM: RFC 5915 without the public key."""
    number = bytes([0x7F & secrets.randbits(8)]) + secrets.token_bytes(31)
    start, end = "30310201010420", "a00a06082a8648ce3d030107"
    der = bytes.fromhex(start) + number + bytes.fromhex(end)
    encoded = base64.b64encode(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{encoded}\n-----END EC PRIVATE KEY-----\n"
