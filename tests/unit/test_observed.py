"""Elections whose members campaign by themselves: the operator only labels who holds the record."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import make_election, make_pod
from incumbent import wire
from stage import KEY, LABEL, TOKEN, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


@pytest.fixture
def stage(stage):
    """A site with two candidates, `a` and `b`, and an election that is only observed."""
    stage.cluster.put_election(make_election(spec={"mode": "Observed"}))
    stage.cluster.change("b", hostname="host-b")
    return stage


class Member:
    """A member that campaigns by itself."""

    def __init__(self, stage, holder, **headers):
        self.stage, self.holder, self.headers = stage, holder, headers
        self.task = asyncio.create_task(self.renew())

    async def renew(self):
        """Renew for ever."""
        while True:
            self.stage.bucket.put(KEY, self.holder, self.headers)
            await asyncio.sleep(TTL / 3)

    def stop(self):
        """Fall silent."""
        self.task.cancel()


@pytest.fixture
async def member(stage):
    """Return a function that starts a member; all end with the test."""
    members = []

    def start(holder, **headers):
        members.append(Member(stage, holder, **headers))
        return members[-1]

    yield start
    for one in members:
        one.stop()


def own(term):
    """The headers that a member sends which uses our library."""
    return {wire.REPLICA: "m/nonce", wire.TERM: str(term), wire.PROMOTED: "1"}


@pytest.mark.parametrize(
    ("holder", "leaders"),
    (
        ("site/shop/a", ["a"]),
        ("shop/a", ["a"]),
        ("a", ["a"]),
        ("host-b", ["b"]),
        ("other/shop/a", []),
        ("elsewhere/a", []),
        ("laptop-7", []),
        ("", []),
    ),
)
async def test_holder_is_labelled_by_each_of_its_names(stage, member, holder, leaders):
    """Whoever else holds the record is shown, and no pod is labelled."""
    await stage.start()
    member(holder)
    await asyncio.sleep(TTL)
    assert stage.leaders == leaders
    assert stage.status["holder"] == holder
    reason = "Leading" if leaders else "LedElsewhere"
    assert stage.condition() == ("True", reason)
    assert stage.status["state"] == ("Leader" if leaders else "Candidate")


async def test_host_name_of_several_pods_means_none(stage, member):
    """It would be a guess."""
    stage.cluster.add(make_pod("c", hostname="host-b"))
    await stage.start()
    member("host-b")
    await asyncio.sleep(TTL)
    assert stage.leaders == []


async def test_operator_writes_nothing_to_the_bucket(stage, member):
    """Neither while the key is vacant, nor while a member holds it, nor at the end."""
    stage.first = await stage.start()
    await asyncio.sleep(2 * TTL)
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(2 * TTL)
    await stage.first.retire()
    assert not {"create", "renew", "transfer", "release"} & set(stage.bucket.operations)


async def test_label_follows_the_holder(stage, member):
    """The old pod is stripped before the next one is labelled, and at rest nothing is written."""
    await stage.start()
    first = member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(TTL)
    patches = len(stage.cluster.patches)
    await asyncio.sleep(5 * TTL)
    assert len(stage.cluster.patches) == patches
    first.stop()
    member("b")
    await stage.until(lambda: stage.leaders == ["b"], timeout=1)
    assert stage.most_at_once() == 1
    await stage.until(lambda: stage.reasons[-1] == "HandedOver")


@pytest.mark.parametrize("how", ("delete", "silence"))
async def test_label_goes_with_the_record(stage, member, how):
    """When it is deleted, and when it lapses."""
    await stage.start()
    one = member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    one.stop()
    if how == "delete":
        stage.bucket.delete(KEY)
    await stage.until(lambda: not stage.leaders, timeout=1 if how == "delete" else TTL + 0.5)


async def test_token_is_that_of_the_member(stage, member):
    """A member that has none gets none: its revision changes with each renewal."""
    await stage.start()
    one = member("a", **own(1))
    await stage.until(lambda: stage.leaders == ["a"])
    assert stage.cluster.pods["shop", "a"].annotations[TOKEN] == "1"
    await stage.until(lambda: stage.status.get("token") == 1)
    one.stop()
    member("b")
    await stage.until(lambda: stage.leaders == ["b"])
    assert stage.cluster.pods["shop", "b"].annotations[TOKEN] == "0"


async def test_holder_that_cannot_lead_gets_no_label(stage, member):
    """No Service would send it anything; when it is ready again it is labelled."""
    stage.cluster.change("a", ready=False)
    await stage.start()
    member("a")
    await asyncio.sleep(TTL)
    assert stage.leaders == []
    stage.cluster.change("a", ready=True)
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)


async def test_label_on_another_pod_is_corrected(stage, member):
    """Whoever set it."""
    await stage.start()
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    stage.cluster.change("b", labels={"app": "billing", LABEL: "leader"})
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)


async def test_replicas_agree_without_a_steward(stage, member):
    """They write each change once, and neither fights for the status."""
    await stage.start("one")
    await stage.start("two")
    one = member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(TTL)
    before = len(stage.cluster.patches), stage.cluster.operations.count("replace_status")
    await asyncio.sleep(5 * TTL)
    after = len(stage.cluster.patches), stage.cluster.operations.count("replace_status")
    assert after == before
    one.stop()
    member("b")
    await stage.until(lambda: stage.leaders == ["b"])
    assert stage.most_at_once() == 1
    assert "steward" not in stage.status


async def test_blind_replica_keeps_the_label_only_as_long_as_the_record_lives(stage, member):
    """Then the member has lost, as far as can be told."""
    view = View(stage.bucket)
    await stage.start(view=view)
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    with view.blind():
        await asyncio.sleep(TTL / 3)
        assert stage.leaders == ["a"]
        await stage.until(lambda: not stage.leaders, timeout=TTL)
    stage.bucket.put(KEY, "a")
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)


async def test_stale_watch_labels_nobody(stage, member):
    """The record is read before a pod is labelled."""
    view = View(stage.bucket)
    first = await stage.start(view=view)
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    view.problem = "hides what the watch shows"
    stage.bucket.put(KEY, "b")
    view.problem = None
    stage.cluster.change("a", labels={"app": "billing"})
    await asyncio.sleep(0.2)
    assert stage.leaders in ([], ["b"])
    assert first._driver.record.holder == "b"


async def test_suspension_takes_the_label(stage, member):
    """The record is the member's, and stays."""
    await stage.start()
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    stage.change(suspend=True)
    await stage.until(lambda: not stage.leaders, timeout=1)
    assert stage.record == "a"
    assert stage.condition() == ("False", "Suspended")


async def test_deletion_takes_the_labels_and_leaves_the_record(stage, member):
    """It is not ours."""
    first = await stage.start()
    member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    await first.retire()
    assert stage.leaders == []
    assert stage.record == "a"
    assert all(LABEL not in pod.labels for pod in stage.cluster.pods.values())


# A Service


async def test_service_leads_to_whom_the_record_means(stage, member):
    """The slice is moved in one write, and is empty when nobody holds the record."""
    stage.cluster.put_service()
    stage.change(routing={"service": "web"})
    await stage.start()
    first = member("a", **own(1))
    await stage.until(lambda: stage.leaders == ["a"])
    assert stage.cluster.routes == [("a",)]
    first.stop()
    second = member("host-b", **own(9))
    await stage.until(lambda: stage.leaders == ["b"])
    assert stage.cluster.routes == [("a",), ("b",)]
    second.stop()
    await stage.until(lambda: stage.leaders == [], timeout=2 * TTL)
    await stage.until(lambda: stage.cluster.routes[-1] == (), timeout=1)
    await asyncio.sleep(2 * TTL)
    assert stage.cluster.routes == [("a",), ("b",), ()]
