"""Elections whose members campaign by themselves: the operator only labels who holds the record."""

from __future__ import annotations

import asyncio
import random

import pytest

from fakecluster import make_election, make_pod
from incumbent.campaign import wire
from stage import KEY, LABEL, TOKEN, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


LONG = "member-of-a-very-long-statefulset-name-that-goes-on-and-on-and-on-0"


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


@pytest.mark.parametrize(
    ("holder", "leaders"),
    (
        ("b.s.shop.svc.cluster.local", ["b"]),
        ("b.s.shop.svc", ["b"]),
        ("b.s.shop", ["b"]),
        ("b.s", ["b"]),
        ("b.s.shop.svc.corp.example.", ["b"]),
        ("b.s.other.svc.cluster.local", []),
        ("a.s.shop.svc.cluster.local", []),
        ("b.s.shop.svcx", []),
        ("db.corp", ["c"]),
        (LONG[:63], ["long"]),
    ),
)
async def test_holder_is_known_by_the_names_that_a_kubelet_gives(stage, member, holder, leaders):
    """Its DNS name, the name that overrides it, and one that was too long."""
    stage.cluster.change("b", hostname="", domain="s.shop.svc")
    stage.cluster.add(make_pod("c", hostname="db.corp"))
    stage.cluster.add(make_pod("long", hostname=LONG[:63]))
    await stage.start()
    member(holder)
    await asyncio.sleep(TTL)
    assert stage.leaders == leaders


async def test_names_that_would_be_known_are_told(stage, member):
    """Whoever looks for a spelling mistake can compare."""
    stage.cluster.change("b", domain="s.shop.svc")
    await stage.start()
    member("laptop-7")
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    [said] = [c["message"] for c in stage.status["conditions"] if c["type"] == "Ready"]
    assert "laptop-7 holds the record" in said
    assert "a, b, host-b, host-b.s.shop.svc" in said


async def test_name_of_two_pods_is_told(stage, member):
    """Also if it is the name of one and the host name of the other."""
    stage.cluster.add(make_pod("c", hostname="a"))
    await stage.start()
    member("a")
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    [said] = [c["message"] for c in stage.status["conditions"] if c["type"] == "Ready"]
    assert "pods a and c both have this name" in said
    assert stage.leaders == []


# No two labels at once


async def test_slow_label_of_another_replica_is_refused(stage):
    """The second replica never saw that the first pod held the record."""
    await stage.start("one")
    view = View(stage.bucket)
    await stage.start("two", nonce="other", view=view)
    await asyncio.sleep(1)
    view.mute = True
    with stage.cluster.delaying_writes(1) as late:
        stage.bucket.put(KEY, "a")
        await asyncio.sleep(0.1)
        assert stage.cluster.patches[-1].labels[LABEL] == "leader"
        view.mute = False
        stage.bucket.put(KEY, "b")
        await stage.until(lambda: stage.leaders == ["b"], timeout=5)
        late.carry_out()
        assert stage.most_at_once() == 1
    assert late.refused


async def test_slow_label_of_this_replica_is_refused(stage):
    """It is not waited for when the record changes, and fenced."""
    await stage.start("one")
    await asyncio.sleep(1)
    with stage.cluster.delaying_writes(1) as late:
        stage.bucket.put(KEY, "a")
        await asyncio.sleep(0.1)
        stage.bucket.put(KEY, "b")
        await stage.until(lambda: stage.leaders == ["b"], timeout=1)
        late.carry_out()
        assert stage.most_at_once() == 1
    assert late.refused


async def test_slow_label_of_a_replica_that_was_killed_is_refused(stage):
    """Its successor knows nothing of it."""
    one = await stage.start("one")
    await asyncio.sleep(1)
    with stage.cluster.delaying_writes(1) as late:
        stage.bucket.put(KEY, "a")
        await asyncio.sleep(0.1)
        await stage.kill(one)
        stage.bucket.put(KEY, "b")
        await stage.start("one", nonce="second")
        await stage.until(lambda: stage.leaders == ["b"], timeout=5)
        late.carry_out()
        assert stage.most_at_once() == 1
    assert late.refused


LABELLING = "incumbent.dev/labelling"


