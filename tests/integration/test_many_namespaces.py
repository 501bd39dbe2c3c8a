"""More namespaces than the operator may have open files."""

from __future__ import annotations

import asyncio
import secrets

import aiohttp
import pytest

from elections import Election, condition_of, with_bucket
from incumbent.controller.descriptors import RESERVED
from operatorprocess import OperatorProcess

pytestmark = pytest.mark.timeout(180)

MANY = 24
TTL = 6.0


@pytest.fixture
async def elections(kube):
    """An election with a pod in each of many namespaces."""
    prefix = f"many-{secrets.token_hex(4)}"
    names = [f"{prefix}-{number}" for number in range(MANY)]
    await asyncio.gather(*map(kube.namespace, names))
    found = [Election(kube, name) for name in names]
    await asyncio.gather(*(one.add_pods("one") for one in found))
    await asyncio.gather(*(one.create() for one in found))
    yield found
    await asyncio.gather(*(kube.delete(f"/api/v1/namespaces/{name}") for name in names))


def limited(soft, hard):
    """Return what a command begins with, to have limits of open files."""
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")


@pytest.fixture
def start(site, elections, private_nats, tmp_path):
    """Return a function that makes an operator of these namespaces, with limits of open files."""
    made = []

    def make(soft, hard):
        namespaces = [f"--namespace={one.namespace}" for one in elections]
        operator = OperatorProcess(
            site,
            tmp_path,
            nats_url=private_nats.url,
            arguments=[*namespaces, *with_bucket(TTL)],
            enter=limited(soft, hard),
        )
        made.append(operator)
        return operator

    yield make
    for operator in made:
        operator.kill()
        assert not operator.complaints
        assert "Too many open files" not in operator.log


async def is_alive(operator):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{operator.url}/livez") as answer,
    ):
        return answer.ok


async def test_the_soft_limit_is_raised(elections, start):
    """With that of the process alone nobody would lead."""
    operator = start(32, 4096)
    await operator.start()
    await asyncio.gather(*(one.wait_leader(timeout=60) for one in elections))
    assert not operator.lines("cluster.too_many_namespaces")


async def test_those_that_fit_are_served_where_the_hard_limit_is_too_low(elections, start):
    """The others say why they are not, and come up when there is room. The process answers."""
    fit = MANY - 4
    operator = start(64, RESERVED + MANY + fit)
    await operator.start()

    async def reason(one):
        found = await one.kube.until(
            one.path,
            lambda f: condition_of(f, "Ready")["reason"] in {"Leading", "NotWatched"},
            timeout=60,
        )
        return condition_of(found, "Ready")["reason"]

    reasons = await asyncio.gather(*map(reason, elections))
    assert reasons.count("Leading") == fit
    assert len(operator.lines("cluster.too_many_namespaces")) == 1
    assert len(operator.lines("pass.failed")) == 0
    assert await is_alive(operator)
    waiting = [one for one, said in zip(elections, reasons, strict=True) if said == "NotWatched"]
    assert [await one.labels() for one in waiting] == [{}] * len(waiting)
    served = elections[reasons.index("Leading")]
    await served.delete()
    await served.wait_gone()
    await waiting[0].delete()
    await waiting[0].wait_gone()
    led = [asyncio.ensure_future(one.wait_leader(timeout=30)) for one in waiting[1:]]
    done, others = await asyncio.wait(led, return_when=asyncio.FIRST_COMPLETED)
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert all(one.result() == "one" for one in done)
