"""Which locks elections may use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incumbent.controller.locks import Locks, lock_rule
from incumbent.errors import ConfigurationError

OWN = "ELECTIONS"


@pytest.mark.parametrize(
    ("namespace", "bucket", "key", "allowed"),
    (
        ("shop", OWN, "shop.billing", True),
        ("shop", OWN, "shop.billing.v1.2", True),
        ("shop", OWN, "shop./=_-", True),
        ("shop", OWN, "shop", False),
        ("shop", OWN, "shop.", False),
        ("shop", OWN, "shop..billing", False),
        ("shop", OWN, ".shop.billing", False),
        ("shop", OWN, "", False),
        ("shop", OWN, "shopx", False),
        ("shop", OWN, "shop/billing", False),
        ("shop", OWN, "shop-eu.billing", False),
        ("shop-eu", OWN, "shop.billing", False),
        ("shop-eu", OWN, "shop-eu.billing", True),
        ("shop", OWN, "Shop.billing", False),
        ("shop", OWN, "payments.ledger", False),
        ("shop", OWN, "billing.shop.", False),
        ("shop", OWN, "shop.>", False),
        ("shop", OWN, "shop.*", False),
        ("shop", OWN, "shop.b*", False),
        ("shop", OWN, "shop.a b", False),
        ("shop", OWN, "shop.a\n", False),
        ("shop", OWN, "shop.\u0430", False),
        ("shop", OWN, "\uff53hop.billing", False),
        ("shop", OWN, "shop%2Ebilling", False),
        ("shop", OWN, "shop." + "x" * 508, False),
        ("shop", "SESSIONS", "shop.billing", False),
        ("shop", "elections", "shop.billing", False),
        ("shop", "ELECTIONS%20", "shop.billing", False),
        ("shop", "ELECTIONS ", "shop.billing", False),
        ("shop", "ELECTIONS.>", "shop.billing", False),
        ("shop", "ELECTION*", "shop.billing", False),
        ("shop", "hub.ELECTIONS", "shop.billing", False),
        ("shop", "", "shop.billing", False),
    ),
)
def test_by_default_an_election_uses_the_own_bucket_and_keys_of_its_namespace(
    namespace, bucket, key, allowed
):
    assert Locks(OWN).allow(namespace, bucket, key) is allowed
    assert bool(Locks(OWN).refusal(namespace, bucket, key)) is not allowed


@pytest.mark.parametrize(
    ("rule", "namespace", "bucket", "key", "allowed"),
    (
        ("shop/SLOW/global.billing", "shop", "SLOW", "global.billing", True),
        ("shop/SLOW/global.billing", "shop-eu", "SLOW", "global.billing", False),
        ("shop/SLOW/global.billing", "shop", OWN, "global.billing", False),
        ("shop/SLOW/global.billing", "shop", "SLOW", "global.billing.x", False),
        ("shop/SLOW/global.billing", "shop", "SLOW", "shop.billing", False),
        ("shop*/SLOW/x", "shop-eu", "SLOW", "x", True),
        ("shop*/SLOW/x", "my-shop", "SLOW", "x", False),
        ("shop/S*/x", "shop", "SLOW", "x", True),
        ("shop/S*/x", "shop", "FAST", "x", False),
        ("shop/S*/x", "shop", "S.>", "x", False),
        ("shop/SLOW/global.*", "shop", "SLOW", "global.a/b", True),
        ("shop/SLOW/global.*", "shop", "SLOW", "globalx", False),
        ("shop/SLOW/global.*", "shop", "SLOW", "global.", False),
        ("shop/SLOW/global*", "shop", "SLOW", "global", True),
        ("shop/SLOW/a/b/c", "shop", "SLOW", "a/b/c", True),
        ("shop/SLOW/*", "shop", "SLOW", "anything", True),
        ("shop/SLOW/*", "shop", "SLOW", "any*", False),
        ("shop/SLOW/*", "shop", "SLOW", ">", False),
        ("*/*/*", "shop", "SESSIONS", "user.42", True),
        ("*/*/*", "shop", "SESSIONS", "user.>", False),
        ("*/*/*", "shop", "SESSIONS", "", False),
        ("*/SLOW/{namespace}.*", "shop", "SLOW", "shop.billing", True),
        ("*/SLOW/{namespace}.*", "shop", "SLOW", "shop-eu.billing", False),
        ("*/SLOW/{namespace}.*", "shop", "SLOW", "{namespace}.billing", False),
        ("*/SLOW/global.{namespace}", "shop", "SLOW", "global.shop", True),
    ),
)
def test_a_rule_allows_what_all_of_its_parts_match(rule, namespace, bucket, key, allowed):
    assert Locks(OWN, [rule]).allow(namespace, bucket, key) is allowed


@pytest.mark.parametrize(
    "text",
    (
        "", "*", "*/*", "//", "/B/k", "shop//k", "shop/B/", "Shop/B/k", "shop.x/B/k", "sh*op/B/k",
        "**/B/k", "shop/B.C/k", "shop/*B/k", "shop/B/.k", "shop/B/a..b", "shop/B/k.", "shop/B/*.k",
        "shop/B/k*k", "shop/B/k>", "shop/B/{name}.k", "shop/B/a b", " shop/B/k", "shop/B/k,l",
        "{namespace}/B/k", "shop/B/..*", "-*/B/k",
    ),
)  # fmt: skip
def test_what_is_no_rule_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match=r"write it like shop/ELECTIONS/global\.\*"):
        lock_rule(text)


@pytest.mark.parametrize("text", ("*/*/*", "shop/B/a/b", "s*/B-_1*/g.*", "*/B/{namespace}.*"))
def test_a_rule_is_written_as_it_is_read(text):
    assert str(lock_rule(text)) == text


def test_the_refusal_says_what_to_ask_whom_for():
    said = Locks(OWN).refusal("shop", "SESSIONS", "user.42")
    assert "--allow-lock shop/SESSIONS/user.42" in said
    assert "administrator" in said
    assert "allowedLocks" in said
    rule = said.partition("--allow-lock ")[2].partition("`")[0]
    assert not Locks(OWN, [rule]).refusal("shop", "SESSIONS", "user.42")


def test_the_refusal_of_a_key_from_a_status_is_printable():
    assert Locks(OWN).refusal("shop", OWN, "a\x1b[2Jb\n").isprintable()


NAMESPACES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
KEYS = st.from_regex(r"[-/_=a-zA-Z0-9]{1,4}(\.[-/_=a-zA-Z0-9]{1,4}){0,3}", fullmatch=True)


@given(mine=NAMESPACES, theirs=NAMESPACES, rest=KEYS, odd=st.text())
def test_no_namespace_reaches_the_keys_of_another(mine, theirs, rest, odd):
    """Whatever the names are: only one namespace has a key by default."""
    locks = Locks(OWN)
    assert locks.allow(mine, OWN, f"{mine}.{rest}")
    assert locks.allow(theirs, OWN, f"{mine}.{rest}") == (mine == theirs)
    if locks.allow(mine, OWN, odd):
        assert odd.partition(".")[0] == mine


@given(namespace=NAMESPACES, key=KEYS, more=st.lists(KEYS, max_size=3))
def test_more_rules_never_allow_less(namespace, key, more):
    fewer = Locks(OWN, [f"{namespace}/B/{one}" for one in more])
    every = Locks(OWN, [*map(str, fewer.rules), "*/*/*"])
    for bucket in (OWN, "B", "C"):
        assert fewer.allow(namespace, bucket, key) <= every.allow(namespace, bucket, key)
        assert every.allow(namespace, bucket, key)
