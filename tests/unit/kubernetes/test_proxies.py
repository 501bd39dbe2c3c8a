"""Which proxy leads to the API server, as kubectl sees it."""

from __future__ import annotations

import pytest

from incumbent.errors import ConfigurationError
from incumbent.kubernetes.proxies import proxy_from

PROXY = "http://proxy:3128"
SERVER = "https://kube.example.com:6443"


@pytest.mark.parametrize(
    ("environment", "server", "proxy"),
    (
        ({}, SERVER, None),
        ({"HTTPS_PROXY": PROXY}, SERVER, PROXY),
        ({"https_proxy": PROXY}, SERVER, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": "http://other"}, SERVER, PROXY),
        ({"HTTPS_PROXY": "", "https_proxy": PROXY}, SERVER, PROXY),
        ({"HTTP_PROXY": PROXY}, SERVER, None),
        ({"HTTP_PROXY": PROXY}, "http://kube.example.com", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://kube.example.com", None),
        ({"ALL_PROXY": PROXY, "all_proxy": PROXY}, SERVER, None),
        ({"HTTPS_PROXY": "proxy:3128"}, SERVER, PROXY),
        ({"HTTPS_PROXY": "10.0.0.1:3128"}, SERVER, "http://10.0.0.1:3128"),
        ({"HTTPS_PROXY": "https://me:secret@proxy"}, SERVER, "https://me:secret@proxy"),
        ({"HTTPS_PROXY": PROXY}, "https://localhost:6443", None),
        ({"HTTPS_PROXY": PROXY}, "https://127.0.0.7:6443", None),
        ({"HTTPS_PROXY": PROXY}, "https://[::1]:6443", None),
        ({"HTTPS_PROXY": PROXY}, "ftp://kube.example.com", None),
    ),
)
def test_the_variables_name_the_proxy_of_a_scheme(environment, server, proxy):
    """Upper case counts before lower case, and what is on this machine needs no proxy."""
    assert proxy_from(environment, server) == proxy


@pytest.mark.parametrize("variable", ("NO_PROXY", "no_proxy"))
@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    (
        # everything
        ("*", "kube.example.com", True),
        ("other, *", "10.0.0.1", True),
        ("*,other", "kube.example.com", True),
        # names, and what is below them
        ("example.com", "example.com", True),
        ("example.com", "kube.example.com", True),
        ("example.com", "a.kube.example.com", True),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.evil", False),
        (".example.com", "kube.example.com", True),
        (".example.com", "example.com", False),
        ("*.example.com", "kube.example.com", True),
        ("*.example.com", "example.com", False),
        ("*example.com", "kube.example.com", False),
        ("com", "kube.example.com", True),
        ("kube", "kube.example.com", False),
        # case and blanks
        ("Example.COM", "kube.example.com", True),
        ("example.com", "KUBE.Example.Com", True),
        (" other , example.com ", "kube.example.com", True),
        ("other,,example.com", "kube.example.com", True),
        (",", "kube.example.com", False),
        # ports: the server's is 6443
        ("kube.example.com:6443", "kube.example.com", True),
        ("kube.example.com:443", "kube.example.com", False),
        ("example.com:6443", "kube.example.com", True),
        (".example.com:6443", "kube.example.com", True),
        ("*.example.com:443", "kube.example.com", False),
        (":6443", "kube.example.com", False),
        # addresses
        ("10.96.0.1", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.10", False),
        ("10.96.0.1:6443", "10.96.0.1", True),
        ("10.96.0.1:443", "10.96.0.1", False),
        ("96.0.1", "10.96.0.1", False),
        # networks
        ("10.96.0.0/12", "10.96.0.1", True),
        ("10.96.0.0/12", "10.112.0.1", False),
        ("10.96.0.1/12", "10.100.0.1", True),
        ("10.0.0.0/255.0.0.0", "10.96.0.1", False),
        ("10.96.0.0/33", "10.96.0.1", False),
        ("10.96.0.0/12", "kube.example.com", False),
        ("0.0.0.0/0", "10.96.0.1", True),
        ("0.0.0.0/0", "[fd00::1]", False),
        # IPv6
        ("fd00::1", "[fd00::1]", True),
        ("FD00:0::1", "[fd00::1]", True),
        ("[fd00::1]", "[fd00::1]", False),
        ("[fd00::1]:6443", "[fd00::1]", True),
        ("[fd00::1]:443", "[fd00::1]", False),
        ("fd00::/8", "[fd00::1]", True),
        ("fd00::/8", "[fe00::1]", False),
        ("10.96.0.1", "[::ffff:10.96.0.1]", True),
        ("10.96.0.0/12", "[::ffff:10.96.0.1]", True),
        ("::ffff:10.96.0.0/108", "10.96.0.1", True),
        ("::ffff:10.96.0.0/108", "10.112.0.1", False),
    ),
)
def test_no_proxy_is_understood_as_by_kubectl(variable, no_proxy, host, direct):
    """Names, suffixes, addresses, networks, ports, and everything; compared with Go 1.26."""
    environment = {"HTTPS_PROXY": PROXY, variable: no_proxy}
    found = proxy_from(environment, f"https://{host}:6443")
    assert found == (None if direct else PROXY)


def test_the_port_of_a_url_without_one_is_that_of_its_scheme():
    """An entry may name 443."""
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": "kube.example.com:443"}
    assert proxy_from(environment, "https://kube.example.com") is None


def test_a_proxy_for_something_else_is_one_sentence():
    """It is named without its password."""
    with pytest.raises(ConfigurationError, match="The proxy proxy is not one for HTTP") as caught:
        proxy_from({"HTTPS_PROXY": "socks5://me:secret@proxy:1080"}, SERVER)
    assert "secret" not in str(caught.value)
