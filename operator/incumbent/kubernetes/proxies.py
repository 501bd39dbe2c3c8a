"""The choice of a proxy by the rules of Go's net/http, which kubectl follows.

HTTP_PROXY, HTTPS_PROXY and NO_PROXY count. Upper case is read before lower case. ALL_PROXY does not
count.
Source: https://pkg.go.dev/golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Iterator, Mapping

from incumbent.errors import ConfigurationError

PORTS = {"http": "80", "https": "443"}
"""The default port of a URL, by scheme."""

MAPPED = 96
"""Bits before the IPv4 address in an IPv4-mapped IPv6 address (::ffff:10.0.0.1)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_from(environment: Mapping[str, str], server: str) -> str | None:
    """Return the URL of the proxy for a server; None if the connection is direct.

    Args:
        environment: the variables of the process.
        server: the URL of the API server.

    Raises:
        ConfigurationError: the proxy is not an HTTP proxy.
    """
    url = urllib.parse.urlsplit(server)
    proxy = _variable(environment, f"{url.scheme.upper()}_PROXY") if url.scheme in PORTS else ""
    host, port = url.hostname or "", str(url.port or PORTS.get(url.scheme, ""))
    if not proxy or bypasses(_variable(environment, "NO_PROXY"), host, port):
        return None
    return checked(_completed(proxy))


def checked(proxy: str) -> str:
    """Return the URL of a proxy as given, if it is an HTTP proxy.

    Raises:
        ConfigurationError: it is not an HTTP proxy.
    """
    if urllib.parse.urlsplit(proxy).scheme.lower() not in PORTS:
        name = urllib.parse.urlsplit(proxy).hostname or proxy
        msg = (
            f"The proxy {name} is not one for HTTP: give a URL that begins with http:// or https://"
        )
        raise ConfigurationError(msg)
    return proxy


def bypasses(no_proxy: str, host: str, port: str) -> bool:
    """Return whether a connection to a host bypasses the proxy.

    Args:
        no_proxy: the value of NO_PROXY.
        host: a name, or an address without brackets.
        port: the number of the port.
    """
    host = host.lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, host, port, address) for entry in _entries(no_proxy))


def _matches(entry: str, host: str, port: str, address: Address | None) -> bool:
    if entry == "*":
        return True
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    name, wanted_port = _split(entry)
    if not name or wanted_port not in {"", port}:
        return False
    listed = _address(name)
    if listed is not None or address is not None:
        return listed == address
    name = name[1:] if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _entries(no_proxy: str) -> Iterator[str]:
    for entry in no_proxy.lower().split(","):
        if entry := entry.strip():
            yield entry


def _split(entry: str) -> tuple[str, str]:
    """Return the name and the port of an entry; the port may be empty."""
    if entry.startswith("["):  # Go takes a bracketed entry without a port for a name
        name, _, port = entry[1:].partition("]:")
        return (name, port) if port else (entry, "")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, length = entry.partition("/")
    if not slash or not length.isdecimal():  # because Python would also accept a netmask
        return None
    try:
        network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        return None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < MAPPED:
        return network
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - MAPPED}")


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _completed(proxy: str) -> str:
    """Return the URL of a proxy; add http:// if it has no scheme."""
    url = urllib.parse.urlsplit(proxy)
    return proxy if url.scheme and url.netloc else f"http://{proxy}"
