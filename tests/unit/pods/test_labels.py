"""The preconditions of patching a pod: fence and warrant."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace

import pytest

from fakecluster import NAMESPACE, FakeCluster, Operation, make_election, make_pod
from incumbent import clock
from incumbent.errors import (
    AdmissionDenied,
    ClusterError,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Unsent,
)
from incumbent.kubernetes.resource import resource_from
from incumbent.pods.labels import LONGEST_WRITE, RESEND_AFTER, TRIES, Labels, insist

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]

APP = {"app": "billing"}
LABEL = "incumbent.dev/billing"
TOKEN = "incumbent.dev/billing.token"
LEADS = {"labels": APP | {LABEL: "leader"}, "annotations": {TOKEN: "5"}}
FOREVER = 1e9
A_STEP = 0.25
"""Seconds in which one try and one read after the end of the time are over."""


@pytest.fixture
def cluster():
    """An API server with the election, and no pods."""
    cluster = FakeCluster()
    cluster.put_election(make_election())
    return cluster


@pytest.fixture
def learnt():
    """What was learnt."""
    return []


@pytest.fixture
def labels(cluster, learnt):
    return Labels(cluster, resource_from(make_election(), default_bucket="B"), learnt.append)


def label_of(pod):
    return pod.labels.get(LABEL), pod.annotations.get(TOKEN)


def touch(cluster, name="a", **values):
    """Return an action by somebody else that changes a pod."""
    return lambda: cluster.change(name, **values)


def answer(error):
    """Return an action that answers with an error."""

    def action():
        raise error

    return action


class Bucket:
    """Gives warrants; its writes are found among the calls of the cluster."""

    def __init__(self, cluster, *tokens, delay=0.0):
        self.cluster = cluster
        self.tokens = list(tokens)
        self.delay = delay

    async def warrant(self):
        """Store a write; return the first token that is left, the last one again and again."""
        self.cluster.calls.append(Operation("bucket"))
        await asyncio.sleep(self.delay)
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


@pytest.fixture
def add(labels, cluster):
    """Return a coroutine function that adds the label under a warrant for each token."""

    async def call(pod, *tokens, until=lambda: FOREVER, first=False, delay=0.0):
        bucket = Bucket(cluster, *tokens, delay=delay)
        return await labels.add(pod, warrant=bucket.warrant, until=until, first=first)

    return call


async def test_the_fixture_keeps_time():
    """Time-outs are waited for on the clock that the code looks at."""
    before = clock.now()
    await asyncio.sleep(100)
    assert clock.now() - before == pytest.approx(100)


# Strip

SHOWN = (
    pytest.param({}, id="nothing"),
    pytest.param({"labels": APP | {LABEL: "candidate"}}, id="candidate"),
    pytest.param({"annotations": {TOKEN: "0"}}, id="a fence"),
    pytest.param(LEADS, id="leader"),
    pytest.param({"labels": {LABEL: "leader"}}, id="leader without token, outside the selector"),
)


@pytest.mark.parametrize("value", ("candidate", None))
async def test_a_strip_takes_label_and_token_in_one_write(cluster, labels, learnt, value):
    """Afterwards the label says what was asked for, and the answer is learnt."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.strip(pod, value, until=FOREVER)
    assert label_of(cluster.pod("a")) == (value, None)
    assert cluster.operations == ["patch_pod"]
    assert learnt == [cluster.pod("a")]


@pytest.mark.parametrize("value", ("candidate", None))
@pytest.mark.parametrize("shown", SHOWN)
async def test_a_strip_is_always_a_real_write(cluster, labels, shown, value):
    """The API server drops a patch that changes nothing, and then nothing would be fenced."""
    pod = cluster.add(make_pod("a", **shown))
    for _ in range(3):
        before = cluster.pod("a")
        await labels.strip(before, value, until=FOREVER)
        assert cluster.pod("a").resource_version != before.resource_version
        assert cluster.pod("a").labels.get(LABEL) == value
    assert cluster.pod("a").uid == pod.uid


