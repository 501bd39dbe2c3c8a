"""Turns for requests to the API server, and what they are taken for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from incumbent import clock
from incumbent.errors import ClusterUnreachable, Overloaded, Unsent
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.fairness import Bounds, Limits, Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import resource_from
from incumbent.kubernetes.turns import REQUESTS, Turns, apart, urgent, work, working_for
from incumbent.pods.labels import Labels

SECONDS = 30
"""A condition that takes so long is an error."""


# What is asked for


def test_what_is_asked_inside_keeps_the_more_urgent_rank_and_the_earlier_time():
    """A read for a strip is as urgent as the strip."""
    assert work().rank is None
    with urgent(Rank.CHANGE):
        with urgent(Rank.STRIP, due=5.0):
            with urgent(Rank.CHANGE, due=1.0):
                assert (work().rank, work().due) == (Rank.STRIP, 5.0)
            with urgent(Rank.STRIP, due=9.0):
                assert work().due == 5.0
            with urgent(Rank.STRIP):
                assert work().due is None
            with apart(Rank.ROUTINE):
                assert (work().rank, work().due) == (Rank.ROUTINE, None)
        assert (work().rank, work().due) == (Rank.CHANGE, None)
    assert work().rank is None


async def test_tasks_that_are_created_inside_inherit_it():
    """So a request that is sent a second time is as urgent as the first."""

    async def see():
        return work()

    with working_for("shop", "billing"), urgent(Rank.STRIP):
        seen = await asyncio.create_task(see())
    assert (seen.namespace, seen.election, seen.rank) == ("shop", "billing", Rank.STRIP)


# Turns


@pytest.mark.looptime
@pytest.mark.usefixtures("clock_of_the_loop")
async def test_a_task_that_is_cancelled_while_it_waits_takes_no_turn():
    """Also at the very moment at which it gets one."""
    turns = Turns(Limits(turns=1, everything=10, patience=60.0))

    async def take(seconds):
        async with turns.turn():
            await asyncio.sleep(seconds)

    first = asyncio.create_task(take(1))
    await asyncio.sleep(0.5)
    waiting = [asyncio.create_task(take(1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await first
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (turns.waiting(), turns.under_way()) == (0, 0)
    assert clock.now() == 2.0


@pytest.mark.looptime
@pytest.mark.usefixtures("clock_of_the_loop")
async def test_work_that_takes_long_gives_its_turn_back_while_it_goes_on():
    """Nothing has to end for the next one to begin."""
    turns = Turns(Limits(turns=1, everything=10, patience=1.0))
    async with turns.turn(namespace="slow"):
        async with turns.turn(namespace="other"):
            assert clock.now() == 1.0
        assert turns.under_way() == 1


# Requests


class Server:
    """An API server that patches pods; of some namespaces it answers late, or what it is told."""

    def __init__(self):
        self.came = []
        """Method, namespace and name of what is asked for, in order."""
        self.pods = {}
        self.version = 10
        self.hangs = set()
        self.going = Counter()
        self.most = 0
        self.answers = []
        """What is answered instead, first to last."""
        self.free = asyncio.Event()

    async def handle(self, request):
        """Answer a request."""
        await request.read()
        parts = request.path.split("/")
        namespace = parts[parts.index("namespaces") + 1]
        self.came.append((request.method, namespace, parts[-1]))
        if self.answers:
            return self.answers.pop(0)
        self.going[namespace] += 1
        self.most = max(self.most, self.going.total())
        try:
            if namespace in self.hangs:
                await self.free.wait()
        finally:
            self.going[namespace] -= 1
        about = {"namespace": namespace, "name": parts[-1], "uid": "u", "resourceVersion": "2"}
        if request.method == "PATCH" and parts[-2] == "pods":
            about |= self._patched(parts[-1], (await request.json())["metadata"])
        return web.json_response({"metadata": about, "items": []})

    def _patched(self, name, change):
        """Carry out the patch of a pod, whatever it expects; return what of the pod differs."""
        self.version += 1
        pod = self.pods.setdefault(name, {"labels": {}, "annotations": {}})
        for field in pod:
            changed = {**pod[field], **change[field]}
            pod[field] = {key: value for key, value in changed.items() if value is not None}
        return {**pod, "resourceVersion": str(self.version)}


def too_many(seconds):
    """Return the answer of an API server that has too much to do."""
    status = {"kind": "Status", "message": "too many requests", "code": 429}
    return web.json_response(status, status=429, headers={"Retry-After": str(seconds)})


@pytest.fixture
async def server():
    """Yield the API server, and a connection to it."""
    answer = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    api_server = ApiServer(Connection(configuration), replica="r")
    yield answer, api_server
    answer.free.set()
    await api_server.aclose()
    await runner.cleanup()


def labels(api_server, namespace, name="e"):
    """Return the labels of an election."""
    metadata = {"namespace": namespace, "name": name, "uid": "x"}
    spec = {"selector": {"matchLabels": {"a": "b"}}}
    resource = resource_from({"metadata": metadata, "spec": spec}, default_bucket="B")
    return Labels(api_server, resource, lambda pod: None)


async def until(condition):
    """Wait for a condition."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def hanging(api_server, server, namespaces, *, each):
    """Strip pods of some namespaces in vain, as often as that is tried."""

    async def strip(namespace, number):
        with working_for(namespace, f"e-{number}"), contextlib.suppress(ClusterUnreachable):
            pod = Pod(namespace, f"p-{number}", "u", "1")
            await labels(api_server, namespace).strip(pod, None, until=clock.now() + SECONDS)

    server.hangs.update(namespaces)
    tasks = [
        asyncio.create_task(strip(namespace, number))
        for namespace in namespaces
        for number in range(each)
    ]
    await until(lambda: server.going.total() >= len(namespaces))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("bad", (1, 20))
