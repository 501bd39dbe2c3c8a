"""The data that a request to an API server needs: address, token, certificates and proxy."""

from __future__ import annotations

import os
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from incumbent.kubernetes.kubeconfig import Configuration, Stamps, stamps_of
from incumbent.kubernetes.proxies import checked, proxy_from
from incumbent.kubernetes.resource import PROGRAM_HEADER


@dataclass(frozen=True, slots=True)
class KubernetesAccess:
    """The address and credentials for the API server, with the names of `kopf.ConnectionInfo`.

    The token may expire, so call `Connection.access` again at each login.
    """

    server: str
    ca_path: str | None = None
    insecure: bool = False
    scheme: str | None = None
    """The word before the token in the header `Authorization`."""
    token: str | None = field(default=None, repr=False)
    certificate_path: str | None = None
    private_key_path: str | None = None
    proxy_url: str | None = None
    default_namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The data that a request to an API server needs."""

    server: str
    authorization: str = field(repr=False)
    impersonation: tuple[tuple[str, str], ...]
    verified: bool
    server_name: str | None
    proxy: str | None
    certificates: tuple[str | None, ...]
    """The files of the CA, the client certificate and its key; None: no such file."""
    read: Stamps
    """The stamps of these files when they were read."""
    tls: ssl.SSLContext | None
    """The TLS settings; None: no TLS."""

    @property
    def outdated(self) -> bool:
        """Whether a certificate file has changed since it was read."""
        return stamps_of(self.certificates) != self.read

    def signed(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the headers with those for authentication and impersonation."""
        # An operator asks for the second header if a request comes through the API server's proxy.
        signed = {"User-Agent": "incumbent", PROGRAM_HEADER: "incumbent", **headers}
        if self.authorization:
            signed["Authorization"] = self.authorization
        return [*signed.items(), *self.impersonation]

    def access(self, default_namespace: str | None) -> KubernetesAccess:
        """Return the address and credentials in the form of `KubernetesAccess`."""
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
    """Return the data for requests from a configuration.

    Args:
        configuration: the access data.
        before: the previous route. If the certificates have not changed, its TLS settings are used.

    Raises:
        OSError: a certificate file cannot be read, or contains no certificate.
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
    """Return the TLS settings with the trusted CA and the client certificate.

    Raises:
        OSError: a certificate file cannot be read, or contains no certificate.
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