@pytest.mark.parametrize("shown", SHOWN)
async def test_a_label_that_is_still_on_its_way_is_refused_after_a_strip(
    cluster, labels, add, shown
):
    """Whatever the pod showed when it was stripped, a label sent before does not arrive."""
    pod = cluster.add(make_pod("a", **{**shown, "labels": APP | shown.get("labels", {})}))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(pod, 9)
        await labels.strip(pod, "candidate", until=FOREVER)
    assert [type(error) for error in late.refused] == [Conflict, Conflict]
    assert cluster.pod("a").labels[LABEL] == "candidate"


async def test_a_strip_is_decided_on_a_state_of_the_pod(cluster, labels):
    """It carries the resourceVersion that was seen, or that was read where none was."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.strip(pod, None, until=FOREVER)
    unknown = replace(pod, resource_version="")
    await labels.strip(unknown, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod", "patch_pod"]
    assert [patch.version for patch in cluster.patches] == ["2", "3"]


async def test_a_strip_starts_over_when_the_pod_has_changed(cluster, labels, learnt):
    """A conflict is no end: the pod is read, which is learnt, and stripped as it is now."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a", **LEADS)
    cluster.before_next("patch_pod", touch(cluster, ready=False))
    cluster.before_next("patch_pod", touch(cluster, ready=True))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod"] * 2 + ["patch_pod"]
    assert learnt == cluster.history[-3:]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_strip_whose_answer_was_lost_is_done_again(cluster, labels):
    """What was carried out without an answer is not confirmed; the second try is a real write."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.dropping_answers():
        await asyncio.sleep(RESEND_AFTER / 2)
    carried_out = cluster.pod("a")
    assert label_of(carried_out) == (None, None)
    assert not strip.done()
    await strip
    assert cluster.operations == ["patch_pod", "patch_pod", "get_pod", "patch_pod"]
    assert int(cluster.pod("a").resource_version) > int(carried_out.resource_version)


async def test_a_strip_that_arrives_late_changes_nothing(cluster, labels):
    """Its second try was confirmed, so the first one is refused."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.delaying_writes(1) as late:
        await strip
        confirmed = cluster.pod("a")
    assert [type(error) for error in late.refused] == [Conflict]
    assert cluster.pod("a") == confirmed


async def test_a_strip_waits_for_an_api_server_that_is_away(cluster, labels):
    """It goes on as soon as the API server is back."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.unreachable():
        await asyncio.sleep(5)
    assert not strip.done()
    await asyncio.wait_for(strip, timeout=1)
    assert label_of(cluster.pod("a")) == (None, None)


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_strip_ends_when_a_read_finds_the_pod_gone(cluster, labels, again):
    """No pod of that name, or another one, is a confirmation; the other one is left alone."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again, **LEADS))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod"]
    assert again is None or label_of(cluster.pod("a")) == ("leader", "5")


async def test_a_strip_of_a_pod_that_was_never_seen_may_find_none(cluster, labels):
    """A record can name a pod that is gone; then there is nothing to write."""
    await labels.strip(make_pod("a"), None, until=FOREVER)
    assert cluster.operations == ["get_pod"]


async def test_only_a_read_confirms_that_a_pod_is_gone(cluster, labels):
    """A patch that finds no pod is not enough while a read finds it."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.before_next("patch_pod", answer(NotFound("not here")))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod", "patch_pod"]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_pod_that_left_the_view_is_stripped_all_the_same(cluster, labels, learnt):
    """A watch shows a pod as deleted that only left the selector: it still carries the label."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.change("a", labels={LABEL: "leader"})
    await labels.strip(pod, None, until=FOREVER)
    assert label_of(cluster.pod("a")) == (None, None)
    assert learnt[-1] == cluster.pod("a")