async def test_a_strip_waits_for_no_namespace_whose_webhook_hangs(server, bad):
    """However many pods of it are to be stripped. What hangs there is less than what there is."""
    answer, api_server = server
    namespaces = [f"bad-{number}" for number in range(bad)]
    async with hanging(api_server, answer, namespaces, each=max(10, 100 // bad)):
        async with asyncio.timeout(SECONDS - 5):  # nothing there ends before
            for number in range(10):
                pod = Pod("good", f"p-{number}", "u", "1")
                strips = labels(api_server, "good")
                await strips.strip(pod, None, until=clock.now() + SECONDS)
        assert answer.most <= REQUESTS.everything
        assert not any(
            answer.going[namespace] > REQUESTS.everything / 2 for namespace in namespaces
        )


async def test_a_strip_waits_for_no_other_election_of_its_namespace(server):
    """One election that hangs takes no more than its share of the namespace's."""
    answer, api_server = server
    answer.hangs.add("shop")
    stuck = [
        asyncio.create_task(patch(api_server, "shop", "bad", within=SECONDS)) for _ in range(100)
    ]
    await until(lambda: answer.going["shop"] > 5)
    good = asyncio.create_task(patch(api_server, "shop", "good", within=SECONDS))
    await until(lambda: ("PATCH", "shop", "good") in answer.came)
    for task in (*stuck, good):
        task.cancel()
    await asyncio.gather(*stuck, good, return_exceptions=True)


async def patch(api_server, namespace, election, *, within):
    """Take a label from a pod that has the name of its election."""
    with working_for(namespace, election), urgent(Rank.STRIP):
        pod = Pod(namespace, election, "u", "1")
        await api_server.patch_pod(pod, labels={}, annotations={}, timeout=within, within=within)


async def test_requests_go_in_the_order_of_their_ranks(server):
    """Strips, then labels, then reads and lists, then status and events."""
    answer, api_server = server
    api_server.connection.turns = Turns(Limits(turns=1, everything=1, patience=SECONDS))
    answer.hangs.add("first")
    tasks = [asyncio.create_task(api_server.get_pod("first", "first"))]
    await until(lambda: answer.came)
    strip = labels(api_server, "strips")
    add = labels(api_server, "changes", "billing")

    async def warrant():
        return 1

    requests = (
        api_server.replace_status("reports", "billing", resource_version="1", status={}),
        api_server.get_pod("reads", "read"),
        add._send(Pod("changes", "label", "u", "1"), 1, within=SECONDS),
        strip.strip(Pod("strips", "strip", "u", "1"), None, until=clock.now() + SECONDS),
    )
    for request in requests:
        with urgent(Rank.CHANGE) if request is requests[2] else contextlib.nullcontext():
            tasks.append(asyncio.create_task(request))
        await asyncio.sleep(0)
    await until(lambda: api_server.connection.turns.waiting() == len(requests))
    answer.free.set()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*tasks)
    assert [namespace for _, namespace, _ in answer.came] == [
        "first",
        "strips",
        "changes",
        "reads",
        "reports",
    ]


async def test_a_request_that_is_never_answered_gives_its_turn_back_at_its_limit(server):
    """Nothing is held for longer than the request is waited for."""
    answer, api_server = server
    api_server.requests.timeout = 0.2
    api_server.connection.turns = Turns(Limits(turns=1, everything=1, patience=SECONDS))
    answer.hangs.add("slow")
    with pytest.raises(ClusterUnreachable, match="in time"):
        await api_server.get_pod("slow", "a")
    assert (await api_server.get_pod("fast", "a")).name == "a"
    assert api_server.connection.turns.under_way() == 0


# Answers that come too late


async def test_a_label_that_is_stored_when_nobody_waits_any_more_is_stripped(server):
    """The webhook answers just after the deadline, and the API server stores what it held."""
    answer, api_server = server
    answer.hangs.add("shop")
    adds = labels(api_server, "shop", "billing")
    pod = Pod("shop", "a", "u", "1", labels={"a": "b"}, ready=True)

    async def warrant():
        return 7

    until_then = clock.now() + 0.5
    with pytest.raises(ClusterUnreachable):
        await adds.add(pod, warrant=warrant, until=lambda: until_then, first=False)
    assert [one.name for one in adds.doubtful] == ["a"]
    # What came too late is stored; the strip that was decided before it is refused.
    answer.hangs.clear()
    answer.free.set()
    answer.answers.append(web.json_response({"kind": "Status", "details": {}}, status=409))
    await adds.strip(pod, None, until=clock.now() + SECONDS)
    assert adds.doubtful == []
    assert [method for method, _, _ in answer.came] == ["PATCH", "PATCH", "GET", "PATCH"]


# 429 and Retry-After


async def test_a_namespace_is_left_alone_for_as_long_as_the_api_server_asks(server):
    """Whoever asks next waits for it without a turn; other namespaces do not wait."""
    answer, api_server = server
    answer.answers.append(too_many(1))
    started = clock.now()
    with pytest.raises(Overloaded):
        await api_server.get_pod("shop", "a")
    waiting = asyncio.create_task(api_server.get_pod("shop", "b"))
    await api_server.get_pod("other", "c")
    assert answer.came[-1] == ("GET", "other", "c")
    assert api_server.connection.turns.under_way() == 0
    await waiting
    assert clock.now() - started >= 1
    assert [name for _, _, name in answer.came] == ["a", "c", "b"]


async def test_a_strip_waits_as_long_as_the_api_server_asks_if_its_deadline_allows_that(server):
    """It is sent again after exactly that time."""
    answer, api_server = server
    answer.answers.append(too_many(1))
    started = clock.now()
    strips = labels(api_server, "shop")
    await strips.strip(Pod("shop", "a", "u", "1"), None, until=started + SECONDS)
    assert clock.now() - started >= 1
    # The refused patch, a look at the pod, and the patch again.
    assert [method for method, _, _ in answer.came] == ["PATCH", "GET", "PATCH"]


async def test_a_strip_is_tried_again_before_its_deadline_whatever_the_api_server_asks(server):
    """A second leader is worse than a request that comes too soon; but few of them are sent."""
    answer, api_server = server
    answer.answers += [too_many(3600) for _ in range(3)]
    started = clock.now()
    strips = labels(api_server, "shop")
    await strips.strip(Pod("shop", "a", "u", "1"), None, until=started + 2)
    assert clock.now() < started + 2
    assert len(answer.came) <= 6


async def test_a_strip_that_is_refused_until_its_deadline_counts_as_not_done(server):
    """The pod counts as labelled, and the caller tries again."""
    answer, api_server = server
    answer.answers += [too_many(3600) for _ in range(100)]
    strips = labels(api_server, "shop")
    with pytest.raises(ClusterUnreachable, match="counts as labelled"):
        await strips.strip(Pod("shop", "a", "u", "1"), None, until=clock.now() + 0.5)
    assert len(answer.came) < 20


async def test_a_label_that_would_be_late_is_not_sent_after_the_pause(server):
    """It waits for its turn no longer than its deadline."""
    answer, api_server = server
    api_server.connection.turns.hold("shop", SECONDS)
    with urgent(Rank.CHANGE), pytest.raises(Unsent, match="was not sent"):
        await api_server.patch_pod(
            Pod("shop", "a", "u", "1"), labels={}, annotations={}, timeout=5, within=0.2
        )
    assert answer.came == []


def test_the_ranks_of_requests_have_room_in_all():
    """At least one turn each, and fewer reports than others."""
    least = {rank: REQUESTS.ranks[rank].least for rank in Rank}
    assert all(least.values())
    assert REQUESTS.ranks[Rank.REPORT].most < min(
        REQUESTS.ranks[rank].most for rank in Rank if rank is not Rank.REPORT
    )
    assert isinstance(REQUESTS.ranks[Rank.STRIP], Bounds)
