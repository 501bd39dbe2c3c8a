"""The sources of the access data of an API server. No other module imports `kubernetes`.

`kubernetes.aio` reads kubeconfigs, runs exec plugins and finds the service account of a pod. A
`Route` holds the part of these data that requests need.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import incluster_config
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from incumbent.errors import ConfigurationError

__all__ = ["Configuration", "Overrides", "find_source"]

SERVICE_ACCOUNT_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""The file in which a pod finds the name of its namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Values that replace those of a kubeconfig. They are named as kubectl's flags.

    If a program passes overrides, even empty ones, the `as`, `as-groups` and `as-uid` of the
    kubeconfig count, too, as in kubectl. The operator passes none, because kopf does not support
    impersonation.
    """

    cluster: str = ""
    user: str = ""
    server: str = ""
    token: str = field(default="", repr=False)
    certificate_authority: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    as_uid: str = ""


class Source(Protocol):
    """A source of the access data of an API server."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files from which the data are read, without certificates."""
        ...

    @property
    def namespace(self) -> str | None:
        """The namespace of the context or the pod; None before `load`, or if there is none."""
        ...

    async def load(self) -> Configuration:
        """Read the access data. A broken file can cause any exception."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """Access data that do not change, except for the content of certificate files."""

    configuration: Configuration
    files: tuple[str, ...] = ()
    namespace: str | None = None

    async def load(self) -> Configuration:
        """Return the given access data."""
        return self.configuration


class Kubeconfig:
    """The access data in a context of kubeconfig files."""

    def __init__(self, files: str, context: str | None, overrides: Overrides | None) -> None:
        self._joined, self._context, self._overrides = files, context, overrides
        self._loader: KubeConfigLoader | None = None
        self._read: Stamps = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The kubeconfig files."""
        return tuple(self._joined.split(os.pathsep))

    async def load(self) -> Configuration:
        """Read the files if they have changed, and renew the token.

        An exec plugin runs again only if its token expires within 5 minutes, or has no time of
        expiry.
        """
        overrides, read = self._overrides, stamps_of(self.files)
        if self._loader is None or read != self._read:
            loader = kubeconfig_loader(self._joined, self._context, overrides or Overrides())
            self._loader, self._read = loader, read
        configuration = Configuration()
        await self._loader.load_and_set(configuration)
        if overrides:
            override(configuration, overrides, impersonation_from(self._loader))
        return configuration

    @property
    def namespace(self) -> str | None:
        """The namespace of the context; None before `load`, or if the context names none."""
        context = self._loader.current_context["context"] if self._loader else {}
        namespace: str | None = context.get("namespace")
        return namespace


class ServiceAccount:
    """The access data of a pod."""

    def __init__(self, overrides: Overrides | None) -> None:
        self._overrides = overrides

    @property
    def files(self) -> tuple[str, ...]:
        """The file of the token."""
        return (incluster_config.SERVICE_TOKEN_FILENAME,)

    async def load(self) -> Configuration:
        """Read the token and the name of the CA's file."""
        configuration = Configuration()
        config.load_incluster_config(client_configuration=configuration, try_refresh_token=False)
        configuration.api_key["BearerToken"] = configuration.api_key["BearerToken"].strip()
        if self._overrides:
            override(configuration, self._overrides)
        return configuration

    @property
    def namespace(self) -> str | None:
        """The namespace of the pod."""
        file = Path(SERVICE_ACCOUNT_NAMESPACE)
        return file.read_text().strip() if file.is_file() else None


Stamps = tuple[tuple[str, int, int, int] | tuple[str], ...]
"""Name, inode, time and size of files, to detect changes; only the name if a file is missing."""


def stamps_of(files: Iterable[str | None]) -> Stamps:
    """Return stamps that differ after one of these files was written or replaced."""
    return tuple(map(_stamp, filter(None, files)))


def _stamp(file: str) -> tuple[str, int, int, int] | tuple[str]:
    try:
        found = Path(file).stat()
    except OSError:
        return (file,)
    return file, found.st_ino, found.st_mtime_ns, found.st_size


