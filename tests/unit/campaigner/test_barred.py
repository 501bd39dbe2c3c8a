"""Elections that are not served: their lock is not theirs to use, or there are too many of them."""

import asyncio
import json

import pytest

from fakecluster import NAMESPACE, make_election, make_pod
from incumbent import clock
from incumbent.replicas.site import Site
from incumbent.status.situation import Problem
from stage import KEY, LABEL, TOKEN, TTL, Stage

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

LOCK = Problem("LockNotAllowed", "ask for it", of_bucket=False, bars=True)
QUOTA = Problem("QuotaExceeded", "too many", of_bucket=False, bars=True)
SECRET = "sess=9f8e7d6c"
RESTORED = {
    "observedGeneration": 1,
    "state": "Leader",
    "holder": SECRET,
    "token": 4711,
    "leader": {"podName": "a", "podUID": "uid-a", "acquiredTime": "2026-01-01T00:00:00Z"},
    "steward": {"replica": SECRET, "revision": 4712, "process": SECRET},
    "transitions": 3,
    "key": "user.42",
    "labelKey": LABEL,
    "site": "site",
    "bucket": {"name": "SESSIONS", "ttlSeconds": 900, "createdTime": "2026-01-01T00:00:00Z"},
    "conditions": [
        {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": f"{SECRET} holds the record",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, reason in (("Ready", "LedElsewhere"), ("BucketReady", "BucketFound"))
    ],
}
"""What a status says of a record of others: an operator without the rule wrote it, or a tenant."""


class Untouchable:
    """A bucket that nobody may look at, listen to or write to."""

    name = "SESSIONS"

    def __getattr__(self, name):
        raise AssertionError(name)


class Unread(Untouchable):
    """A writer of the history that nobody may ask."""


async def start(stage, problem=LOCK, **options):
    """Start a replica that must not serve the election."""
    options = {"view": Untouchable(), "history_writer": Unread(), **options}
    campaigner = await stage.start(**options)
    campaigner.block(problem)
    return campaigner


def told(campaigner):
    """Return all that a replica tells of its election."""
    return json.dumps(campaigner.view.row())


@pytest.mark.parametrize("problem", (LOCK, QUOTA), ids=lambda one: one.reason)
@pytest.mark.parametrize("mode", ("Managed", "Observed"))
async def test_nothing_of_the_lock_is_read_or_written(stage, problem, mode):
    stage.cluster.put_election(make_election(spec={"mode": mode}))
    campaigner = await start(stage, problem)
    await stage.until(lambda: stage.condition() == ("False", problem.reason), timeout=2)
    await asyncio.sleep(3 * TTL)
    assert not campaigner.gone.done()
    assert not stage.tasks[campaigner].done()
    assert stage.condition("Stalled") == ("True", problem.reason)
    assert stage.condition("BucketReady") == ("Unknown", "NotRead")
    assert stage.status["candidates"] == {"total": 2, "ready": 2}
    assert stage.reasons == [problem.reason]
    assert stage.writes == []
    assert await campaigner.view.history(limit=5) == {
        "namespace": NAMESPACE,
        "name": "billing",
        "problem": problem.message,
        "terms": [],
    }
    assert campaigner.view.bucket_trouble == ""


async def test_what_a_status_says_of_a_record_is_neither_told_nor_kept(stage):
    stage.cluster.put_election(make_election(status=RESTORED))
    campaigner = await start(stage)
    assert SECRET not in told(campaigner)
    assert "4711" not in told(campaigner)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=2)
    for words in (SECRET, "4711", "4712", "900", "createdTime", "acquiredTime"):
        assert words not in json.dumps(stage.status)
    kept = {name: stage.status[name] for name in ("key", "bucket", "labelKey", "site")}
    assert kept == {
        "key": "user.42",
        "bucket": {"name": "SESSIONS"},
        "labelKey": LABEL,
        "site": "site",
    }
    assert stage.status["transitions"] == 3
    assert told(campaigner).count("LockNotAllowed")
    assert SECRET not in told(campaigner)


async def test_what_is_written_into_its_status_later_is_not_told_either(stage):
    campaigner = await start(stage)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=2)
    await asyncio.sleep(5)
    election = stage.cluster.elections[NAMESPACE, "billing"]
    stage.cluster.put_election({**election, "status": RESTORED})
    await stage.until(lambda: "holder" not in stage.status, timeout=2)
    assert SECRET not in told(campaigner)
    assert stage.condition() == ("False", "LockNotAllowed")


async def test_names_of_a_lock_are_not_written_down_before_it_is_used(stage):
    """Otherwise another default of the operator would come too late."""
    await start(stage, QUOTA)
    await stage.until(lambda: stage.condition() == ("False", "QuotaExceeded"), timeout=2)
    assert not {"key", "bucket", "labelKey", "site"} & stage.status.keys()


async def test_suspended_election_says_why_it_would_not_be_served(stage):
    stage.change(suspend=True)
    await start(stage)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=2)


async def test_label_that_is_found_is_taken_away(stage):
    """A replica that served it has set it, and nobody else answers for it now."""
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"}, annotations={TOKEN: "7"})
    await start(stage)
    await stage.until(lambda: not stage.leaders, timeout=1)
    await stage.until(lambda: stage.condition("LabelsInSync") == ("True", "LabelsWritten"))


async def test_label_of_another_election_is_left_alone(stage):
    """Also when this one is deleted."""
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"}, annotations={TOKEN: "7"})
    other = Problem("LockNotAllowed", "no", of_bucket=False, bars=True, owns_label=False)
    campaigner = await start(stage, other)
    await asyncio.sleep(2 * TTL)
    assert stage.leaders == ["a"]
    await asyncio.wait_for(campaigner.retire(), 1)
    assert stage.leaders == ["a"]
    assert stage.writes == []


