"""Which elections of a namespace are served, if there are too many."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakecluster import make_election
from incumbent.controller.quota import Quota
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import resource_from


def resource(name, age=0, *, site="", namespace="shop", uid=""):
    """An election that is the older, the smaller its age in seconds; with a site it was served."""
    created = f"2026-01-01T00:00:{age:02}Z"
    metadata = {"namespace": namespace, "creationTimestamp": created, "uid": uid or f"uid-{name}"}
    body = make_election(name, status={"site": site}, **metadata)
    return resource_from(body, default_bucket="B")


def of(most, *resources):
    quota = Quota(most)
    for one in resources:
        quota.enter(one.key, one)
    return quota


def served(quota, *resources):
    return [one.key.name for one in resources if not quota.exceeds(one)]


def test_without_a_limit_all_are_served():
    many = [resource(f"e{number}") for number in range(50)]
    assert len(served(of(0, *many), *many)) == 50


def test_the_oldest_are_served():
    a, b, c = resource("a", 3), resource("b", 1), resource("c", 2)
    quota = of(2, a, b, c)
    assert served(quota, a, b, c) == ["b", "c"]
    assert "more than 2 elections" in quota.refusal(a)
    assert "--max-elections-per-namespace" in quota.refusal(a)
    assert quota.refusal(b) == ""


def test_namespaces_are_counted_apart():
    a, b = resource("a"), resource("b", 1, namespace="other")
    assert served(of(1, a, b), a, b) == ["a", "b"]


def test_one_that_was_served_is_not_replaced_by_a_newer_one_of_the_same_second():
    """Creation has seconds, and the name of the newer one may come first."""
    first, second = resource("b"), resource("a")
    quota = of(1, first)
    quota.begin(first)
    assert quota.enter(second.key, second) == {first.key, second.key}
    quota.begin(second)
    assert served(quota, first, second) == ["b"]
    marked = resource("b", site="here")
    quota.enter(marked.key, marked)
    assert served(quota, marked, second) == ["b"]
    assert served(of(1, second, marked), marked, second) == ["b"], "after a restart"


def test_one_that_was_served_keeps_its_place_from_an_older_one_without_a_status():
    """A backup restores times of creation, or an API server's clock is behind."""
    leads, restored = resource("leads", 5, site="here"), resource("restored", 1)
    assert served(of(1, restored, leads), restored, leads) == ["leads"]


def test_the_next_is_served_when_one_is_deleted():
    a, b, c = resource("a", 1), resource("b", 2), resource("c", 3)
    quota = of(1, a, b, c)
    assert b.key in quota.enter(a.key, None)
    assert served(quota, b, c) == ["b"]


def test_one_made_anew_under_its_name_comes_last():
    old, other, new = resource("a", 1), resource("b", 2), resource("a", 3, uid="new")
    quota = of(1, old, other)
    assert other.key in quota.enter(new.key, new)
    assert served(quota, other, new) == ["b"]


@pytest.mark.parametrize("most", (1, 2, 5))
@given(
    events=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 3), st.sampled_from(["", "s", None])),
        max_size=40,
    )
)
def test_whoever_may_cross_the_limit_is_told(most, events):
    """After each change, who is served has changed only for those that `enter` returned."""
    quota, known = Quota(most), {}
    for name, age, site in events:
        key = ElectionKey("shop", f"e{name}")
        before = {one: quota.exceeds(known[one]) for one in known}
        new = None if site is None else resource(key.name, age, site=site, uid=f"{name}-{age}")
        told = quota.enter(key, new)
        if new is None:
            known.pop(key, None)
        else:
            known[key] = new
        after = {one: quota.exceeds(known[one]) for one in known}
        assert sum(not beyond for beyond in after.values()) == min(most, len(known))
        changed = {one for one in before.keys() & after.keys() if before[one] != after[one]}
        assert changed <= told | {key}


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12), st.integers(1, 4))
def test_replicas_that_saw_elections_in_any_order_agree(elections, most):
    every = [
        resource(f"e{number}", age, site="here" if was_served else "")
        for number, (age, was_served) in enumerate(elections)
    ]
    orders = [every, every[::-1], random.Random(1).sample(every, len(every))]
    assert len({tuple(served(of(most, *order), *every)) for order in orders}) == 1


@given(st.lists(st.integers(0, 2), max_size=8), st.integers(1, 4), st.integers(0, 7))
def test_nobody_loses_a_place_because_another_election_begins(ages, most, which):
    every = [resource(f"e{number}", age) for number, age in enumerate(ages)]
    quota = of(most, *every)
    before = served(quota, *every)
    for one in every[which:]:
        quota.begin(one)
    assert served(quota, *every) == before


def test_it_keeps_nothing_of_what_is_gone():
    quota = Quota(1)
    for number in range(10):
        one = resource(f"e{number}")
        quota.enter(one.key, one)
        quota.begin(one)
        quota.enter(one.key, None)
    assert not quota._ranks
    assert not quota._orders
    assert not quota._begun
