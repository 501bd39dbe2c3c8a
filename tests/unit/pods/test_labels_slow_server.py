"""Writes of labels to an API server that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from fakecluster import make_pod
from incumbent import clock
from incumbent.errors import (
    ClusterError,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    Unsent,
)
from incumbent.pods.labels import RESEND_AFTER, insist
from labelwrites import LABEL, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


class Requests:
    """Answers each copy of a write after so many seconds, with an error or a value."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []

    async def send(self, limit):
        """Be the `send` of `insist`."""
        self.sent.append(clock.now())
        seconds, answer = self.answers.pop(0)
        if seconds >= limit:
            await asyncio.sleep(limit)
            msg = "no answer"
            raise ClusterUnreachable(msg)
        await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer


NO, UNKNOWN, LATE = Forbidden("no"), ClusterUnreachable("unknown"), Unsent("late")


@pytest.mark.parametrize(
    ("first", "second", "end"),
    (
        ((1, "1st"), None, (1, "1st")),
        ((2.5, "1st"), (9, "2nd"), (2.5, "1st")),
        ((9, "1st"), (0.1, "2nd"), (2.1, "2nd")),
        ((99, "1st"), (4, "2nd"), (6, "2nd")),
        ((99, "1st"), (99, "2nd"), (10, ClusterUnreachable)),
        ((1, NO), None, (1, Forbidden)),
        ((1, UNKNOWN), None, (1, ClusterUnreachable)),
        ((9, "1st"), (0.1, NO), (9, "1st")),
        ((9, "1st"), (0.1, LATE), (9, "1st")),
        ((9, "1st"), (0.1, UNKNOWN), (9, "1st")),
        ((99, "1st"), (0.1, NO), (10, ClusterUnreachable)),
        ((99, "1st"), (0.1, LATE), (10, ClusterUnreachable)),
        ((3, NO), (9, "2nd"), (10, ClusterUnreachable)),
        ((3, NO), (4, NO), (6, Forbidden)),
        ((99, "1st"), (0.1, Conflict("")), (2.1, Conflict)),
    ),
)
async def test_a_write_without_an_answer_is_sent_once_more(first, second, end):
    """The first request may still be answered. A refusal of one says nothing about the other."""
    requests = Requests(first, *([second] if second else []))
    seconds, answer = end
    if isinstance(answer, str):
        assert await insist(requests.send, within=10) == answer
    else:
        with pytest.raises(ClusterError) as caught:
            await insist(requests.send, within=10)
        assert type(caught.value) is answer
    assert clock.now() == pytest.approx(min(seconds, 10), abs=0.01)
    assert requests.sent == ([0] if second is None else [0, pytest.approx(RESEND_AFTER)])


async def test_no_answer_is_left_behind_that_nobody_looks_at():
    """Both may come at once; asyncio would log the error of the one that does not count."""
    left = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    for _ in range(20):  # which of two is looked at first is up to chance
        requests = Requests((3, "1st"), (3 - RESEND_AFTER, Conflict("")))
        with contextlib.suppress(Conflict):
            assert await insist(requests.send, within=10) == "1st"
    gc.collect()
    assert not left


@pytest.mark.parametrize("seconds", (2.5, 8.0))
async def test_a_slow_patch_is_slow_and_no_failure(cluster, labels, add, seconds):
    """An admission webhook may take up to what the deadline leaves."""
    cluster.latency = seconds
    pod = cluster.add(make_pod("a"))
    deadline = clock.now() + 3 * seconds
    assert await add(pod, 5, until=lambda: deadline)
    assert clock.now() == pytest.approx(seconds, abs=0.1)
    await labels.strip(cluster.pod("a"), None, until=clock.now() + 2 * seconds)
    assert label_of(cluster.pod("a")) == (None, None)
    assert labels.took == pytest.approx(seconds, abs=0.1)


async def test_a_patch_that_is_too_slow_says_how_long_it_took(cluster, add):
    """And what is probably the cause."""
    pod = cluster.add(make_pod("a"))
    said = pytest.raises(ClusterUnreachable, match=r"Pod a was not patched within 7.0 s.*webhook")
    with cluster.hanging("patch_pod"), said:
        await add(pod, 5, until=lambda: 7.0)


async def test_an_answer_that_comes_late_ends_no_later_doubt(cluster, labels, add):
    """A mark was carried out before the label was sent, and its answer comes after that."""
    pod = cluster.add(make_pod("a"))
    answered = asyncio.Event()
    plain = cluster.patch_pod

    async def patch_pod(*arguments, **options):
        patched = await plain(*arguments, **options)
        if options["labels"] == {LABEL: "candidate"}:
            await answered.wait()
        return patched

    cluster.patch_pod = patch_pod
    marking = asyncio.create_task(labels.mark(pod, "candidate"))
    await asyncio.sleep(0.1)
    marked = cluster.pod("a")
    with cluster.delaying_writes():
        adding = asyncio.create_task(add(marked, 5))
        await asyncio.sleep(0.1)
        answered.set()
        await marking
        assert labels.doubtful == [marked]
        adding.cancel()
        await asyncio.wait([adding])
    assert labels.doubtful == [marked]
