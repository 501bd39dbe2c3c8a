"""The way to a Kubernetes API server, and the only module that imports `kubernetes`.

`kubernetes.aio` finds the access (kubeconfig, exec plugins, service account) and sends requests.
What they are about is said in `incumbent.cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from incumbent import clock
from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterError,
    ClusterUnreachable,
    ConfigurationError,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
    Unconnected,
)

CONNECT_TIMEOUT = 2.0
"""Seconds for a TCP connection: one lost SYN is sent again after 1 s."""

KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""TCP keep-alive of watches: a peer or a path that is gone is noticed after 30 s. An
answering proxy in front of a dead API server is what `incumbent.cluster.SILENCE` is for."""

REFRESH = 60.0
"""Seconds after which a token from a kubeconfig is looked at again, as in-cluster ones are. An exec
plugin runs again only when its token expires within 5 minutes, or names no time of expiry."""

SERVICE_ACCOUNT_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""Where a pod finds the name of its namespace."""

CLIENT_ERRORS = range(400, 500)

LACKS_RIGHT = re.compile(r'(\S+ ("[^"]*" )?is )?forbidden: User "')
"""How the message of an API server's 403 begins if an authorizer (RBAC, a cloud's IAM) refused.
The rest of `Status` is the same as for a 403 of an admission plugin (`forbiddenMessage` in
apiserver/pkg/endpoints/handlers/responsewriters/errors.go)."""

DENIED = re.compile(
    r'admission webhook "[^"]*" denied the request'
    r'|\S+ ("[^"]*" )?is forbidden: (?!User ")'
)
"""How the message begins if an admission plugin refused. Policies and webhooks choose the status
code themselves, 401, 404, 409, 429 or 500 among them, so the code does not tell (`ToStatusErr` in
apiserver/pkg/admission/plugin/webhook/errors/statuserror.go)."""

UNASKED = re.compile(r'Internal error occurred: failed calling webhook "')
"""How the message of a 500 begins if a webhook with `failurePolicy: Fail` did not answer. Admission
comes before the write, so nothing was written (`errCallingWebhook` in the same package)."""

JSON = "application/json"


class Expired(ClusterUnreachable):
    """The API server no longer knows the resourceVersion to go on from (410): list again."""


class UnknownKind(NotFound):
    """The API server serves nothing at this path: the kind is not installed."""


class Overloaded(ClusterUnreachable):
    """The API server asks to wait for `retry_after` seconds (429 or 5xx with Retry-After)."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server. The fields are named as in `kopf.ConnectionInfo`.

    The token is the one of now. It may expire, so ask `Connection.access` at each login.
    """

    server: str
    ca_path: str | None = None
    insecure: bool = False
    scheme: str | None = None
    """What stands before the token in the header `Authorization`."""
    token: str | None = field(default=None, repr=False)
    certificate_path: str | None = None
    private_key_path: str | None = None
    proxy_url: str | None = None
    default_namespace: str | None = None


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


class Connection:
    """How one API server is reached, and as whom.

    Nothing is sent before the first request, and it may be made while the API server is away.
    Nothing is retried.
    """

    def __init__(
        self, configuration: Configuration, *, default_namespace: str | None = None
    ) -> None:
        # Watches would use up any limit, and requests have their own.
        configuration.connection_pool_maxsize = 0
        # With trust_env, aiohttp looks for a proxy and a .netrc in two threads for each request.
        configuration.client_session_kwargs = {
            "trust_env": False,
            **(configuration.client_session_kwargs or {}),
        }
        configuration.proxy = configuration.proxy or proxy_for(configuration.host)
        self.default_namespace = default_namespace
        """That of the context, or of the pod that this runs in."""
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._api.user_agent = "incumbent"

    @classmethod
    async def find(
        cls,
        kubeconfig: str | None = None,
        *,
        context: str | None = None,
        overrides: Overrides | None = None,
    ) -> Self:
        """Find it as kubectl does, without asking the API server anything.

        In this order: `kubeconfig`, the variable KUBECONFIG (each may list several files),
        ~/.kube/config, the service account of the pod. A kubeconfig is read, never written.
        Tokens are renewed (from their file, by exec plugins), client certificates are not.
        `overrides` count more than any of these; with a server among them no kubeconfig is needed.

        Raises:
            ConfigurationError: there is no such file or context, it is broken, or there is nothing.
        """
        configuration = Configuration()
        # Given explicitly, for the library reads KUBECONFIG only once: when it is imported.
        files = kubeconfig_files(kubeconfig)
        if files:
            namespace = await load_kubeconfig(
                configuration, files=files, context=context, overrides=overrides
            )
        elif kubeconfig or context:
            msg = (
                f"The kubeconfig {kubeconfig} does not exist: correct the path"
                if kubeconfig
                else f"There is no kubeconfig to take the context {context} from: name one"
            )
            raise ConfigurationError(msg)
        elif overrides and overrides.server:
            namespace = None
            override(configuration, overrides)
        else:
            namespace = load_service_account(configuration)
            if overrides:
                override(configuration, overrides)
        try:
            return cls(configuration, default_namespace=namespace)
        except (OSError, ValueError) as error:
            msg = (
                f"The API server {configuration.host} cannot be reached as configured: {error};"
                " correct its address or the certificates"
            )
            raise ConfigurationError(msg) from error

    async def access(self) -> Access:
        """Return how to reach the API server, with a token that is valid now."""
        configuration = self._configuration
        with translated("The token"):
            scheme, _, token = (await self._authorization()).partition(" ")
        return Access(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            proxy_url=configuration.proxy,
            default_namespace=self.default_namespace,
        )

    async def aclose(self) -> None:
        """Close all connections. Whoever still waits for an answer gets `ClusterUnreachable`."""
        await self._api.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return its answer as soon as it begins, if it is a good one.

        Only the TCP connection has a time limit, so call it within one, and within `translated`:
        what breaks on the way comes as aiohttp raises it.

        Args:
            method: of the request.
            path: of the request.
            query: of the request.
            body: of the request.
            content_type: of the body.
            accept: what the answer may be.
            silence: seconds without a byte after which the answer is given up; None: never.

        Raises:
            ClusterError: the API server refused, as `error_for` says.
        """
        headers = {"Accept": accept, "Content-Type": content_type}
        if authorization := await self._authorization():
            headers["Authorization"] = authorization
        request = await self._api.param_serialize(
            method, path, query_params=[*(query or {}).items()], header_params=headers, body=body
        )
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        answer = await self._api.call_api(*request, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        if response.ok:
            return response
        async with response:
            content = await response.read()
        raise error_for(
            response.status,
            status_from(content),
            request=f"{method} {path}",
            retry_after=response.headers.get("Retry-After"),
        )

    async def _authorization(self) -> str:
        """Return the header for the token of now, empty without one.

        Not left to `ApiClient`, which renews no token before it has one, so that an exec plugin
        that fails once at the start would never be asked again.
        """
        return await self._configuration.get_api_key_with_prefix("BearerToken") or ""


async def load_kubeconfig(
    configuration: Configuration,
    *,
    files: str,
    context: str | None,
    overrides: Overrides | None = None,
) -> str | None:
    """Take the access from kubeconfigs and keep its token fresh; return the default namespace."""
    try:
        loader = kubeconfig_loader(files, context, overrides or Overrides())
        await loader.load_and_set(configuration)
        if overrides:
            override(configuration, overrides, impersonation_from(loader))
    except Exception as error:  # for a broken file the library raises whatever comes
        wanted = f"the context {context}" if context else "its current context"
        msg = f"The kubeconfig {files} is of no use with {wanted}: {error}; correct it"
        raise ConfigurationError(msg) from error
    refreshed = clock.now()
    turn = asyncio.Lock()

    async def refresh(configuration: Configuration) -> None:
        nonlocal refreshed
        async with turn:
            if clock.now() - refreshed >= REFRESH:
                await loader.load_and_set(configuration)
                if overrides:
                    override(configuration, overrides, impersonation_from(loader))
                refreshed = clock.now()

    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]
    namespace: str | None = loader.current_context["context"].get("namespace")
    return namespace


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