async def test_leader_gives_its_record_up_in_order(stage):
    """The label goes first, then the record, and after that nothing is asked of the bucket."""
    await stage.lead()
    stage.first.block(LOCK)
    await stage.until(lambda: not stage.leaders, timeout=1)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=1)
    assert stage.writes == ["a=candidate", "release"]
    assert stage.record is None
    assert stage.reasons[-2:] == ["LeaderLost", "LockNotAllowed"]
    calls = len(stage.bucket.calls)
    stage.bucket.put(KEY, SECRET)
    await asyncio.sleep(3 * TTL)
    assert len(stage.bucket.calls) == calls
    assert SECRET not in told(stage.first)
    assert not stage.bucket._watchers.get(KEY)


async def test_standby_of_it_ends_its_watch(stage):
    await stage.lead()
    standby = await stage.start("two")
    await asyncio.sleep(1)
    stage.first.block(LOCK)
    standby.block(LOCK)
    await asyncio.sleep(2)
    assert not stage.bucket._watchers.get(KEY)
    assert stage.record is None
    await asyncio.sleep(2 * TTL)
    assert stage.most_at_once() == 1
    assert not stage.leaders


async def test_it_begins_by_itself_when_it_is_served_again(stage):
    campaigner = await stage.start()
    campaigner.block(QUOTA)
    await stage.until(lambda: stage.condition() == ("False", "QuotaExceeded"), timeout=2)
    assert not stage.bucket._watchers
    campaigner.block(None)
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)
    await stage.until(lambda: stage.condition() == ("True", "Leading"), timeout=1)


async def test_deletion_takes_labels_back_without_the_bucket(stage):
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"}, annotations={TOKEN: "7"})
    stage.cluster.change("b", labels={"app": "billing", LABEL: "candidate"})
    campaigner = await start(stage)
    await asyncio.wait_for(campaigner.retire(), 1)
    for pod in stage.cluster.pods.values():
        assert LABEL not in pod.labels
        assert TOKEN not in pod.annotations


async def test_deletion_while_it_leads_still_releases(stage):
    await stage.lead()
    stage.first.block(LOCK)
    await asyncio.wait_for(stage.first.retire(), 1)
    assert stage.record is None
    assert not stage.leaders


async def test_process_that_ends_for_good_does_not_wait_for_it(stage):
    campaigner = await start(stage)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=2)
    await asyncio.wait_for(campaigner.resign(), 1)
    await asyncio.wait_for(campaigner.leave(), 1)


async def test_question_of_a_replica_that_serves_it_is_not_answered(stage):
    """To remove it would say that the record is renewed."""
    question = {"replica": "two", "renewedTime": "2026-01-01T00:00:00Z"}
    asked = {**RESTORED, "unconfirmed": question, "newcomer": "three/x"}
    stage.cluster.put_election(make_election(status=asked))
    await start(stage)
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=2)
    assert stage.status["unconfirmed"] == question
    assert stage.status["newcomer"] == "three/x"


# Two replicas with different rules, as in a rolling update


async def test_replica_that_bars_it_strips_whom_another_one_labels(stage):
    """They do not dispute for ever, and end with the replica that allowed it."""
    await stage.lead()
    await start(stage, name="two", nonce="other")
    await stage.until(lambda: not stage.leaders, timeout=1)
    await asyncio.sleep(60)
    patches, updates = len(stage.cluster.patches), stage.cluster.elections[NAMESPACE, "billing"]
    version = int(updates["metadata"]["resourceVersion"])
    await asyncio.sleep(300)
    assert len(stage.cluster.patches) - patches <= 30, "at most two each 20 s"
    now = int(stage.cluster.elections[NAMESPACE, "billing"]["metadata"]["resourceVersion"])
    assert now - version <= 100
    await stage.first.leave()
    await stage.kill(stage.first)
    await stage.until(lambda: not stage.leaders, timeout=1)
    await asyncio.sleep(2 * TTL)
    assert not stage.leaders
    await stage.until(lambda: stage.condition() == ("False", "LockNotAllowed"), timeout=40)
    assert not {"holder", "leader", "token", "steward"} & stage.status.keys()
    assert stage.record is None, "it has lapsed"
    assert stage.most_at_once() == 1


@pytest.mark.parametrize("after", (0.0, 0.03, 0.5, 1.7, 20.3))
@pytest.mark.parametrize("latency", (0.0, 0.2))
async def test_two_clusters_never_lead_at_once_while_replicas_of_one_dispute(stage, after, latency):
    """The replica that allows the lock is killed, and the other cluster leads next."""
    elsewhere = Stage()
    elsewhere.bucket, elsewhere.site = stage.bucket, Site("elsewhere", "uid-of-elsewhere")
    elsewhere.cluster.put_election(make_election())
    elsewhere.cluster.add(make_pod("c", uid="uid-c"))
    await stage.lead()
    stage.cluster.latency = latency
    other = await elsewhere.start("three")
    await start(stage, name="two", nonce="other")
    both = 0

    async def look(seconds):
        nonlocal both
        until = clock.now() + seconds
        while clock.now() < until:
            both += bool(stage.leaders and elsewhere.leaders)
            await asyncio.sleep(0.01)

    await look(after)
    await stage.kill(stage.first)
    await look(3 * TTL)
    assert elsewhere.leaders == ["c"]
    assert stage.leaders == []
    assert both == 0
    assert stage.most_at_once() == 1
    await elsewhere.kill(other)
