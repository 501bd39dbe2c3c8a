"""Containers as processes of this machine, for a `NodeAgent`: those whose image is a program here.

What such a process sees is what its container would see, by other paths and ports: its arguments
and environment, the files of its volumes, the token of its service account (as a kubeconfig), its
ports, and Services of other such pods by their names. Nothing isolates it, and it is no other user.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.kube import ApiError, Kube
from controlplane.processes import Process, free_port, http_status

_SERVICE = re.compile(r"\b([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?:(\d+)\b")
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
"""A variable in the value of a later one, as Kubernetes expands it."""
_POLL = 0.1
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Image:
    """What stands here for an image: its entry point, and more of its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(slots=True)
class Program:
    """The running process of a pod's container."""

    pod: Mapping[str, Any]
    container: Mapping[str, Any]
    process: Process
    ports: Mapping[int, int]
    """Where the ports of the container are."""

    async def ready(self) -> bool:
        """Whether it runs and its readiness probe succeeds; only `httpGet` is understood."""
        probe = self.container.get("readinessProbe", {}).get("httpGet")
        if not probe or not self.process.running:
            return self.process.running
        port = self.ports[port_number(self.container, probe["port"])]
        return await http_status(f"http://127.0.0.1:{port}{probe['path']}") == 200


class Containers:
    """Starts and ends the programs of pods.

    Args:
        folder: for logs, volumes and kubeconfigs.
        images: by repository, without the tag. Other containers are none of its business.
    """

    def __init__(self, folder: Path, images: Mapping[str, Image]) -> None:
        self._folder = folder
        self._images = images
        self._programs: dict[str, Program] = {}
        self._ports: dict[tuple[str, str, int], int] = {}

    def container_of(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the container of a pod that is a program here."""
        for container in pod["spec"]["containers"]:
            if _repository(container) in self._images:
                found: Mapping[str, Any] = container
                return found
        return None

    def port_of(self, namespace: str, name: str, port: int) -> int:
        """Return where a port of the pods of this name is."""
        return self._port({"namespace": namespace, "name": name}, port)

    def log_of(self, namespace: str, name: str) -> str:
        """Return what the program of the latest pod of this name has said."""
        logs = sorted(
            self._folder.glob(f"{namespace}/{name}/*.log"), key=lambda p: p.stat().st_mtime
        )
        return logs[-1].read_text(errors="replace") if logs else ""

    async def start(self, kube: Kube, pod: Mapping[str, Any]) -> Program:
        """Start the program of a pod, as soon as the Services that it names have a pod."""
        container = self.container_of(pod)
        assert container
        about = pod["metadata"]
        folder = self._folder / about["namespace"] / about["name"]
        image = self._images[_repository(container)]
        ports = {
            port["containerPort"]: self._port(about, port["containerPort"])
            for port in container.get("ports", ())
        }
        mounts = await self._mounts(kube, pod, container, folder)
        environment = dict(image.environment)
        if any(mount == _TOKEN_FOLDER for mount, _ in mounts):
            token = await _token(kube, pod)
            user = f"{about['namespace']}-{about['name']}"
            environment["KUBECONFIG"] = str(kube.site.kubeconfig_for(user, token=token))
        for variable in container.get("env", ()):
            value = await _value(kube, pod, variable)
            environment[variable["name"]] = _REFERENCE.sub(
                lambda found: environment.get(found[1], found[0]), value
            )
        command = container.get("command") or ()
        arguments = [
            await self._translate(kube, argument, mounts=mounts, ports=ports)
            for argument in (*command, *container.get("args", ()))
        ]
        arguments = arguments if command else [*image.command, *arguments]
        process = Process(arguments, name=about["uid"], folder=folder, environment=environment)
        process.start()
        program = Program(pod, container, process, ports)
        self._programs[about["uid"]] = program
        return program

    async def stop(self, uid: str, *, timeout: float) -> None:
        """End the program of a pod: SIGTERM, and SIGKILL after `timeout` seconds."""
        if program := self._programs.pop(uid, None):
            await program.process.stop(timeout=timeout)

    def kill(self) -> None:
        """End all at once."""
        while self._programs:
            self._programs.popitem()[1].process.kill()

    def _port(self, about: Mapping[str, Any], port: int) -> int:
        """Return the same port to all pods of a name, as a StatefulSet's come again."""
        return self._ports.setdefault((about["namespace"], about["name"], port), free_port())

    async def _mounts(
        self, kube: Kube, pod: Mapping[str, Any], container: Mapping[str, Any], folder: Path
    ) -> list[tuple[str, Path]]:
        """Fill the volumes, and return the path in the container and here of each."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        mounts = []
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            here = folder / "volumes" / pod["metadata"]["uid"] / mount["name"]
            if claim := volume.get("persistentVolumeClaim"):
                here = await _claimed(kube, pod["metadata"]["namespace"], claim["claimName"])
            here.mkdir(parents=True, exist_ok=True)
            sources = volume.get("projected", {}).get("sources") or [volume]
            for source in sources:
                for name, content in (await _files(kube, pod, source)).items():
                    (here / name).write_bytes(content)
            mounts.append((mount["mountPath"], here))
        return mounts

    async def _translate(
        self,
        kube: Kube,
        argument: str,
        *,
        mounts: list[tuple[str, Path]],
        ports: Mapping[int, int],
    ) -> str:
        """Return an argument with the paths, ports and addresses of this machine."""
        paths = {path: str(here) for path, here in mounts}
        known = "|".join(map(re.escape, sorted(paths, key=len, reverse=True)))
        if known:  # all at once, for what is put in may begin like one of them
            argument = re.sub(
                rf"(?<![\w/])({known})(?=/|$)", lambda found: paths[found[1]], argument
            )
        for port, other in ports.items():
            argument = re.sub(rf"(?<==):{port}$", f"127.0.0.1:{other}", argument)
            argument = re.sub(rf"(?<==){port}$", str(other), argument)
        while match := _SERVICE.search(argument):
            address = await self._address(kube, *match.groups())
            argument = argument[: match.start()] + address + argument[match.end() :]
        return argument

    async def _address(self, kube: Kube, service: str, namespace: str, port: str) -> str:
        """Return where a Service of other programs is, as soon as one of them runs."""
        path = f"/api/v1/namespaces/{namespace}/services/{service}"
        while True:
            found = await _get(kube, path)
            for program in self._programs.values() if found else ():
                about = program.pod["metadata"]
                if about["namespace"] == namespace and (
                    found["spec"]["selector"].items() <= about.get("labels", {}).items()
                ):
                    target = next(
                        p["targetPort"] for p in found["spec"]["ports"] if p["port"] == int(port)
                    )
                    return f"127.0.0.1:{program.ports[port_number(program.container, target)]}"
            await asyncio.sleep(_POLL)


def our_images(python_path: Path) -> dict[str, Image]:
    """Return the images of this repository, by their names in the chart."""
    scripts = Path(sys.executable).parent
    keep = ("HOME", "LANG", "TMPDIR")
    base = {name: os.environ[name] for name in keep if name in os.environ}
    base["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    ours = base | {"PYTHONPATH": str(python_path)}
    return {
        "ghcr.io/incumbent-dev/incumbent": Image((sys.executable, "-m", "incumbent"), ours),
        "ghcr.io/incumbent-dev/incumbent-nats": Image(
            (str(scripts / "nats-server"), "--addr=127.0.0.1"), base
        ),
    }


def port_number(container: Mapping[str, Any], port: str | int) -> int:
    """Return the number of a container's port that may be a name."""
    ports = container.get("ports", ())
    named = {p.get("name"): p["containerPort"] for p in ports}
    return int(named.get(port, port))


async def provide_volume(kube: Kube, name: str, folder: Path) -> None:
    """Create a PersistentVolume in a folder, for the first claim that comes."""
    spec = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder / name)},
    }
    await kube.create("/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})


def _repository(container: Mapping[str, Any]) -> str:
    """Return an image without tag and digest."""
    repository: str = re.sub(r"(:[^/:@]+)?(@.*)?$", "", container["image"])
    return repository


async def _get(kube: Kube, path: str) -> Any:
    try:
        return await kube.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


async def _claimed(kube: Kube, namespace: str, claim: str) -> Path:
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
    volume = (await kube.get(path))["spec"]["volumeName"]
    found = await kube.get(f"/api/v1/persistentvolumes/{volume}")
    return Path(found["spec"]["hostPath"]["path"])


async def _files(kube: Kube, pod: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a volume, or of one source of a projected one."""
    namespace = pod["metadata"]["namespace"]
    if secret := source.get("secret"):
        name = secret.get("name") or secret["secretName"]
        found = await kube.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        data = {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
        return _chosen(data, secret)
    if config := source.get("configMap"):
        found = await kube.get(f"/api/v1/namespaces/{namespace}/configmaps/{config['name']}")
        data = {key: value.encode() for key, value in found.get("data", {}).items()}
        return _chosen(data, config)
    return {}


def _chosen(data: dict[str, bytes], source: Mapping[str, Any]) -> dict[str, bytes]:
    items = source.get("items")
    return {item["path"]: data[item["key"]] for item in items} if items else data


async def _token(kube: Kube, pod: Mapping[str, Any]) -> str:
    """Return a token like the one that the kubelet gives to a pod: it ends with the pod."""
    about, account = pod["metadata"], pod["spec"]["serviceAccountName"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": about["name"], "uid": about["uid"]}
    path = f"/api/v1/namespaces/{about['namespace']}/serviceaccounts/{account}/token"
    answer = await kube.create(path, {"spec": {"boundObjectRef": bound}})
    return str(answer["status"]["token"])


async def _value(kube: Kube, pod: Mapping[str, Any], variable: Mapping[str, Any]) -> str:
    """Return the value of an environment variable; only Secrets are looked into."""
    if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
        namespace = pod["metadata"]["namespace"]
        found = await kube.get(f"/api/v1/namespaces/{namespace}/secrets/{reference['name']}")
        return base64.b64decode(found["data"][reference["key"]]).decode()
    return str(variable.get("value", ""))
