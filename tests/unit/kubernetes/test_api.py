"""The adapter: its pure functions, and how it bears a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import json
import socket

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration
from structlog.testing import capture_logs

from incumbent import clock
from incumbent.errors import (
    AdmissionDenied,
    ClusterError,
    ClusterUnreachable,
    Conflict,
    NotFound,
    Overloaded,
    Unconnected,
    Unsent,
)
from incumbent.kubernetes import api as kubernetes_api
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.connection import Connection, UnknownKind
from incumbent.kubernetes.fairness import Limits, Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodsReplaced, PodsUnwatched
from incumbent.kubernetes.turns import REQUESTS, Turns

# Without this, pytest-asyncio makes an event loop that nobody closes, when the first test of a run
# is no coroutine.
asyncio.set_event_loop(None)

pytestmark = pytest.mark.usefixtures("no_access_from_outside")

SECONDS = 10
"""Longer than anything here takes, so that a test that would hang fails."""


def pod_json(name="a", version="1", **metadata):
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True"},
            ],
        },
    }


def pod(name="a", version="1", **changes):
    values = {
        "namespace": "shop",
        "name": name,
        "uid": f"uid-{name}",
        "resource_version": version,
        "node": "node-1",
        "ip": "10.0.0.1",
        "created": "2026-01-01T00:00:00Z",
    }
    return Pod(**{**values, **changes})


# Pure functions


def test_a_pod_keeps_what_an_election_looks_at():
    """Labels, annotations, phase, readiness, node, address and age come out of the JSON."""
    json_pod = pod_json(labels={"app": "x"}, annotations={"incumbent.dev/priority": "1"})
    assert kubernetes_api.pod_from(json_pod) == pod(
        labels={"app": "x"}, annotations={"incumbent.dev/priority": "1"}
    )


def test_what_no_election_looks_at_is_not_kept_of_a_pod():
    """Annotations of others can be 256 KB; ports have no limit but the size of the object."""
    json_pod = pod_json(annotations={"incumbent.dev/priority": "1", "other": "x" * 200_000})
    ports = [{"name": f"p-{number}", "containerPort": number + 1} for number in range(10_000)]
    json_pod["spec"]["containers"] = [{"name": "main", "ports": ports}]
    kept = kubernetes_api.pod_from(json_pod)
    assert kept.annotations == {"incumbent.dev/priority": "1"}
    assert len(kept.ports) == kubernetes_api.MOST_PORTS
    assert kept.ports[0] == ("p-0", "TCP", 1)


def test_a_pod_without_optional_fields_is_neither_ready_nor_running():
    """A pod that is not scheduled yet has neither labels nor conditions nor an address."""
    bare = pod_json()
    del bare["spec"], bare["status"]
    assert kubernetes_api.pod_from(bare) == pod(phase="Unknown", ready=False, node="", ip="")


@pytest.mark.parametrize("conditions", ([], [{"type": "Ready", "status": "False"}]))
def test_a_pod_is_ready_only_when_it_says_so(conditions):
    """No condition Ready, and a false one, mean not ready."""
    json_pod = pod_json()
    json_pod["status"]["conditions"] = conditions
    assert not kubernetes_api.pod_from(json_pod).ready


def test_a_pod_with_a_deletion_timestamp_is_terminating():
    """The deletion timestamp is the one sign of termination."""
    assert kubernetes_api.pod_from(pod_json(deletionTimestamp="2026-01-01T00:00:00Z")).terminating


ELECTION = {
    "apiVersion": "incumbent.dev/v1alpha1",
    "kind": "LeaderElection",
    "metadata": {"name": "billing", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
}


def event(note="A note", replica="r1"):
    return kubernetes_api.event_about(
        ELECTION,
        kind="Normal",
        reason="LeaderElected",
        action="Elect",
        note=note,
        replica=replica,
        time=dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    )


def test_an_event_says_who_reports_what_about_which_election():
    """All fields that the API server wants are there, the time with microseconds."""
    reported = event()
    name = reported["metadata"].pop("name")
    assert name.startswith("billing.")
    assert reported == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "regarding": {
            "apiVersion": "incumbent.dev/v1alpha1",
            "kind": "LeaderElection",
            "name": "billing",
            "namespace": "shop",
            "uid": "u",
            "resourceVersion": "7",
        },
        "type": "Normal",
        "reason": "LeaderElected",
        "action": "Elect",
        "note": "A note",
        "reportingController": "incumbent.dev/operator",
        "reportingInstance": "r1",
        "eventTime": "2026-01-02T03:04:05.000678Z",
    }


def test_two_events_have_two_names():
    """The same event a second time is another object."""
    assert event()["metadata"]["name"] != event()["metadata"]["name"]


@pytest.mark.parametrize("letter", ("x", "ä", "界"))
def test_long_notes_and_replica_names_are_cut_to_bytes(letter):
    """The API server counts bytes; no letter is cut in two."""
    reported = event(note=letter * 2000, replica=letter * 200)
    assert 1021 < len(reported["note"].encode()) <= 1024
    assert 125 < len(reported["reportingInstance"].encode()) <= 128
    assert set(reported["note"] + reported["reportingInstance"]) == {letter}


def test_pauses_grow_with_jitter_up_to_a_limit():
    """The first is short, the longest is 2 s, and a thousand failures do not overflow."""
    for attempt, longest in ((0, 0.1), (1, 0.2), (3, 0.8), (5, 2), (5000, 2)):
        pauses = {kubernetes_api.pause_before(attempt) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_a_pause_is_as_long_as_the_server_asks_within_reason():
    """Retry-After lengthens a pause, beyond the longest of our own, but not beyond 10 s."""
    assert kubernetes_api.pause_before(0, Overloaded("", 3)) == 3
    assert kubernetes_api.pause_before(5000, Overloaded("", 3)) == 3
    assert kubernetes_api.pause_before(0, Overloaded("", 3600)) == 60
    assert kubernetes_api.pause_before(0, ClusterUnreachable("")) < 1


# Requests


@contextlib.asynccontextmanager
async def connected(server):
    configuration = Configuration(host=server, api_key={"BearerToken": "Bearer t1"})
    api_server = ApiServer(Connection(configuration), replica="r1")
    try:
        yield api_server
    finally:
        await api_server.aclose()


@pytest.fixture
async def serve():
    """Return a function that makes an `ApiServer` in front of a function that answers requests."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer):
            runner = web.ServerRunner(
                web.Server(answer, handler_cancellation=True), shutdown_timeout=0.1
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await stack.enter_async_context(
                connected(f"http://127.0.0.1:{runner.addresses[0][1]}")
            )

        yield start


def status_response(code, **headers):
    status = {"kind": "Status", "code": code, "message": "because", "details": {"name": "a"}}
    return web.json_response(status, status=code, headers=headers)


def patch(api_server, timeout=SECONDS):
    return api_server.patch_pod(
        pod(), labels={"l": "leader"}, annotations={"a": None}, timeout=timeout, within=timeout
    )


async def test_a_patch_carries_its_preconditions(serve):
    """UID and resourceVersion are in the body, so that the API server compares them."""
    seen = []

    async def answer(request):
        seen.append((request.method, request.path, request.content_type, await request.json()))
        assert request.headers["Authorization"] == "Bearer t1"
        return web.json_response(pod_json(version="2"))

    assert await patch(await serve(answer)) == pod(version="2")
    body = {
        "metadata": {
            "uid": "uid-a",
            "resourceVersion": "1",
            "labels": {"l": "leader"},
            "annotations": {"a": None},
        }
    }
    path = "/api/v1/namespaces/shop/pods/a"
    assert seen == [("PATCH", path, "application/merge-patch+json", body)]


@pytest.mark.parametrize(
    ("code", "kind"),
    ((403, AdmissionDenied), (404, NotFound), (409, Conflict), (500, ClusterUnreachable)),
)
async def test_refusals_become_our_errors(code, kind, serve):
    """The message of the API server is in the sentence."""

    async def answer(_):
        return status_response(code)

    with pytest.raises(kind, match="because"):
        await patch(await serve(answer))


async def test_too_many_requests_tells_how_long_to_wait(serve):
    """429 is an unreachable cluster that names a time."""

    async def answer(_):
        return status_response(429, **{"Retry-After": "7"})

    with pytest.raises(Overloaded) as caught:
        await patch(await serve(answer))
    assert caught.value.retry_after == 7


async def test_a_hanging_answer_ends_in_time(serve):
    """After the timeout the outcome is unknown, be it the headers or the body that hang."""

    async def hang_before(_):
        await asyncio.Event().wait()

    async def hang_within(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"metadata": ')
        await asyncio.Event().wait()

    for answer in (hang_before, hang_within):
        with pytest.raises(ClusterUnreachable, match="in time"):
            await patch(await serve(answer), timeout=0.1)


async def test_a_write_whose_connection_broke_is_not_sent_again(serve):
    """Only the caller may decide that the write is to be repeated."""
    requests = []

    async def answer(request):
        requests.append(request.method)
        if request.method == "GET":
            return web.json_response(pod_json())
        request.transport.abort()
        await asyncio.Event().wait()
        return None

    api_server = await serve(answer)
    await api_server.get_pod("shop", "a")  # opens the connection that breaks
    with pytest.raises(ClusterUnreachable, match="PATCH") as caught:
        await patch(api_server)
    assert not isinstance(caught.value, Unsent)
    with pytest.raises(ClusterUnreachable, match="PATCH"):
        await api_server.replace_status("shop", "billing", resource_version="1", status={})
    assert requests == ["GET", "PATCH", "PATCH"]


@pytest.mark.parametrize("body", ("<html>", '{"metadata": '))
async def test_an_answer_that_is_no_json_counts_as_none(body, serve):
    """A proxy that answers in place of the API server is no answer."""

    async def answer(_):
        return web.Response(text=body)

    with pytest.raises(ClusterUnreachable):
        await (await serve(answer)).get_pod("shop", "a")


@pytest.fixture
async def busy(serve):
    """Return an API server to which one request goes at a time, the first of which hangs."""
    asked, came, go_on = [], asyncio.Event(), asyncio.Event()

    async def answer(request):
        asked.append(request.method)
        came.set()
        await go_on.wait()
        return web.json_response(pod_json())

    api_server = await serve(answer)
    api_server.connection.turns = Turns(Limits(turns=1, everything=1, patience=SECONDS))
    first = asyncio.create_task(api_server.get_pod("shop", "a"))
    await came.wait()
    yield api_server, asked, go_on
    go_on.set()
    await first


async def test_a_request_whose_time_is_over_before_its_turn_is_not_sent(busy):
    """A label must not come late, and one that was not sent is not in doubt."""
    api_server, asked, _ = busy
    with pytest.raises(Unsent, match="was not sent") as caught:
        await patch(api_server, timeout=0.05)
    assert not isinstance(caught.value, Unconnected)
    assert asked == ["GET"]


WRITES = {
    "patch_pod": lambda api_server, **limits: api_server.patch_pod(
        pod(), labels={"l": "leader"}, annotations={}, **limits
    ),
    "create_slice": lambda api_server, **limits: api_server.create_slice(pod_json(), **limits),
    "patch_slice": lambda api_server, **limits: api_server.patch_slice(
        pod_json(), {"endpoints": []}, **limits
    ),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_whose_time_is_over_just_before_it_is_sent_is_not_sent(
    write, serve, monkeypatch
):
    """The machine slept, or the event loop stood still, after the deadline was looked at last."""
    asked, looks, jump_after = [], [], 100
    before_it_came = 0

    async def answer(request):
        nonlocal before_it_came
        before_it_came = len(looks)
        asked.append(request.method)
        return web.json_response(pod_json())

    api_server = await serve(answer)
    await api_server.get_pod("shop", "a")  # so that there is a connection
    real = clock.now

    def now():
        looks.append(1)
        return real() + (60 if len(looks) > jump_after else 0)

    monkeypatch.setattr(clock, "now", now)
    await WRITES[write](api_server, timeout=2, within=1.5)
    sent, times = list(asked), before_it_came
    for jump_after in range(1, times):  # noqa: B007  # `now` reads it
        looks.clear()
        with pytest.raises(Unsent, match="was not sent"):
            await WRITES[write](api_server, timeout=2, within=1.5)
    assert times > 2
    assert asked == sent


async def test_a_write_that_got_no_connection_in_time_is_not_in_doubt():
    """Whoever listens there says nothing, so that TLS does not begin."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with connected(f"https://127.0.0.1:{silent.getsockname()[1]}") as api_server:
            with pytest.raises(Unsent, match="was not sent"):
                await patch(api_server, timeout=0.1)


async def test_the_wait_for_a_turn_counts_against_no_limit_of_its_own(busy):
    """Many that begin at once would all fail otherwise, and be tried again."""
    api_server, _, go_on = busy
    api_server.request_timeout = 0.5
    waiting = asyncio.create_task(api_server.get_pod("shop", "a"))
    await asyncio.sleep(0.7)
    go_on.set()
    assert (await waiting).name == "a"


async def test_nobody_listening_is_unreachable():
    """A refused connection is an unreachable cluster, and nothing was sent."""
    async with connected("http://127.0.0.1:1") as api_server:
        with pytest.raises(Unconnected, match=r"127\.0\.0\.1:1"):
            await patch(api_server)


async def test_a_missing_object_is_none_and_a_missing_kind_is_an_error(serve):
    """The absence of one object says nothing about its kind."""

    async def answer(request):
        if "leaderelections/" in request.path:
            return web.Response(status=404, text="404 page not found\n")
        return status_response(404)

    api_server = await serve(answer)
    assert await api_server.get_pod("shop", "a") is None
    with pytest.raises(UnknownKind):
        await api_server.get_election("shop", "billing")


@pytest.mark.parametrize("since", ("", "5"))
async def test_a_list_takes_all_pages_of_one_version(since, serve):
    """Only the first page names a version; the others are of the same one by their token."""
    queries = []

    async def answer(request):
        queries.append(dict(request.query))
        if "continue" in request.query:
            return web.json_response(
                {"metadata": {"resourceVersion": "9"}, "items": [pod_json("b")]}
            )
        metadata = {"resourceVersion": "9", "continue": "a+/="}
        return web.json_response({"metadata": metadata, "items": [pod_json("a")]})

    pods = await (await serve(answer)).list_pods("shop", "l=leader,x!=y", since=since)
    assert pods == [pod("a"), pod("b")]
    first = {"limit": "200", "labelSelector": "l=leader,x!=y"}
    version = {"resourceVersion": "5", "resourceVersionMatch": "NotOlderThan"} if since else {}
    assert queries == [{**first, **version}, {**first, "continue": "a+/="}]


async def test_a_page_of_large_pods_is_asked_for_again_with_fewer_of_them(serve, monkeypatch):
    """Whoever may write large pods could otherwise take the memory, and hold up the loop."""
    monkeypatch.setattr(kubernetes_api, "LONGEST_PAGE", 20_000)
    large = {"incumbent.dev/much": "x" * 3000}
    names = [f"p-{number}" for number in range(20)]
    limits = []

    async def answer(request):
        limit, begin = int(request.query["limit"]), int(request.query.get("continue", "0"))
        limits.append((begin, limit))
        some = names[begin : begin + limit]
        more = str(begin + limit) if begin + limit < len(names) else ""
        items = [pod_json(name, annotations=large) for name in some]
        return web.json_response(
            {"metadata": {"resourceVersion": "9", "continue": more}, "items": items}
        )

    pods = await (await serve(answer)).list_pods("shop", "")
    assert [one.name for one in pods] == names
    assert limits == [(0, 200), (0, 25), *((begin, 3) for begin in range(0, 20, 3))]


async def test_one_pod_is_never_too_large(serve, monkeypatch):
    """Otherwise a list of it would never end."""
    monkeypatch.setattr(kubernetes_api, "LONGEST_PAGE", 10)

    async def answer(request):
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": [pod_json("a")]})

    pods = await (await serve(answer)).list_pods("shop", "")
    assert pods == [pod("a")]


async def test_requests_in_flight_are_limited(serve):
    """A thousand elections that start at once do not open a thousand connections."""
    in_flight = most = 0
    arrived = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def answer(_):
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        arrived.release()
        await go_on.wait()
        in_flight -= 1
        return web.json_response(pod_json())

    api_server = await serve(answer)
    limit = REQUESTS.ranks[Rank.ROUTINE].most
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as requests:
        for number in range(100):
            requests.create_task(api_server.get_pod(f"shop-{number}", "a"))
        for _ in range(limit):
            await arrived.acquire()
        go_on.set()
    assert most == limit


# Watches


def changes(*events):
    """Return the lines of a watch."""
    return b"".join(json.dumps({"type": t, "object": o}).encode() + b"\n" for t, o in events)


def bookmark(version):
    return ("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": version}})


def error_event(code):
    return ("ERROR", {"kind": "Status", "code": code, "message": "because"})


class Script:
    """An API server that answers each list and each watch with the next part of a script.

    The last part of each is repeated. A watch is bytes, an HTTP status, or a function that gets the
    response. `requests` shows what was asked: "list", or the resourceVersion of a watch.
    """

    def __init__(self, *, lists, watches):
        self.lists = lists
        self.watches = watches
        self.requests = []
        self.opened = asyncio.Semaphore(0)
        self.closed = asyncio.Event()

    async def __call__(self, request):
        """Answer a request."""
        if "watch" not in request.query:
            self.requests.append("list")
            part = next_part(self.lists)
            if isinstance(part, int):
                return status_response(part)
            version, *pods = part
            return web.json_response({"metadata": {"resourceVersion": version}, "items": pods})
        assert request.query["allowWatchBookmarks"] == "true"
        shortest, longest = kubernetes_api.WATCH_SECONDS
        assert shortest <= int(request.query["timeoutSeconds"]) <= longest
        self.requests.append(request.query["resourceVersion"])
        part = next_part(self.watches)
        if isinstance(part, int):
            return status_response(part)
        response = web.StreamResponse()
        await response.prepare(request)
        if isinstance(part, bytes):
            await response.write(part)
            return response
        self.opened.release()
        try:
            await part(response)
        finally:
            self.closed.set()
        return response


def next_part(parts):
    return parts.pop(0) if len(parts) > 1 else parts[0]


async def silence(_):
    await asyncio.Event().wait()


async def take(api_server, count):
    """Return the first events of a watch."""
    async with (
        asyncio.timeout(SECONDS),
        contextlib.aclosing(api_server.watch_pods("shop")) as events,
    ):
        return [await anext(events) for _ in range(count)]


@pytest.fixture
def attempts(monkeypatch):
    """Return the list of failures that a pause followed; the pauses themselves are none."""
    seen = []

    def pause_before(attempt, problem=None):
        seen.append(attempt)
        return 0

    monkeypatch.setattr(kubernetes_api, "pause_before", pause_before)
    return seen


async def test_a_watch_lists_first_and_then_tells_changes(serve):
    """The list replaces everything, bookmarks are not events, deletions carry the last state."""
    script = Script(
        lists=[("5", pod_json("a"))],
        watches=[
            changes(
                ("ADDED", pod_json("b", "6")),
                bookmark("7"),
                ("MODIFIED", pod_json("b", "8")),
                ("DELETED", pod_json("b", "9")),
            ),
            silence,
        ],
    )
    assert await take(await serve(script), 4) == [
        PodsReplaced((pod("a"),)),
        PodChanged(pod("b", "6")),
        PodChanged(pod("b", "8")),
        PodDeleted(pod("b", "9")),
    ]


@pytest.fixture
def short_watches(monkeypatch):
    """Let every watch that ends have ended by its time."""
    monkeypatch.setattr(kubernetes_api, "WATCH_SECONDS", (0, 0))


@pytest.mark.usefixtures("attempts", "short_watches")
async def test_a_watch_whose_time_is_over_goes_on_from_the_last_version_it_saw(serve):
    """Bookmarks count, too, so that a quiet watch does not become too old."""
    later = changes(("ADDED", pod_json("b", "9")))
    script = Script(lists=[("5",)], watches=[changes(bookmark("7")), b"", later, silence])
    assert await take(await serve(script), 2) == [PodsReplaced(()), PodChanged(pod("b", "9"))]
    assert script.requests == ["list", "4", "6", "6"]


@pytest.mark.usefixtures("attempts", "short_watches")
async def test_a_change_is_not_told_again_by_the_next_watch(serve):
    """It starts one version before what is known, for otherwise it would get no bookmarks."""
    known, gone = ("MODIFIED", pod_json("b", "6")), ("DELETED", pod_json("b", "8"))
    later = ("ADDED", pod_json("c", "9"))
    script = Script(
        lists=[("5",)],
        watches=[changes(known), changes(known, gone), changes(gone, later), silence],
    )
    assert await take(await serve(script), 4) == [
        PodsReplaced(()),
        PodChanged(pod("b", "6")),
        PodDeleted(pod("b", "8")),
        PodChanged(pod("c", "9")),
    ]


@pytest.mark.parametrize(
    ("version", "start"), (("7", "6"), ("2", "1"), ("1", "1"), ("0", "0"), ("opaque", "opaque"))
)
def test_a_watch_starts_one_version_before(version, start):
    """Never at 0, which stands for any version."""
    assert kubernetes_api.one_before(version) == start


@pytest.mark.usefixtures("attempts")
async def test_a_watch_from_the_oldest_version_of_an_api_server_starts_there(serve):
    """Its watch cache may begin with our list, and then the version before is too old."""
    script = Script(lists=[("5",)], watches=[410, changes(("ADDED", pod_json("b", "6"))), silence])
    await take(await serve(script), 3)
    assert script.requests == ["list", "4", "list", "5"]


@pytest.mark.parametrize("gone", (410, changes(error_event(410))), ids=["http", "event"])
async def test_a_watch_that_is_too_old_lists_again_at_once(gone, serve, attempts):
    """What is not in the new list is gone, and there is no pause."""
    script = Script(lists=[("5", pod_json("a")), ("8", pod_json("b"))], watches=[gone, silence])
    assert await take(await serve(script), 2) == [
        PodsReplaced((pod("a"),)),
        PodsReplaced((pod("b"),)),
    ]
    assert attempts == []


async def test_a_watch_that_is_always_too_old_pauses(serve, attempts):
    """An API server that never accepts the version of its own list is not flooded."""
    script = Script(lists=[("5",)], watches=[410])
    await take(await serve(script), 4)
    assert attempts == [2, 3]


def test_watches_last_for_minutes():
    """Not all the same time, so that they do not end together."""
    assert kubernetes_api.WATCH_SECONDS == (240, 360)


@pytest.mark.parametrize("failure", (500, 403, 429))
async def test_a_watch_that_is_refused_pauses_and_goes_on(failure, serve, attempts):
    """Anything but 410 keeps the version; the pauses grow while it goes on."""
    later = changes(("ADDED", pod_json("b", "6")))
    script = Script(lists=[("5",)], watches=[failure, failure, later, silence])
    assert await take(await serve(script), 2) == [PodsReplaced(()), PodChanged(pod("b", "6"))]
    assert script.requests == ["list", "4", "4", "4"]
    assert attempts == [1, 2]


async def cut(response):
    line = changes(("ADDED", pod_json("b", "6")))
    await response.write(line + changes(("ADDED", pod_json("c", "7")))[:50])
    await asyncio.sleep(0.05)
    response._req.transport.abort()


@pytest.mark.parametrize(
    ("failure", "pauses"),
    ((changes(error_event(500)), [1]), (b"nonsense\n", [1]), (b"", []), (cut, [1])),
    ids=["error", "nonsense", "early end", "cut"],
)
@pytest.mark.parametrize("version", ("9", "3"), ids=["later", "earlier"])
async def test_a_watch_that_is_interrupted_lists_again(failure, pauses, version, serve, attempts):
    """The API server behind it may be one whose etcd was restored, and whose versions went back.

    From a version that does not exist yet a watch would show nothing.
    """
    script = Script(
        lists=[("5", pod_json("a")), (version, pod_json("b", "2"))], watches=[failure, silence]
    )
    with capture_logs() as logs:
        api_server = await serve(script)
        *_, last = await take(api_server, 3 if failure is cut else 2)
    assert last == PodsReplaced((pod("b", "2"),), restored=version == "3")
    assert script.requests == ["list", "4", "list"]
    assert attempts == pauses
    said = [line for line in logs if line["event"] == "cluster.restored"]
    assert [line["version"] for line in said] == (["3"] if version == "3" else [])


async def test_it_is_said_once_that_versions_went_back(serve, monkeypatch):
    """Not by each namespace; but again when it happens again."""
    api_server = await serve(None)
    with capture_logs() as logs:
        assert [api_server.went_back("5", now) for now in ("4", "5", "6", "")] == [
            True,
            False,
            False,
            False,
        ]
        assert not api_server.went_back("", "5")
        assert api_server.went_back("5", "4")
        real = clock.now
        monkeypatch.setattr(clock, "now", lambda: real() + 61)
        assert api_server.went_back("5", "4")
    assert len(logs) == 2


@pytest.mark.usefixtures("attempts")
async def test_an_api_server_that_was_away_is_listed_again(serve):
    """It was replaced, perhaps, before the watch of the list had begun."""
    script = Script(lists=[("5", pod_json("a"))], watches=[silence])
    api_server = await serve(script)
    real, failures = api_server.connection.send, ["x"]

    async def send(method, path, **options):
        if "watch" in (options.get("query") or {}) and failures:
            failures.pop()
            message = "refused"
            raise Unconnected(message)
        return await real(method, path, **options)

    api_server.connection.send = send
    await take(api_server, 2)
    assert script.requests == ["list", "list"]


async def test_the_pauses_start_anew_after_a_watch_that_worked(serve, attempts, monkeypatch):
    """A watch that lasted makes the failures before it forgotten."""
    monkeypatch.setattr(kubernetes_api, "HEALTHY", -1)
    later = changes(("ADDED", pod_json("b", "6")))
    script = Script(lists=[("5",)], watches=[500, 500, 500, later, silence])
    await take(await serve(script), 2)
    assert attempts == [0, 0, 0]


async def test_a_list_that_fails_is_tried_again(serve, attempts):
    """A watch starts when the API server comes, whatever it said before."""
    script = Script(lists=[500, 403, ("5", pod_json("a"))], watches=[silence])
    assert await take(await serve(script), 1) == [PodsReplaced((pod("a"),))]
    assert attempts == [1, 2]


async def test_lines_may_arrive_in_pieces_and_may_be_long(serve):
    """Neither the chunks of HTTP nor the size of a pod matter."""
    long = pod_json("b", "6", annotations={"incumbent.dev/long": "x" * 3_000_000})

    async def pieces(response):
        line = changes(("ADDED", pod_json("c", "7")))
        for part in (changes(("ADDED", long)), line[:1], line[1:100], line[100:]):
            await response.write(part)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    script = Script(lists=[("5",)], watches=[pieces])
    _, first, second = await take(await serve(script), 3)
    assert first.pod.annotations == {"incumbent.dev/long": "x" * 3_000_000}
    assert second == PodChanged(pod("c", "7"))


async def test_a_silent_watch_is_taken_for_dead(serve, attempts, monkeypatch):
    """A half-open connection is noticed, for bookmarks would have come."""
    monkeypatch.setattr(kubernetes_api, "SILENCE", 0.1)
    script = Script(lists=[("5",), ("6", pod_json("b", "6"))], watches=[silence])
    assert await take(await serve(script), 2) == [PodsReplaced(()), PodsReplaced((pod("b", "6"),))]
    assert attempts == [1]


async def test_a_watch_that_does_not_open_is_given_up(serve, attempts, monkeypatch):
    """An API server that accepts the connection and says nothing is tried again."""
    monkeypatch.setattr(kubernetes_api, "TIMEOUT", 0.2)
    hung = asyncio.Event()
    script = Script(lists=[("5",)], watches=[changes(("ADDED", pod_json("b", "6"))), silence])

    async def answer(request):
        if "watch" in request.query and not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return await script(request)

    assert await take(await serve(answer), 2) == [PodsReplaced(()), PodChanged(pod("b", "6"))]
    assert attempts == [1]


async def test_a_slow_consumer_loses_nothing(serve):
    """What the consumer has not taken waits, in order, also beyond all buffers."""
    count = 600
    filler = {"filler": "x" * 20_000}

    async def flood(response):
        for version in range(count):
            await response.write(
                changes(("MODIFIED", pod_json("a", str(version), annotations=filler)))
            )
        await asyncio.Event().wait()

    script = Script(lists=[("5",)], watches=[flood])
    api_server = await serve(script)
    seen = []
    async with contextlib.aclosing(api_server.watch_pods("shop")) as events:
        await anext(events)
        while len(seen) < count:
            change = await anext(events)
            seen.append(change.pod.resource_version)
            if len(seen) % 100 == 1:
                await asyncio.sleep(0.05)
    assert seen == [str(version) for version in range(count)]
    assert script.requests == ["list", "4"]


async def test_a_watch_too_many_waits_until_another_one_ends(serve):
    """It is said why, in the log once for all that wait."""
    script = Script(lists=[("5", pod_json("a"))], watches=[silence])
    api_server = ApiServer((await serve(script)).connection, replica="r1", watches=1)
    async with asyncio.timeout(SECONDS):
        with capture_logs() as logs:
            first, *others = (api_server.watch_pods(f"shop-{number}") for number in range(3))
            assert await anext(first) == PodsReplaced((pod("a"),))
            for one in others:
                waits = await anext(one)
                assert isinstance(waits, PodsUnwatched)
                assert "ulimit" in waits.reason
        assert [line["event"] for line in logs] == ["cluster.too_many_namespaces"]
        following = [asyncio.ensure_future(anext(one)) for one in others]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in following)
        await first.aclose()
        assert await following[0] == PodsReplaced((pod("a"),))
        following[1].cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for one in others:
            await one.aclose()
        last = api_server.watch_pods("shop-4")  # nothing is left that would be in its way
        assert await anext(last) == PodsReplaced((pod("a"),))
        await last.aclose()


async def test_closing_a_watch_closes_its_connection(serve):
    """The API server does not keep a watch that nobody reads."""
    script = Script(lists=[("5",)], watches=[silence])
    api_server = await serve(script)
    events = api_server.watch_pods("shop")
    await anext(events)
    following = asyncio.ensure_future(anext(events))
    async with asyncio.timeout(SECONDS):
        await script.opened.acquire()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        await events.aclose()
        await script.closed.wait()


async def test_a_watch_does_not_keep_the_pods_of_its_list(serve):
    """They change, and would stay in memory as they were at first for as long as it goes on."""
    name = "of-a-list"
    script = Script(lists=[("5", pod_json(name))], watches=[changes(("ADDED", pod_json()))])
    events = (await serve(script)).watch_pods("shop")
    async with asyncio.timeout(SECONDS), contextlib.aclosing(events):
        listed = await anext(events)
        assert [one.name for one in listed.pods] == [name]
        del listed
        await anext(events)
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Pod) and one.name == name]


async def test_watches_leave_room_for_requests(serve):
    """As many namespaces as there may be: their watches do not use up a pool of connections."""
    script = Script(lists=[("5",)], watches=[silence])

    async def answer(request):
        return (
            web.json_response(pod_json()) if request.path.endswith("/a") else await script(request)
        )

    api_server = await serve(answer)

    async def follow():
        async for _ in api_server.watch_pods("shop"):
            pass

    watches = [asyncio.create_task(follow()) for _ in range(110)]
    try:
        async with asyncio.timeout(SECONDS):
            for _ in watches:
                await script.opened.acquire()
            assert await api_server.get_pod("shop", "a") == pod()
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


@pytest.mark.parametrize(
    ("spec", "hostname", "domain"),
    (
        ({}, "", ""),
        ({"hostname": "h"}, "h", ""),
        ({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}, "h", "s.shop.svc"),
        ({"subdomain": "s"}, "", "s.shop.svc"),
        ({"hostNetwork": True, "nodeName": "node-1"}, "node-1", ""),
        ({"hostnameOverride": "db.corp", "hostname": "h", "subdomain": "s"}, "db.corp", ""),
    ),
)
def test_host_names_are_those_that_the_kubelet_sets(spec, hostname, domain):
    """By the fields of the pod's spec."""
    body = pod_json("a")
    found = kubernetes_api.pod_from({**body, "spec": {**body.get("spec", {}), **spec}})
    assert (found.hostname, found.domain) == (hostname, domain)


@pytest.mark.parametrize(
    ("name", "hostname"),
    (
        ("x" * 63, ""),
        ("x" * 64, "x" * 63),
        ("x" * 61 + "-.y", "x" * 61),
        ("x" * 62 + "-y", "x" * 62),
    ),
)
def test_long_pod_name_is_cut_for_its_host_name(name, hostname):
    """To 63 letters, and no hyphen or period at the end."""
    assert kubernetes_api.hostname_from(name, {}) == hostname


async def test_a_dry_run_asks_and_writes_nothing(serve):
    """The request says so."""
    asked = []

    async def answer(request):
        asked.append(dict(request.query))
        return web.json_response(pod_json())

    api_server = await serve(answer)
    await api_server.patch_pod(pod(), labels={}, annotations={}, timeout=SECONDS, dry_run=True)
    assert asked == [{"dryRun": "All"}]


async def test_a_namespace_gets_so_many_events_and_no_more(serve, monkeypatch):
    """One whose leaders change all the time fills no etcd; others get all of theirs."""
    monkeypatch.setattr(kubernetes_api, "EVENTS_BURST", 5)
    asked = []

    async def answer(request):
        asked.append(request.path.split("/")[5])
        return web.json_response({})

    def emit(namespace):
        metadata = {"namespace": namespace, "name": "a", "uid": "u", "resourceVersion": "1"}
        about = {"apiVersion": "incumbent.dev/v1alpha1", "kind": "X", "metadata": metadata}
        words = {"reason": "LeaderElected", "action": "Elect", "note": "A note"}
        return api_server.emit_event(about, kind="Normal", **words)

    api_server = await serve(answer)
    for _ in range(kubernetes_api.EVENTS_BURST):
        await emit("shop")
    with pytest.raises(ClusterError, match="Namespace shop has had"):
        await emit("shop")
    await emit("bank")
    assert asked.count("shop") == kubernetes_api.EVENTS_BURST
    assert asked.count("bank") == 1