@pytest.mark.parametrize(
    "fault",
    (
        pytest.param(lambda cluster: cluster.unreachable(), id="away"),
        pytest.param(lambda cluster: cluster.dropping_answers(), id="no answers"),
        pytest.param(lambda cluster: cluster.delaying_writes(), id="slow"),
        pytest.param(lambda cluster: cluster.hanging("patch_pod", "get_pod"), id="hanging"),
        pytest.param(lambda cluster: cluster.hanging("get_pod"), id="reads hang"),
        pytest.param(
            lambda cluster: cluster.refusing("patch_pod", error=Conflict("it changed")),
            id="always changing",
        ),
        pytest.param(
            lambda cluster: cluster.refusing("patch_pod", error=NotFound("not here")),
            id="patch and read disagree",
        ),
    ),
)
async def test_a_strip_is_bounded(cluster, labels, fault):
    """Not confirmed in time, it says so soon after, and not before."""
    cluster.latency = 0.01
    pod = replace(cluster.add(make_pod("a", **LEADS)), resource_version="1")
    with fault(cluster), pytest.raises(ClusterUnreachable, match="counts as labelled"):
        await labels.strip(pod, None, until=4.0)
    assert 4.0 <= clock.now() <= 4.0 + A_STEP


async def test_a_strip_is_tried_once_when_its_time_is_over(cluster, labels):
    """It harms nobody, and whoever asks is late, not wrong."""
    pod = cluster.add(make_pod("a", **LEADS))
    await asyncio.sleep(10)
    await labels.strip(pod, None, until=5.0)
    assert label_of(cluster.pod("a")) == (None, None)
    assert cluster.patches[0].timeout > 0


async def test_a_strip_does_not_wait_for_an_answer_beyond_its_time(cluster, labels):
    """A request waits for what is left, whether it is the first or the second one."""
    pod = cluster.add(make_pod("a", **LEADS))
    with cluster.dropping_answers(), pytest.raises(ClusterUnreachable):
        await labels.strip(pod, None, until=RESEND_AFTER + 0.5)
    first, *more = [patch.timeout for patch in cluster.patches]
    assert first == RESEND_AFTER + 0.5
    assert more
    assert all(0 < timeout <= 0.5 for timeout in more)


async def test_a_strip_that_is_not_allowed_says_so(cluster, labels):
    """There is no point in trying again."""
    pod = cluster.add(make_pod("a", **LEADS))
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod"]


# A slow API server


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


# Add


@pytest.mark.parametrize("error", (Forbidden("no right"), Unsent("no connection")))
async def test_a_label_that_was_certainly_not_written_is_not_in_doubt(cluster, labels, add, error):
    """There is nothing to be stripped then."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod", error=error), pytest.raises(type(error)):
        await add(pod, 7)
    assert labels.doubtful == []


async def test_a_label_is_added_with_its_token(cluster, add, learnt):
    """The pod as it is now is returned, and learnt."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 7) == cluster.pod("a")
    assert label_of(cluster.pod("a")) == ("leader", "7")
    assert learnt == [cluster.pod("a")]


async def test_the_pod_is_read_before_the_bucket_is_written(cluster, add):
    """The patch carries what was seen before the warrant, never what was read after it."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5)
    assert cluster.operations == ["bucket", "patch_pod"]
    assert cluster.patches[0].version == pod.resource_version


async def test_a_pod_that_changed_since_takes_a_new_warrant(cluster, add):
    """After a conflict everything starts over: read, write to the bucket, patch what was read."""
    pod = cluster.add(make_pod("a"))
    changed = cluster.change("a")
    assert await add(pod, 5, 8) == cluster.pod("a")
    assert cluster.operations == ["bucket", "patch_pod", "get_pod", "bucket", "patch_pod"]
    assert [patch.version for patch in cluster.patches] == [
        pod.resource_version,
        changed.resource_version,
    ]
    assert label_of(cluster.pod("a")) == ("leader", "8")


async def test_without_a_warrant_no_label_is_sent(cluster, add):
    """The bucket write was not stored, so somebody else may have the authority."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, None) is None
    assert cluster.operations == ["bucket"]