async def test_pod_that_the_last_label_was_meant_for_is_stripped(stage, member):
    """Whatever it shows; no other pod is touched."""
    stage.cluster.add(make_pod("c"))
    await stage.start()
    first = member("a")
    await stage.until(lambda: stage.leaders == ["a"])
    assert stage.annotations[LABELLING].startswith("uid-a/a/")
    first.stop()
    await stage.until(lambda: stage.leaders == [])
    await asyncio.sleep(1)
    stage.cluster.calls.clear()
    member("b")
    await stage.until(lambda: stage.leaders == ["b"])
    assert stage.writes[:2] == ["a=candidate", "b=leader"]
    assert stage.annotations[LABELLING].startswith("uid-b/b/")


async def test_pod_that_changes_meanwhile_is_announced_again(stage):
    """Another replica may have announced another pod since."""
    await stage.start()
    await asyncio.sleep(1)
    stage.cluster.before_next("patch_pod", lambda: stage.cluster.change("a", node="node-2"))
    stage.cluster.calls.clear()
    stage.bucket.put(KEY, "a")
    await stage.until(lambda: stage.leaders == ["a"])
    kinds = [call.name for call in stage.cluster.calls]
    assert [one for one in kinds if one in {"annotate_election", "patch_pod"}][:4] == [
        "annotate_election",
        "patch_pod",
        "annotate_election",
        "patch_pod",
    ]


async def test_annotation_that_somebody_removed_is_missed(stage, member):
    """Then any pod may have been meant, and all others are stripped once."""
    stage.cluster.add(make_pod("c"))
    await stage.start()
    first = member("a")
    await stage.until(lambda: stage.leaders == ["a"] and stage.status.get("transitions"))
    first.stop()
    await stage.until(lambda: stage.leaders == [])
    await asyncio.sleep(1)
    election = stage.cluster.elections["shop", "billing"]
    del election["metadata"]["annotations"][LABELLING]
    stage.cluster.put_election(election)
    stage.cluster.calls.clear()
    member("b")
    await stage.until(lambda: stage.leaders == ["b"])
    assert {"a=candidate", "c=candidate"} <= set(stage.writes)


@pytest.mark.parametrize("seed", range(30))
async def test_random_delays_never_label_two(stage, seed):
    """Records change, replicas start again, and requests of both arrive when they like."""
    chance = random.Random(seed)
    stage.cluster.add(make_pod("c"))
    views = [View(stage.bucket), View(stage.bucket)]
    replicas = [await stage.start(str(n), nonce="0", view=v) for n, v in enumerate(views)]
    for step in range(20):
        with stage.cluster.delaying_writes(chance.choice((0, 1, 2, 3))) as late:
            stage.bucket.put(KEY, chance.choice("abc"))
            await asyncio.sleep(chance.uniform(0, 0.3))
            which = chance.randrange(2)
            match chance.randrange(4):
                case 0:
                    await stage.kill(replicas[which])
                    new = await stage.start(str(which), nonce=str(step + 1), view=views[which])
                    replicas[which] = new
                case 1:
                    views[which].mute = not views[which].mute
                case 2:
                    stage.cluster.change(chance.choice("abc"), node=f"node-{step}")
            stage.bucket.put(KEY, chance.choice("abc"))
            await asyncio.sleep(chance.uniform(0, 4))
            late.carry_out()
        assert stage.most_at_once() <= 1
    for view in views:
        view.mute = False
    stage.bucket.put(KEY, "a")
    await stage.until(lambda: stage.leaders == ["a"], timeout=TTL)
    assert stage.most_at_once() == 1


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
    await stage.until(lambda: stage.condition() == ("False", "Suspended"), timeout=1)


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


@pytest.mark.parametrize("seen", (True, False), ids=("another replica sees", "nobody sees"))
async def test_replica_that_never_saw_the_key_asks_before_it_strips(stage, member, seen):
    """The member may have lost the record, and nobody else may be there to take the label."""
    member("site/shop/a", **own(1))
    first = await stage.start()
    await stage.until(lambda: stage.leaders == ["a"])
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    view = View(stage.bucket)
    with view.blind():
        await stage.start("two", nonce="second", view=view)
        if not seen:
            await stage.kill(first)
            await stage.until(lambda: not stage.leaders, timeout=2 * TTL)
        else:
            await asyncio.sleep(5 * TTL)
            assert stage.leaders == ["a"]
            assert "a=None" not in stage.writes
