"""Where the access to an API server comes from: the only module that imports `kubernetes`.

`kubernetes.aio` reads kubeconfigs, runs exec plugins and finds the service account of a pod. A
`Route` is what requests need of that.
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
"""Where a pod finds the name of its namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What a person asks for instead of what a kubeconfig says: kubectl's flags of these names.

    With one of these, a kubeconfig's own `as`, `as-groups` and `as-uid` are heeded, too, as kubectl
    does; kopf knows nothing of them, so the operator goes without.
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
    """Where the access to an API server is described."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is read from, beside certificates."""
        ...

    @property
    def namespace(self) -> str | None:
        """The namespace of the context or the pod; None before it was read, or without one."""
        ...

    async def load(self) -> Configuration:
        """Read the access. Raises whatever a broken file leads to."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """An access that does not change, but for the content of its certificates' files."""

    configuration: Configuration
    files: tuple[str, ...] = ()
    namespace: str | None = None

    async def load(self) -> Configuration:
        """Return it."""
        return self.configuration


class Kubeconfig:
    """The access in a context of kubeconfig files."""

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

        An exec plugin runs again only when its token expires within 5 minutes, or names no time of
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
        """The namespace of the context; None before it was read, or if it has none."""
        context = self._loader.current_context["context"] if self._loader else {}
        namespace: str | None = context.get("namespace")
        return namespace


class ServiceAccount:
    """The access of a pod."""

    def __init__(self, overrides: Overrides | None) -> None:
        self._overrides = overrides

    @property
    def files(self) -> tuple[str, ...]:
        """The token's file."""
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
"""What tells whether files have changed."""


def stamps_of(files: Iterable[str | None]) -> Stamps:
    """Return what is different after one of these files was written or replaced."""
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
    """Return where the access is described, as kubectl finds it, and the access.

    Raises:
        ConfigurationError: there is no such file or context, it is broken, or there is nothing.
    """
    # Given explicitly, for the library reads KUBECONFIG only once: when it is imported.
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
    except Exception as error:  # for a broken file the library raises whatever comes
        raise ConfigurationError(broken % error) from error
    return source, configuration


def kubeconfig_loader(files: str, context: str | None, overrides: Overrides) -> KubeConfigLoader:
    """Return what reads a context, with another cluster or user in it if that is asked for.

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
        merged["users"].get_with_name(parts["user"])  # a missing one would mean: no user
    if overrides.cluster or overrides.user:
        context = "the one that the flags describe"
        merged.value["contexts"].append({"name": context, "context": parts})
    return KubeConfigLoader(merged, active_context=context, config_base_path=None)


def impersonation_from(loader: KubeConfigLoader) -> Overrides:
    """Return as whom a kubeconfig's user wants to act."""
    node = loader._user  # noqa: SLF001  # the library does not know of this
    user = getattr(node, "value", node) or {}
    return Overrides(
        as_user=user.get("as", ""),
        as_groups=tuple(user.get("as-groups") or ()),
        as_uid=user.get("as-uid", ""),
    )


def override(
    configuration: Configuration, asked: Overrides, usual: Overrides | None = None
) -> None:
    """Put what is asked for in the place of what was found; `usual` says as whom to act else."""
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
    """Return which of the kubeconfigs that kubectl would read exist, joined as in KUBECONFIG."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = (Path(name).expanduser() for name in named.split(os.pathsep) if name)
    return os.pathsep.join(str(file) for file in files if file.is_file())