async def test_a_new_try_needs_a_new_warrant(cluster, add):
    """The warrant of the first try does not cover the second one."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a")
    assert await add(pod, 5, None) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod", "bucket"]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_label_that_shows_already_is_not_sent(cluster, add):
    """The pod was labelled by a write that got no answer; that still needs a warrant."""
    pod = cluster.add(make_pod("a", **LEADS))
    assert await add(pod, 5) == pod
    assert cluster.operations == ["bucket"]


@pytest.mark.parametrize("left", (0.0, -1.0))
async def test_no_label_is_sent_past_the_deadline(cluster, add, left):
    """The bucket took so long that there is no time left."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 5, delay=3.0, until=lambda: 3.0 + left) is None
    assert cluster.operations == ["bucket"]


async def test_the_deadline_is_the_one_that_the_warrant_brings(cluster, add):
    """The bucket write has moved it."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 5, delay=3.0, until=lambda: clock.now() + 1.0)
    assert label_of(cluster.pod("a")) == ("leader", "5")


@pytest.mark.parametrize(("left", "timeout"), ((0.5, 0.5), (9.0, 9.0), (60.0, LONGEST_WRITE)))
async def test_an_answer_is_not_waited_for_past_the_deadline(cluster, add, left, timeout):
    """Whoever waits longer could go on as if it led."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5, until=lambda: left)
    assert cluster.patches[0].timeout == timeout


@pytest.mark.parametrize(
    "values", ({"ready": False}, {"terminating": True}, {"labels": {}}, {"phase": "Failed"})
)
async def test_who_is_no_candidate_gets_no_label(cluster, add, values):
    """Whether it was none from the start, or is found to be none after a conflict."""
    pod = cluster.add(make_pod("a"))
    changed = cluster.change("a", **values)
    assert await add(changed, 5) is None
    assert cluster.operations == []
    assert await add(pod, 5) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod"]
    assert label_of(cluster.pod("a")) == (None, None)


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_pod_that_is_gone_gets_no_label(cluster, add, again):
    """Nor does another one of its name."""
    pod = cluster.add(make_pod("a"))
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again))
    assert await add(pod, 5) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod"]
    assert again is None or label_of(cluster.pod("a")) == (None, None)


async def test_a_pod_that_keeps_changing_is_given_up(cluster, add):
    """The caller gets the chance to see what else has changed."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod", error=Conflict("it changed")):
        assert await add(pod, 5) is None
    assert len(cluster.patches) == TRIES


async def test_the_first_label_of_a_term_needs_that_no_other_pod_carries_one(cluster, add):
    """It does not matter whether the selector matches the other one."""
    pod = cluster.add(make_pod("a"))
    cluster.add(make_pod("b", labels={LABEL: "leader"}))
    assert await add(pod, 5, first=True) is None
    assert cluster.patches == []


async def test_the_first_label_of_a_term_may_be_the_pods_second(cluster, add):
    """A pod that shows the label of an earlier term does not stand in its own way."""
    cluster.add(make_pod("c", namespace="other", labels={LABEL: "leader"}))
    cluster.add(make_pod("d", labels={LABEL: "candidate"}))
    pod = cluster.add(make_pod("a", **LEADS))
    assert await add(pod, 9, first=True)
    assert label_of(cluster.pod("a")) == ("leader", "9")


async def test_the_other_pods_are_looked_at_again_after_a_conflict(cluster, add):
    """Starting over means from the start."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a")
    other = make_pod("b", labels={LABEL: "leader"})
    cluster.before_next("patch_pod", lambda: cluster.add(other))
    assert await add(pod, 5, first=True) is None
    assert label_of(cluster.pod("a")) == (None, None)


