"""The watch of the pods of a namespace, and how it bears a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from incumbent import clock
from incumbent.errors import (
    ClusterUnreachable,
    Overloaded,
    Unconnected,
)
from incumbent.kubernetes import watch as kubernetes_watch
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodsReplaced, PodsUnwatched
from scriptedapi import (
    SECONDS,
    Script,
    bookmark,
    changes,
    error_event,
    pod,
    pod_json,
    silence,
)

pytestmark = pytest.mark.usefixtures("no_access_from_outside")


def test_pauses_grow_with_jitter_up_to_a_limit():
    """The first is short, the longest is 2 s, and a thousand failures do not overflow."""
    for attempt, longest in ((0, 0.1), (1, 0.2), (3, 0.8), (5, 2), (5000, 2)):
        pauses = {kubernetes_watch.pause_before(attempt) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_a_pause_is_as_long_as_the_server_asks_within_reason():
    """Retry-After lengthens a pause, beyond the longest of our own, but not beyond 10 s."""
    assert kubernetes_watch.pause_before(0, Overloaded("", 3)) == 3
    assert kubernetes_watch.pause_before(5000, Overloaded("", 3)) == 3
    assert kubernetes_watch.pause_before(0, Overloaded("", 3600)) == 60
    assert kubernetes_watch.pause_before(0, ClusterUnreachable("")) < 1


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

    monkeypatch.setattr(kubernetes_watch, "pause_before", pause_before)
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
    monkeypatch.setattr(kubernetes_watch, "WATCH_SECONDS", (0, 0))


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
    assert kubernetes_watch.WATCH_SECONDS == (240, 360)


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
        assert [api_server.watches.went_back("5", now) for now in ("4", "5", "6", "")] == [
            True,
            False,
            False,
            False,
        ]
        assert not api_server.watches.went_back("", "5")
        assert api_server.watches.went_back("5", "4")
        real = clock.now
        monkeypatch.setattr(clock, "now", lambda: real() + 61)
        assert api_server.watches.went_back("5", "4")
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
    monkeypatch.setattr(kubernetes_watch, "HEALTHY", -1)
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
    monkeypatch.setattr(kubernetes_watch, "SILENCE", 0.1)
    script = Script(lists=[("5",), ("6", pod_json("b", "6"))], watches=[silence])
    assert await take(await serve(script), 2) == [PodsReplaced(()), PodsReplaced((pod("b", "6"),))]
    assert attempts == [1]


async def test_a_watch_that_does_not_open_is_given_up(serve, attempts, monkeypatch):
    """An API server that accepts the connection and says nothing is tried again."""
    monkeypatch.setattr(kubernetes_watch, "TIMEOUT", 0.2)
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