def load_service_account(configuration: Configuration) -> str | None:
    """Take the access from the pod's service account; return the pod's namespace.

    The library reads the token's file again every minute.
    """
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        msg = (
            "No access to Kubernetes is configured: "
            f"set KUBECONFIG, or run in a pod with a service account ({error})"
        )
        raise ConfigurationError(msg) from error
    namespace = Path(SERVICE_ACCOUNT_NAMESPACE)
    return namespace.read_text().strip() if namespace.is_file() else None


def kubeconfig_files(kubeconfig: str | None) -> str:
    """Return which of the kubeconfigs that kubectl would read exist, joined as in KUBECONFIG."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = (Path(name).expanduser() for name in named.split(os.pathsep) if name)
    return os.pathsep.join(str(file) for file in files if file.is_file())


def proxy_for(server: str) -> str | None:
    """Return the proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY)."""
    url = urllib.parse.urlsplit(server)
    if urllib.request.proxy_bypass(url.hostname or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)


@contextlib.contextmanager
def translated(request: str) -> Iterator[None]:
    """Turn whatever breaks on the way to the API server and back into `ClusterUnreachable`."""
    try:
        yield
    except TimeoutError as error:
        msg = f"The API server did not answer in time: {request}"
        raise ClusterUnreachable(msg) from error
    except aiohttp.ClientConnectorError as error:
        msg = f"The API server cannot be reached: {request}: {error}"
        raise Unconnected(msg) from error
    except (aiohttp.ClientError, OSError, config.ConfigException, ValueError) as error:
        msg = f"The API server gave no answer that counts: {request}: {error}"
        raise ClusterUnreachable(msg) from error


def keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find out when nobody is left at the other end of a connection."""
    transport = response.connection and response.connection.transport
    link = transport and transport.get_extra_info("socket")
    if not link:  # an answer that has ended already
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not everywhere
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def drop(response: aiohttp.ClientResponse) -> None:
    """Close a connection at once, where TLS would wait for the other end, beyond our own end."""
    transport = response.connection and response.connection.transport
    if transport:
        transport.abort()
    response.close()


