"""The way to a Kubernetes API server, and the only module that imports `kubernetes`.

`kubernetes.aio` finds the access (kubeconfig, exec plugins, service account), and aiohttp sends the
requests. What they are about is said in `incumbent.kubernetes.api`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import socket
import ssl
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import incluster_config
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
    Overloaded,
    Refused,
    Unconnected,
    Unsent,
)
from incumbent.kubernetes.proxies import checked, proxy_from
from incumbent.kubernetes.resource import PROGRAM_HEADER
from incumbent.kubernetes.turns import REQUESTS, Turns

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 2.0
"""Seconds for a TCP connection: one lost SYN is sent again after 1 s."""

KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""TCP keep-alive of watches: a peer or a path that is gone is noticed after 30 s. An
answering proxy in front of a dead API server is what `incumbent.kubernetes.api.SILENCE` is for."""

REFRESH = 60.0
"""Seconds after which the access is read again, for tokens that expire (exec plugins, token files).
"""

LOOK_EVERY = 1.0
"""Seconds between looks at the files of the access, for a change. Only requests look."""

READ_BUFFER = 2**21
"""Bytes of an answer that aiohttp keeps before it reads on. A line of a watch may have twice that;
an object has at most 1.5 MiB in etcd."""

SERVICE_ACCOUNT_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""Where a pod finds the name of its namespace."""

CLIENT_ERRORS = range(400, 500)
UNAUTHORIZED = 401

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

IN_NAMESPACE = re.compile(r"/namespaces/([^/?]+)/")
"""What of a path tells the namespace."""

JSON = "application/json"


class Expired(ClusterUnreachable):
    """The API server no longer knows the resourceVersion to go on from (410): list again."""


class Interrupted(ClusterUnreachable):
    """A watch broke off. Another API server may be behind it: list again."""


class UnknownKind(NotFound):
    """The API server serves nothing at this path: the kind is not installed."""


@dataclass(frozen=True, slots=True)
class KubernetesAccess:
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


class Body(aiohttp.payload.BytesPayload):
    """The JSON of a request that may not be sent after a deadline.

    The deadline is compared with the clock where aiohttp hands the first byte of the request to the
    kernel: a wait for a connection, a machine that slept, or an event loop that stood still count.

    Args:
        value: what becomes JSON.
        until: time after which the request is not sent; None: no limit.
    """

    def __init__(self, value: object, *, until: float | None = None) -> None:
        super().__init__(json.dumps(value).encode())
        self._until = until
        self._dropped = False
        self.sent = False
        """Whether something of the request may have reached the API server."""

    def drop(self) -> None:
        """Prevent the request from being sent from now on."""
        self._dropped = True

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Send the request: aiohttp sends headers and body together."""
        if self._dropped or (self._until is not None and clock.now() >= self._until):
            msg = "its time was over before it could be sent"
            raise Unsent(msg)
        self.sent = True
        await super().write_with_length(writer, content_length)


class Source(Protocol):
    """Where the access to an API server is described."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is read from, beside certificates."""
        ...

    async def load(self) -> Configuration:
        """Read the access. Raises whatever a broken file leads to."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """An access that does not change, but for the content of its certificates' files."""

    configuration: Configuration
    files: tuple[str, ...] = ()

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


