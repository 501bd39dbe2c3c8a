"""URLs of NATS servers, as people write them and as they get them wrong."""

from __future__ import annotations

import pytest

from incumbent.errors import ConfigurationError
from incumbent.nats.servers import (
    Login,
    Server,
    ServerPool,
    is_address,
    login_in,
    server_from,
    server_named,
    servers_from,
)


@pytest.mark.parametrize(
    ("text", "server", "address", "url"),
    (
        ("nats.example.org", Server("nats", "nats.example.org", 4222), "nats.example.org:4222", ""),
        ("a:4223", Server("nats", "a", 4223), "a:4223", "nats://a:4223"),
        ("nats://a", Server("nats", "a", 4222), "a:4222", "nats://a:4222"),
        ("nats://a:", Server("nats", "a", 4222), "a:4222", "nats://a:4222"),
        ("nats://a/", Server("nats", "a", 4222), "a:4222", "nats://a:4222"),
        ("NATS://A_b.c:1", Server("nats", "A_b.c", 1), "A_b.c:1", "nats://A_b.c:1"),
        ("tls://10.0.0.1", Server("tls", "10.0.0.1", 4222), "10.0.0.1:4222", ""),
        ("tls://u:p@[::1]:4222", Server("tls", "::1", 4222), "[::1]:4222", "tls://[::1]:4222"),
        (
            "nats://[fe80::1%25eth0]",
            Server("nats", "fe80::1%eth0", 4222),
            "[fe80::1%eth0]:4222",
            "nats://[fe80::1%eth0]:4222",
        ),
        ("ws://a", Server("ws", "a", 80), "a:80", "ws://a:80"),
        ("wss://a", Server("wss", "a", 443), "a:443", "wss://a:443"),
        ("wss://a/b/c", Server("wss", "a", 443, "/b/c"), "a:443", "wss://a:443/b/c"),
        ("wss://t@a:1/b?c=d", Server("wss", "a", 1, "/b?c=d"), "a:1", "wss://a:1/b?c=d"),
    ),
)
def test_a_url_is_read(text: str, server: Server, address: str, url: str) -> None:
    """With the scheme's port if it names none, and without its login in what is shown."""
    assert server_from(text) == server
    assert server_from(text).address == address
    assert server_from(text).url == (url or f"{server.scheme}://{address}")


@pytest.mark.parametrize(
    ("text", "login"),
    (
        ("nats://a", None),
        ("u:p@a", Login("u", "p")),
        ("nats://u:p%40ss%2Fw%231@a", Login("u", "p@ss/w#1")),
        ("nats://u:%3A%25%3F%2C%5B@a", Login("u", ":%?,[")),
        ("nats://u:a:b@a", Login("u", "a:b")),
        ("nats://u:@a", Login("u", "")),
        ("nats://u:a+b@a", Login("u", "a+b")),
        ("nats://%C3%BC:%E2%82%AC@a", Login("ü", "€")),
        ("nats://ü:€@a", Login("ü", "€")),
        ("nats://to%40ken@a", Login("to@ken", None)),
    ),
)
def test_a_login_is_decoded(text: str, login: Login | None) -> None:
    """By RFC 3986: a plus is a plus, and only the first colon divides."""
    assert server_from(text).login == login


ENCODE = "percent-encode the user and the password"
WRITE = "write it like nats://host:4222, with the scheme nats, tls, ws or wss"


@pytest.mark.parametrize("scheme", ("", "nats://", "tls://", "ws://", "wss://"))
@pytest.mark.parametrize(
    "login",
    (
        "u:hid@den",
        "u:hid/den",
        "u:hid#den",
        "u:hid?den",
        "u:12/hidden",
        "u:hid/1@den#5",
        "u@hid:den",
        "hid/den",
        "hid#den",
        "u:hidden%",
        "u:hidden%4",
        "u:hidden%zz",
        "u:hidden%ff",
        ":hidden",
        "",
        ":",
    ),
)
def test_a_password_that_is_not_encoded_is_refused_with_advice(scheme: str, login: str) -> None:
    """No part of it is taken for a host or a path, and none is shown."""
    with pytest.raises(ConfigurationError, match=ENCODE) as raised:
        server_from(f"{scheme}{login}@127.0.0.1:4222")
    assert "hid" not in str(raised.value)
    assert "den" not in str(raised.value).replace("leading", "")
    assert "--nats-password-file" in str(raised.value)