async def test_later_labels_of_a_term_cost_no_list(cluster, add):
    """Who leads is known then, and other carriers are looked for in the view."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5, first=False)
    assert cluster.operations == ["bucket", "patch_pod"]


@pytest.mark.parametrize(
    "change",
    (
        pytest.param(None, id="gone"),
        pytest.param({"uid": "another"}, id="another of its name"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="being deleted"),
    ),
)
async def test_the_first_label_of_a_term_needs_its_election(cluster, add, change):
    """Nobody would ever take the label back."""
    pod = cluster.add(make_pod("a"))
    if change is None:
        cluster.elections.clear()
    else:
        cluster.put_election(make_election(**change))
    assert await add(pod, 5, first=True) is None
    assert cluster.patches == []


async def test_a_look_that_fails_is_an_error(cluster, add):
    """Without the list nothing is known, so nothing is sent."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("list_pods"), pytest.raises(Forbidden):
        await add(pod, 5, first=True)
    assert "bucket" not in cluster.operations


async def test_some_pods_may_carry_the_label_before_a_hand_over(cluster, labels):
    """The old leader, which is being stripped, is no claim of somebody else."""
    old, to = cluster.add(make_pod("a", **LEADS)), cluster.add(make_pod("b"))
    assert await labels.unclaimed(old, to, since=to.resource_version)
    listing = next(call for call in cluster.calls if call.name == "list_pods")
    assert listing.version == to.resource_version
    assert not await labels.unclaimed(to)
    cluster.add(make_pod("c", labels={LABEL: "leader"}))
    assert not await labels.unclaimed(old, to)


# Label writes without an answer


@pytest.fixture
def doubt(cluster, add):
    """Return a coroutine function: a pod to which a label was sent, but has not arrived so far."""

    async def send():
        pod = cluster.add(make_pod("a"))
        with cluster.delaying_writes() as late:
            with pytest.raises(ClusterUnreachable):
                await add(pod, 5)
            late.pending.clear()
        return pod

    return send


async def test_a_label_without_an_answer_counts_as_written(labels, doubt):
    """The pod is a carrier, though it does not show the label."""
    doubtful_pod = await doubt()
    assert labels.doubtful == [doubtful_pod]
    assert await labels.carriers() == [doubtful_pod]


async def test_a_label_whose_sender_was_cancelled_counts_as_written(cluster, labels, add):
    """The request may be on its way."""
    pod = cluster.add(make_pod("a"))
    sender = asyncio.create_task(add(pod, 5))
    with cluster.delaying_writes():
        await asyncio.sleep(1)
        sender.cancel()
        await asyncio.wait([sender])
    assert labels.doubtful == [pod]
    assert label_of(cluster.pod("a")) == ("leader", "5")


@pytest.mark.parametrize("first", (True, False))
async def test_nobody_else_is_labelled_in_the_meantime(cluster, labels, add, doubt, first):
    """Not before a strip of the doubtful pod is confirmed."""
    doubtful_pod = await doubt()
    other = cluster.add(make_pod("b"))
    assert await add(other, 6, first=first) is None
    await labels.strip(doubtful_pod, "candidate", until=FOREVER)
    assert labels.doubtful == []
    assert await add(other, 6, first=first) == cluster.pod("b")


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_doubt_ends_with_its_pod(cluster, labels, doubt, again):
    """A strip that finds no such pod any more is confirmed."""
    doubtful_pod = await doubt()
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again))
    await labels.strip(doubtful_pod, None, until=FOREVER)
    assert labels.doubtful == []


async def test_a_doubt_outlasts_a_strip_that_was_not_confirmed(cluster, labels, doubt):
    """Nothing is known any better."""
    doubtful_pod = await doubt()
    with cluster.unreachable(), pytest.raises(ClusterUnreachable):
        await labels.strip(doubtful_pod, None, until=1.0)
    assert labels.doubtful == [doubtful_pod]


async def test_the_same_pod_can_be_labelled_again(cluster, labels, add, doubt):
    """It is the one that is to lead; an answer to a later write ends the doubt."""
    doubtful_pod = await doubt()
    assert await add(doubtful_pod, 5, first=True) == cluster.pod("a")
    assert labels.doubtful == []


