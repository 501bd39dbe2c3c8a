"""How many files may be open, and how many namespaces can be watched with them."""

from __future__ import annotations

import resource

import pytest

from incumbent.controller import descriptors
from incumbent.controller.descriptors import ENOUGH, RESERVED, raise_limit, watches_for

INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """The limits of the process, soft and hard, as a list that is changed."""
    limits = [1024, 4096]
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(
        descriptors.resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(2), wanted)
    )
    return limits


@pytest.mark.parametrize(
    ("before", "after", "limit"),
    (
        ((1024, 4096), (4096, 4096), 4096),
        ((4096, 4096), (4096, 4096), 4096),
        ((1024, 1_048_576), (ENOUGH, 1_048_576), ENOUGH),
        ((100_000, 1_048_576), (100_000, 1_048_576), 100_000),
        ((1024, INFINITE), (ENOUGH, INFINITE), ENOUGH),
        ((INFINITE, INFINITE), (INFINITE, INFINITE), ENOUGH),
    ),
)
def test_the_soft_limit_is_raised_to_the_hard_one(limits, before, after, limit):
    """Not beyond what is enough, and it is never lowered."""
    limits[:] = before
    assert raise_limit() == limit
    assert tuple(limits) == after


def test_a_limit_that_cannot_be_raised_is_left(limits, monkeypatch):
    """Some systems have another limit behind the hard one."""

    def refuse(*_):
        message = "not permitted"
        raise ValueError(message)

    monkeypatch.setattr(descriptors.resource, "setrlimit", refuse)
    assert raise_limit() == 1024


@pytest.mark.parametrize(
    ("limit", "others", "watches"), ((1024, 0, 832), (1024, 20, 812), (RESERVED, 0, 1), (64, 9, 1))
)
def test_requests_and_clients_have_their_part(limit, others, watches):
    """What is left is for watches; one namespace is served in any case."""
    assert watches_for(limit, others=others) == watches