@pytest.mark.parametrize(
    "text",
    (
        "",
        "nats://",
        "nats:///a",
        "nats://:4222",
        "http://a",
        "mqtt://a",
        "nats:a:4222",
        "nats:/a",
        "nats://a:b",
        "nats://a:0",
        "nats://a:65536",
        "nats://a:-1",
        "nats://a:٤",
        "nats://a/b",
        "nats://a?b",
        "nats://a#b",
        "ws://a#b",
        "nats://a b",
        "nats://a\n",
        "nats://a\x00",
        "nats://::1:4222",
        "nats://[::1",
        "nats://[a]",
        "nats://[::1]a",
        "nats://a!b",
        "nats://a,nats://b",
        "a,b",
        "u:hidden@",
        "nats://u:hidden@a:b",
        "http://u:hidden@a",
        "hid://den@a",
    ),
)
def test_what_is_no_url_is_refused(text: str) -> None:
    """With how to write one, and without a word of it."""
    with pytest.raises(ConfigurationError, match=WRITE) as raised:
        server_from(text)
    assert "hid" not in str(raised.value)


def test_several_servers_are_not_one() -> None:
    """A comma may be one in a password, too."""
    with pytest.raises(ConfigurationError, match="give the flag once for each"):
        server_from("nats://a,nats://b")
    with pytest.raises(ConfigurationError, match=f"give the flag once for each server; {ENCODE}"):
        server_from("nats://u:hid,den@b")
    assert server_from("nats://u:hid%2Cden@b").login == Login("u", "hid,den")


@pytest.mark.parametrize(
    "urls",
    (
        ("nats://u:hidden@a", "nats://u:hid@b"),
        ("nats://u:hidden@a", "nats://b"),
        ("nats://b", "hidden@a"),
        ("nats://u:12", "hidden@a"),
    ),
)
def test_servers_have_one_login(urls: tuple[str, ...]) -> None:
    """NATS names further ones, and nobody could tell which login is theirs.

    So is refused what a comma in a password makes of a list in a variable.
    """
    with pytest.raises(ConfigurationError, match="have different logins") as raised:
        servers_from(urls, with_tls=False)
    assert "hid" not in str(raised.value)


def test_equal_logins_are_one() -> None:
    """However they are encoded."""
    servers = servers_from(("nats://u:p%40@a", "tls://%75:p%40@b"), with_tls=False)
    assert login_in(servers) == Login("u", "p@")


def test_a_list_of_no_servers_is_refused() -> None:
    """There would be nothing to connect to."""
    with pytest.raises(ConfigurationError, match="there is no URL of a NATS server: give one"):
        servers_from((), with_tls=False)


def test_a_websocket_without_tls_is_not_taken_where_tls_is_asked_for() -> None:
    """Nobody is to get less than he asked for."""
    with pytest.raises(ConfigurationError, match="scheme ws has no TLS: write wss"):
        servers_from(("tls://a", "ws://a"), with_tls=True)
    assert servers_from(("ws://a",), with_tls=False)


SEED = server_from("tls://u:p@nats.example.org")


@pytest.mark.parametrize(
    ("address", "like", "url", "certificate_name"),
    (
        ("10.0.0.2:4222", SEED, "tls://10.0.0.2:4222", "nats.example.org"),
        ("[fd00::2]:4333", SEED, "tls://[fd00::2]:4333", "nats.example.org"),
        ("nats-2.example.org:4222", SEED, "tls://nats-2.example.org:4222", ""),
        ("nats-2.example.org", SEED, "tls://nats-2.example.org:4222", ""),
        ("10.0.0.2:4222", server_from("tls://10.0.0.1"), "tls://10.0.0.2:4222", ""),
        ("10.0.0.2:8080", server_from("wss://a/b"), "wss://10.0.0.2:8080/b", "a"),
        ("10.0.0.2:4222", server_from("nats://a"), "nats://10.0.0.2:4222", "a"),
    ),
)
def test_a_server_that_nats_names_is_reached_like_the_one_that_names_it(
    address: str, like: Server, url: str, certificate_name: str
) -> None:
    """Scheme, path and login are the same; an address is checked by the name asked for at first."""
    server = server_named(address, like=like)
    assert server is not None
    assert (server.url, server.certificate_name) == (url, certificate_name)
    assert server.login == like.login