def status_from(content: bytes) -> dict[str, Any]:
    """Return the `Status` that explains a refusal; of anything else, its beginning as message."""
    with contextlib.suppress(ValueError):
        status = json.loads(content)
        if isinstance(status, dict):
            return status
    return {"message": content[:200].decode(errors="replace").strip()}


def error_for(
    code: int, status: Mapping[str, Any], *, request: str, retry_after: str | None = None
) -> ClusterError:
    """Return the error for an answer's HTTP status code.

    The text decides only what nothing else in a `Status` tells: whether admission refused.
    """
    text = str(status.get("message") or "no reason given")
    message = f"{text} ({code}, {request})"
    explained = status.get("kind") == "Status"  # by an API server, not by a proxy in front of it
    if explained and DENIED.match(text):
        return AdmissionDenied(f"An admission policy, webhook or quota refuses this: {message}")
    match code:
        case 403 if explained and not LACKS_RIGHT.match(text):
            return AdmissionDenied(f"An admission policy, webhook or quota refuses this: {message}")
        case 500 if explained and UNASKED.match(text):
            return AdmissionUnavailable(f"An admission webhook does not answer: {message}")
        case 401:
            return Forbidden(f"The API server does not accept the credentials: {message}")
        case 403:
            return Forbidden(f"A right is missing: {message}")
        case 404 if "details" not in status:
            # A missing object is explained by a Status with details, a missing kind is not.
            return UnknownKind(
                f"The API server serves no such path: {message}; is it the right one, and is the "
                "CustomResourceDefinition of LeaderElection installed?"
            )
        case 404:
            return NotFound(f"There is no such object: {message}")
        case 409:
            return Conflict(f"The object changed in the meantime: {message}")
        case 410:
            return Expired(f"The resourceVersion is too old: {message}")
        case _ if code in CLIENT_ERRORS and code not in {408, 429}:
            return Refused(f"The API server refuses this for good: {message}")
        case _ if retry_after and retry_after.isdecimal():
            return Overloaded(f"The API server asks to wait: {message}", float(retry_after))
        case _:
            return ClusterUnreachable(f"The API server failed: {message}")