async def test_a_conflict_ends_the_doubt(cluster, labels, add, doubt):
    """The pod has moved on, so what was sent before has arrived, or never will."""
    doubtful_pod = await doubt()
    cluster.change("a", ready=False)
    assert await add(doubtful_pod, 5) is None
    assert labels.doubtful == []


async def test_a_conflict_ends_no_doubt_before_the_pod_is_read(cluster, labels, add, doubt):
    """It may be our own label that changed the pod."""
    doubtful_pod = await doubt()
    cluster.change("a", **LEADS)
    away = ClusterUnreachable("away")
    with cluster.refusing("get_pod", error=away), pytest.raises(ClusterUnreachable):
        await add(doubtful_pod, 5)
    assert labels.doubtful == [doubtful_pod]


async def test_a_mark_ends_the_doubt_if_it_changes_anything(cluster, labels, doubt):
    """A patch that the API server drops fences nothing."""
    doubtful_pod = await doubt()
    unmarked = replace(doubtful_pod, labels=APP)
    await labels.mark(unmarked, None)
    assert labels.doubtful == [doubtful_pod]
    await labels.mark(unmarked, "candidate")
    assert labels.doubtful == []


async def test_a_label_that_was_refused_is_not_doubtful(cluster, labels, add):
    """It was not written, and never will be."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await add(pod, 5)
    assert labels.doubtful == []


async def test_a_refusal_says_nothing_about_an_earlier_label(cluster, labels, add, doubt):
    """The one before may still arrive."""
    doubtful_pod = await doubt()
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await add(doubtful_pod, 5)
    assert labels.doubtful == [doubtful_pod]


async def test_a_replica_that_stood_still_labels_nobody(cluster, labels, add):
    """Its label was sent with a warrant of its own; its successor strips, and labels another."""
    successor = Labels(cluster, labels.resource, lambda _: None)
    a, b = cluster.add(make_pod("a")), cluster.add(make_pod("b"))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(a, 5)
        await successor.strip(a, "candidate", until=FOREVER)
        bucket = Bucket(cluster, 9)
        assert await successor.add(b, warrant=bucket.warrant, until=lambda: FOREVER, first=True)
    assert [type(error) for error in late.refused] == [Conflict, Conflict]
    leaders = [pod.name for pod in cluster.history if pod.labels.get(LABEL) == "leader"]
    assert leaders == ["b"]


# Mark and list


@pytest.mark.parametrize("value", ("candidate", None))
async def test_a_mark_sets_the_label_and_takes_the_fence(cluster, labels, learnt, value):
    """Whoever does not lead carries no token either."""
    pod = cluster.add(make_pod("a", labels=APP | {LABEL: "x"}, annotations={TOKEN: "0"}))
    await labels.mark(pod, value)
    assert label_of(cluster.pod("a")) == (value, None)
    assert cluster.patches[0].version == pod.resource_version
    assert learnt == [cluster.pod("a")]


async def test_a_mark_never_takes_the_leader_label(cluster, labels):
    """That takes a strip, which is confirmed."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.mark(pod, None)
    assert cluster.operations == []