def test_the_name_asked_for_is_passed_on() -> None:
    """From a server that NATS named to those that it names itself."""
    first = server_named("10.0.0.2:4222", like=SEED)
    assert first is not None
    second = server_named("10.0.0.3:4222", like=first)
    assert second is not None
    assert second.certificate_name == "nats.example.org"


@pytest.mark.parametrize("address", ("", ":4222", "a:b", "a:0", "a/b:4222", "::1:4222", "u@a:1"))
def test_nonsense_from_a_server_names_none(address: str) -> None:
    """Whoever answers may say anything."""
    assert server_named(address, like=SEED) is None


@pytest.mark.parametrize(
    ("host", "address"), (("::1", True), ("10.0.0.1", True), ("a.b", False), ("10.a", False))
)
def test_an_address_is_told_from_a_name(host: str, address: object) -> None:
    """By its form alone: nothing is resolved."""
    assert is_address(host) is address


# The servers to connect to


def addresses(pool: ServerPool) -> list[str]:
    """Return the order in which the servers are tried."""
    return [server.address for server in pool.round()]


A, B = server_from("nats://a"), server_from("nats://b")
NAMED = ("10.0.0.1:4222", "10.0.0.2:4222", "10.0.0.3:4222")


def test_the_configured_servers_come_first_and_the_last_one_tried_at_the_end() -> None:
    """The others are named by servers, which know less about what can be reached from here."""
    pool = ServerPool([A, B])
    assert pool.learn(NAMED, by=A, trusted=True)
    first = addresses(pool)
    assert first[:2] == ["a:4222", "b:4222"]
    assert set(first[2:]) == set(NAMED)
    pool.tried(A)
    assert addresses(pool) == ["b:4222", "a:4222", *first[2:]]
    pool.tried(pool.round()[2])
    assert addresses(pool) == ["b:4222", "a:4222", *first[3:], first[2]]


def test_the_newest_list_replaces_those_before() -> None:
    """Who is in both keeps its place; an empty list says nothing; an equal one is no news."""
    pool = ServerPool([A])
    assert pool.learn(NAMED, by=A, trusted=True)
    before = addresses(pool)
    assert not pool.learn(reversed(NAMED), by=A, trusted=True)
    assert not pool.learn((), by=A, trusted=True)
    assert addresses(pool) == before
    assert pool.learn((*NAMED[1:], "10.0.0.4:4222"), by=A, trusted=True)
    assert addresses(pool) == [each for each in before if each != NAMED[0]] + ["10.0.0.4:4222"]


def test_a_configured_server_is_not_there_twice() -> None:
    """Nor is one that was given twice, or named with another scheme."""
    pool = ServerPool([A, A])
    assert not pool.learn(("a:4222",), by=server_from("tls://b"), trusted=True)
    assert addresses(pool) == ["a:4222"]


def test_before_tls_no_name_is_believed_that_was_not_configured() -> None:
    """Whoever is on the way could name a host of his own, with a certificate of its own."""
    names = ("evil.example.org:4222", "a:4333", "10.0.0.1:4222")
    pool = ServerPool([server_from("tls://a")])
    assert pool.learn(names, by=pool.round()[0], trusted=False)
    assert set(addresses(pool)) == {"a:4222", "a:4333", "10.0.0.1:4222"}
    assert pool.learn(names, by=pool.round()[0], trusted=True)
    assert "evil.example.org:4222" in addresses(pool)


def test_before_tls_an_address_is_not_believed_that_no_configured_name_vouches_for() -> None:
    """Its certificate would be checked by the address itself."""
    pool = ServerPool([server_from("tls://10.0.0.1")])
    assert not pool.learn(("10.6.6.6:4222",), by=pool.round()[0], trusted=False)
    assert addresses(pool) == ["10.0.0.1:4222"]