class Connection:
    """How one API server is reached, and as whom.

    Nothing is sent before the first request, and it may be made while the API server is away.
    Nothing is retried.

    The files that describe the access are read again when they change: kubeconfigs, tokens, the CA
    and the client certificate. What cannot be read leaves everything as it was. A new certificate
    counts for new connections; those that are open, such as watches, go on.

    Args:
        configuration: the access.
        default_namespace: that of the context, or of the pod that this runs in.
        source: where to read the access again; None: only certificates are.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        default_namespace: str | None = None,
        source: Source | None = None,
    ) -> None:
        self.default_namespace = default_namespace
        self.turns = Turns(REQUESTS)
        """For requests but watches. `request` and `send` need none: their callers take it."""
        self._source = source or Given(configuration)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._turn = asyncio.Lock()
        self._problem = ""
        self._read = stamps_of(self._source.files)
        self._route = route_from(configuration)
        self._looked_at = self._loaded_at = clock.now()

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
        `overrides` count more than any of these; with a server among them no kubeconfig is needed.

        Raises:
            ConfigurationError: there is no such file or context, it is broken, or there is nothing.
        """
        # Given explicitly, for the library reads KUBECONFIG only once: when it is imported.
        files = kubeconfig_files(kubeconfig)
        source: Kubeconfig | ServiceAccount | Given
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
        namespace = None if isinstance(source, Given) else source.namespace
        try:
            return cls(configuration, default_namespace=namespace, source=source)
        except (OSError, ValueError) as error:
            msg = (
                f"The API server {configuration.host} cannot be reached as configured: {error};"
                " correct its address or the certificates"
            )
            raise ConfigurationError(msg) from error

    async def access(self) -> KubernetesAccess:
        """Return how to reach the API server, with a token that is valid now."""
        await self._look_again()
        return self._route.access(self.default_namespace)

    async def aclose(self) -> None:
        """Close all connections. Whoever still waits for an answer gets `ClusterUnreachable`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
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
            body: of the request; with a deadline, if it has one.
            content_type: of the body.
            accept: what the answer may be.
            silence: seconds without a byte after which the answer is given up; None: never.

        Raises:
            ClusterError: the API server refused, as `error_for` says.
        """
        response = await self.request(
            method,
            path,
            query=query,
            body=body,
            headers={"Accept": accept, "Content-Type": content_type},
            limits=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence
            ),
        )
        if response.ok:
            return response
        async with response:
            content = await response.read()
        raise error_for(
            response.status,
            status_from(content),
            request=f"{method} {path}",
            retry_after=retry_after_in(response.headers),
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send a request and return its answer, whatever it is, as soon as it begins.

        Args:
            method: of the request.
            path: of the request; it may have a query of its own.
            query: of the request.
            body: of the request.
            headers: of the request, beside those that say who asks.
            limits: of the time.
        """
        await self._look_again()
        if self._closed:
            msg = "The connection to the API server is closed"
            raise ClusterUnreachable(msg)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Watches would use up any limit, and requests have their turns.
                connector=aiohttp.TCPConnector(limit=0),
                # Otherwise aiohttp looks for a proxy and a .netrc in two threads per request.
                trust_env=False,
                read_bufsize=READ_BUFFER,
            )
        route = self._route
        response = await self._session.request(
            method,
            route.server + path,
            params=query,
            data=body,
            headers=route.signed(headers),
            timeout=limits,
            # Part of the key of a pooled connection: none that trusted another CA is used again.
            ssl=route.tls if route.tls is not None else True,
            server_hostname=route.server_name,
            proxy=route.proxy,
        )
        if response.status == UNAUTHORIZED:
            self._loaded_at = -math.inf  # a token that was replaced may be there already
        return response

    async def _look_again(self) -> None:
        """Read the access again if it is time to, or if a file of it has changed."""
        if not self._due(clock.now()):
            return
        async with self._turn:
            now = clock.now()
            if not self._due(now):
                return
            self._looked_at = now
            read = stamps_of(self._source.files)
            changed = read != self._read or self._route.outdated
            if not changed and now - self._loaded_at < REFRESH:
                return
            self._loaded_at = now
            try:
                self._route = route_from(await self._source.load(), before=self._route)
            except Exception as error:  # noqa: BLE001  # whatever a file leads to in the library
                self._complain(str(error))
            else:
                self._read, self._problem = read, ""
                if changed:
                    log.info("cluster.access_read", server=self._route.server)

    def _due(self, now: float) -> bool:
        return now - self._looked_at >= LOOK_EVERY or now - self._loaded_at >= REFRESH

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("cluster.access_not_read", problem=problem)


@dataclass(frozen=True, slots=True)
class Route:
    """What of an access a request needs."""

    server: str
    authorization: str = field(repr=False)
    impersonation: tuple[tuple[str, str], ...]
    verified: bool
    server_name: str | None
    proxy: str | None
    certificates: tuple[str | None, ...]
    """The files of the CA, of the client certificate and of its key."""
    read: Stamps
    """What these files were like when they were read."""
    tls: ssl.SSLContext | None
    """None without TLS."""

    @property
    def outdated(self) -> bool:
        """Whether one of the certificates has changed since."""
        return stamps_of(self.certificates) != self.read

    def signed(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return headers with those that say who asks."""
        # The second one is for an operator whose history is asked for through the API server.
        signed = {"User-Agent": "incumbent", PROGRAM_HEADER: "incumbent", **headers}
        if self.authorization:
            signed["Authorization"] = self.authorization
        return [*signed.items(), *self.impersonation]

    def access(self, default_namespace: str | None) -> KubernetesAccess:
        """Return this for people and tests."""
        scheme, _, token = self.authorization.partition(" ")
        authority, certificate, key = self.certificates
        return KubernetesAccess(
            server=self.server,
            ca_path=authority,
            insecure=not self.verified,
            scheme=scheme or None,
            token=token or None,
            certificate_path=certificate,
            private_key_path=key,
            proxy_url=self.proxy,
            default_namespace=default_namespace,
        )


def route_from(configuration: Configuration, before: Route | None = None) -> Route:
    """Return what requests need of an access.

    Args:
        configuration: the access.
        before: the last one, of which unchanged certificates are taken.

    Raises:
        OSError: a certificate cannot be read, or is none.
        ValueError: the address of the server is broken.
    """
    server = configuration.host.rstrip("/")
    certificates = configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file
    read = stamps_of(certificates)
    encrypted = urllib.parse.urlsplit(server).scheme == "https"
    same = (
        before is not None
        and (before.certificates, before.read) == (certificates, read)
        and (before.verified, before.tls is not None) == (configuration.verify_ssl, encrypted)
    )
    tls = before.tls if before is not None and same else None
    if encrypted and tls is None:
        tls = tls_context(configuration)
    token = configuration.api_key.get("BearerToken") or ""
    prefix = configuration.api_key_prefix.get("BearerToken")
    headers = (configuration.client_session_kwargs or {}).get("headers", ())
    proxy = configuration.proxy
    return Route(
        server=server,
        authorization=f"{prefix} {token}" if prefix and token else token,
        impersonation=tuple(headers),
        verified=configuration.verify_ssl,
        server_name=configuration.tls_server_name or None,
        proxy=checked(proxy) if proxy else proxy_from(os.environ, server),
        certificates=certificates,
        read=read,
        tls=tls,
    )


def tls_context(configuration: Configuration) -> ssl.SSLContext:
    """Return whom to trust, and what to show.

    Raises:
        OSError: a certificate cannot be read, or is none.
    """
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


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


def namespace_in(path: str) -> str:
    """Return the namespace of the objects at a path; empty if they are of all, or of none."""
    found = IN_NAMESPACE.search(path)
    return found[1] if found else ""


def retry_after_in(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds an answer asks to wait; None if it does not."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


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
    code: int, status: Mapping[str, Any], *, request: str, retry_after: float | None = None
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
        case _ if retry_after is not None:
            return Overloaded(f"The API server asks to wait: {message}", retry_after)
        case _:
            return ClusterUnreachable(f"The API server failed: {message}")