async def test_a_mark_of_a_pod_that_has_changed_does_nothing(cluster, labels):
    """It could have become the leader meanwhile."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a", **LEADS)
    await labels.mark(pod, "candidate")
    assert label_of(cluster.pod("a")) == ("leader", "5")
    cluster.delete("a")
    await labels.mark(pod, "candidate")
    assert cluster.operations == ["patch_pod", "patch_pod"]


async def test_a_mark_without_an_answer_is_an_error(cluster, labels):
    """The pass has to come again."""
    pod = cluster.add(make_pod("a"))
    with cluster.unreachable(), pytest.raises(ClusterUnreachable):
        await labels.mark(pod, "candidate")


async def test_carriers_are_found_by_the_label_alone(cluster, labels):
    """A pod that left the selector, or runs no more, can still carry it."""
    cluster.add(make_pod("a", labels={LABEL: "leader"}, phase="Failed"))
    cluster.add(make_pod("b", labels=APP | {LABEL: "candidate"}))
    cluster.add(make_pod("c", labels={"incumbent.dev/other": "leader"}))
    cluster.add(make_pod("d", namespace="other", labels={LABEL: "leader"}))
    assert [pod.name for pod in await labels.carriers()] == ["a"]
    assert cluster.calls[-1].target == f"{LABEL}=leader"


async def test_a_carrier_is_listed_once_and_as_it_is_now(cluster, labels, doubt):
    """A doubtful pod whose label has arrived is not listed twice."""
    await doubt()
    labelled = cluster.change("a", **LEADS)
    assert await labels.carriers() == [labelled]
    assert labelled.namespace == NAMESPACE


# Webhooks that change what is written


def keep_label(before, patched):
    """Store the label as it was, whatever a patch says."""
    label = {name: value for name, value in before.labels.items() if name == LABEL}
    others = {name: value for name, value in patched.labels.items() if name != LABEL}
    return replace(patched, labels=others | label)


def keep_all(before, _):
    """Store nothing of a patch."""
    return before


def drop_label(_, patched):
    """Store no label of the election."""
    others = {name: value for name, value in patched.labels.items() if name != LABEL}
    return replace(patched, labels=others)


def take_note(_, patched):
    """Add something that is no business of ours."""
    return replace(patched, annotations=patched.annotations | {"policy": "seen"})


@pytest.mark.parametrize("change", (keep_label, keep_all))
async def test_a_strip_that_a_webhook_undoes_is_not_confirmed(cluster, labels, learnt, change):
    """The API server answers 200, and the pod has the label all the same."""
    pod = cluster.add(make_pod("a", **LEADS))
    with (
        cluster.webhook("a", change=change),
        pytest.raises(AdmissionDenied, match="Pod a has the leader label again"),
    ):
        await labels.strip(pod, "candidate", until=FOREVER)
    assert learnt == [cluster.pod("a")]
    await labels.strip(cluster.pod("a"), "candidate", until=FOREVER)


@pytest.mark.parametrize("shown", SHOWN)
async def test_a_strip_that_writes_nothing_is_not_confirmed(cluster, labels, add, shown):
    """A label that is still on its way would arrive."""
    pod = cluster.add(make_pod("a", **{**shown, "labels": APP | shown.get("labels", {})}))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(pod, 9)
        with cluster.webhook("a", change=keep_all), pytest.raises(AdmissionDenied):
            await labels.strip(pod, "candidate", until=FOREVER)
        assert labels.doubtful == [pod]
        late.carry_out()
    assert label_of(cluster.pod("a")) == ("leader", "9")


@pytest.mark.parametrize("change", (drop_label, keep_all))
async def test_a_label_that_a_webhook_takes_out_is_refused(cluster, labels, add, change):
    """The pod has no label, and nobody says that it leads."""
    pod = cluster.add(make_pod("a"))
    with (
        cluster.webhook("a", change=change),
        pytest.raises(AdmissionDenied, match="took the leader label out"),
    ):
        await add(pod, 5)
    assert labels.doubtful == []
    with cluster.webhook("a", change=change), pytest.raises(AdmissionDenied):
        await labels.would_accept(cluster.pod("a"))


async def test_a_mark_that_a_webhook_changes_is_refused(cluster, labels):
    """So it is not tried again at once, and for ever."""
    pod = cluster.add(make_pod("a"))
    with cluster.webhook("a", change=drop_label), pytest.raises(AdmissionDenied):
        await labels.mark(pod, "candidate")


async def test_what_a_webhook_adds_is_not_held_against_a_patch(cluster, labels, add):
    """Only the label counts."""
    pod = cluster.add(make_pod("a"))
    with cluster.webhook("a", change=take_note):
        await labels.mark(pod, "candidate")
        led = await add(cluster.pod("a"), 5)
        await labels.strip(led, "candidate", until=FOREVER)
    assert label_of(cluster.pod("a")) == ("candidate", None)
    assert labels.doubtful == []