async def find_source(
    kubeconfig: str | None, context: str | None, overrides: Overrides | None
) -> tuple[Source, Configuration]:
    """Return the source of the access data, found as kubectl does, and the data.

    Raises:
        ConfigurationError: the file or context does not exist or is broken, or there is no source.
    """
    # Pass the files explicitly, because the library reads KUBECONFIG only on its import.
    files = kubeconfig_files(kubeconfig)
    source: Source
    if files:
        source = Kubeconfig(files, context, overrides)
        wanted = f"the context {context}" if context else "its current context"
        broken = f"The kubeconfig {files} is of no use with {wanted}: %s; correct it"
    elif kubeconfig or context:
        msg = (
            f"The kubeconfig {kubeconfig} does not exist: correct the path"
            if kubeconfig
            else f"There is no kubeconfig to take the context {context} from: name one"
        )
        raise ConfigurationError(msg)
    elif overrides and overrides.server:
        configuration = Configuration()
        override(configuration, overrides)
        source, broken = Given(configuration), "%s"
    else:
        source = ServiceAccount(overrides)
        broken = (
            "No access to Kubernetes is configured: "
            "set KUBECONFIG, or run in a pod with a service account (%s)"
        )
    try:
        configuration = await source.load()
    except Exception as error:  # a broken file can cause any exception
        raise ConfigurationError(broken % error) from error
    return source, configuration


def kubeconfig_loader(files: str, context: str | None, overrides: Overrides) -> KubeConfigLoader:
    """Return a loader for a context, with the cluster and the user of `overrides` if given.

    Raises:
        ConfigException: there is no such context, cluster or user.
    """
    merged = KubeConfigMerger(files).config
    name = context or merged.safe_get("current-context")
    parts = merged["contexts"].get_with_name(name)["context"].value if name else {}
    if overrides.cluster:
        parts = {**parts, "cluster": overrides.cluster}
    if overrides.user:
        parts = {**parts, "user": overrides.user}
    if parts.get("user"):
        merged["users"].get_with_name(parts["user"])  # raises if it is missing
    if overrides.cluster or overrides.user:
        context = "the one that the flags describe"
        merged.value["contexts"].append({"name": context, "context": parts})
    return KubeConfigLoader(merged, active_context=context, config_base_path=None)


def impersonation_from(loader: KubeConfigLoader) -> Overrides:
    """Return the impersonation that a kubeconfig's user asks for."""
    node = loader._user  # noqa: SLF001  # the library ignores these fields
    user = getattr(node, "value", node) or {}
    return Overrides(
        as_user=user.get("as", ""),
        as_groups=tuple(user.get("as-groups") or ()),
        as_uid=user.get("as-uid", ""),
    )


def override(
    configuration: Configuration, asked: Overrides, usual: Overrides | None = None
) -> None:
    """Write `asked` into a configuration; `usual` has the impersonation if `asked` has none."""
    if asked.server:
        url = asked.server if "://" in asked.server else f"https://{asked.server}"
        configuration.host = url.rstrip("/")
    if asked.certificate_authority:
        configuration.ssl_ca_cert = asked.certificate_authority
    if asked.insecure_skip_tls_verify:
        configuration.verify_ssl = False
    if asked.tls_server_name:
        configuration.tls_server_name = asked.tls_server_name
    if asked.token:
        configuration.api_key["BearerToken"] = f"Bearer {asked.token}"
    actor = asked if asked.as_user or usual is None else usual
    if actor.as_user:
        headers = [("Impersonate-User", actor.as_user)]
        headers += [("Impersonate-Group", group) for group in actor.as_groups]
        headers += [("Impersonate-Uid", actor.as_uid)] if actor.as_uid else []
        configuration.client_session_kwargs = {"headers": headers}


def kubeconfig_files(kubeconfig: str | None) -> str:
    """Return the existing files that kubectl would read, joined as in KUBECONFIG."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = (Path(name).expanduser() for name in named.split(os.pathsep) if name)
    return os.pathsep.join(str(file) for file in files if file.is_file())
