"""One replica's work for an election, or that of several, on a bucket and a cluster in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from fakecluster import NAMESPACE, make_election, make_pod
from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaigner.report import PATIENCE
from incumbent.errors import (
    BucketNotFound,
    BucketUnreachable,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    Unconnected,
)
from incumbent.kubernetes.ports import PodChanged, PodsReplaced
from incumbent.kubernetes.resource import resource_from
from incumbent.kubernetes.turns import CHANGES
from incumbent.status.situation import Problem
from stage import KEY, LABEL, MARGIN, TOKEN, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

RELEASE = "release"
WRITES = {"create", "renew", "transfer", "release", "patch_pod"}
IN_USE = Problem("KeyInUse", "somebody else has it", of_bucket=False)


def believe(replica, name, **changes):
    """Make a replica's watch show a pod as it is not."""
    namespace = replica._pods._namespace
    namespace._take(PodChanged(replace(namespace.pods[name], **changes)))


def overlook(replica, name):
    """Make a replica's watch list the pods without one that is there."""
    namespace = replica._pods._namespace
    namespace._take(PodsReplaced(tuple(pod for pod in namespace.pods.values() if pod.name != name)))


# Changes of leader


async def test_first_leader_is_labelled_after_its_record_is_stored(stage):
    """Nothing carries the leader label before the record names it."""
    await stage.start()
    await stage.until(lambda: stage.leaders)
    assert stage.writes.index("create") < stage.writes.index("a=leader")
    await stage.until(lambda: "b=candidate" in stage.writes)
    assert stage.record == "site/shop/a"


@pytest.mark.parametrize("how", ("not ready", "terminating", "gone"))
async def test_hand_over_strips_writes_and_labels_in_this_order(stage, how):
    """The old pod is stripped first, confirmed, and the new one is labelled last."""
    await stage.lead()
    match how:
        case "not ready":
            stage.cluster.change("a", ready=False)
        case "terminating":
            stage.cluster.change("a", terminating=True)
        case "gone":
            stage.cluster.delete("a")
    await stage.until(lambda: stage.leaders == ["b"])
    wanted = ["a=None", "transfer", "b=leader"]
    assert stage.writes[-3:] == (wanted if how != "gone" else ["transfer", "b=leader"])
    # Before the strip comes the proof that it is ours to do. A pod that ends needs none.
    first = next(name for name in stage.cluster.operations if name in WRITES)
    assert first == ("patch_pod" if how == "terminating" else "renew")
    assert stage.record == "site/shop/b"
    await stage.until(lambda: "HandedOver" in stage.reasons)
    assert stage.most_at_once() == 1


async def test_successor_of_a_pod_that_failed_is_on_another_node(stage):
    """Of a node that falls silent the other pods fail next, and each would be a term of its own."""
    stage.cluster.add(make_pod("c", node="node-2", created="2027"))
    await stage.lead()
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.leaders == ["c"])


# Turns


async def test_a_first_leader_waits_for_its_turn(stage):
    """Of many elections that begin together only so many do so at a time."""
    async with all_turns(stage):
        await stage.start()
        await asyncio.sleep(1)
        assert not stage.writes
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(0)
    assert not stage.turns.under_way()


async def test_a_hand_over_waits_for_its_turn_and_keeps_the_record_meanwhile(stage):
    """However long it is, and nothing is stripped before."""
    await stage.lead()
    async with all_turns(stage):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(3 * TTL)
        assert stage.leaders == ["a"]
        assert stage.record == "site/shop/a"
    await stage.until(lambda: stage.leaders == ["b"])
    assert stage.most_at_once() == 1


async def test_who_waited_for_a_turn_looks_again(stage):
    """The successor that was chosen before the wait may be none any more."""
    await stage.lead()
    stage.cluster.add(make_pod("c", created="2027-01-01T00:00:00Z"))
    async with all_turns(stage):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(0.5)
        stage.cluster.change("b", ready=False)
        await asyncio.sleep(0.5)
    await stage.until(lambda: stage.leaders == ["c"])
    assert "b=leader" not in stage.writes
    assert stage.writes.count("transfer") == 1


async def test_a_strip_waits_for_no_turn(stage):
    """It has a deadline."""
    await stage.lead()
    async with all_turns(stage):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(0.1)
        with stage.bucket.unreachable():
            deadline = stage.first._driver.lease.deadline
            await stage.until(lambda: not stage.leaders, timeout=TTL)
            assert clock.now() < deadline + MARGIN


@contextlib.asynccontextmanager
async def all_turns(stage):
    """Leave no turn to the election."""
    async with contextlib.AsyncExitStack() as taken:
        for number in range(CHANGES.everything):
            taking = stage.turns.turn(namespace=f"other-{number}")
            await taken.enter_async_context(taking)
        yield


@pytest.mark.parametrize("stored", (True, False))
async def test_transfer_without_an_answer_comes_to_an_end(stage, stored):
    """Whether it was stored or not, the new pod leads, and never two."""
    await stage.lead()
    lost = stage.bucket.dropping_answers if stored else stage.bucket.dropping_requests

    def lose():
        faults.enter_context(lost())
        asyncio.get_running_loop().call_later(1.5, faults.close)

    with contextlib.ExitStack() as faults:
        # The strip of the old pod comes after the renewal and right before the transfer.
        stage.cluster.before_next("patch_pod", lose)
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=TTL)
    assert stage.record == "site/shop/b"
    assert stage.most_at_once() == 1
    assert stage.first.view.counts.transitions == 2


@pytest.mark.parametrize("stored", (True, False))
async def test_create_without_an_answer_comes_to_an_end(stage, stored):
    """Whether it was stored or not, one pod leads in the end."""
    lost = stage.bucket.dropping_answers if stored else stage.bucket.dropping_requests
    with lost():
        await stage.start()
        await stage.until(lambda: "create" in stage.writes)
        await asyncio.sleep(0.5)
        assert not stage.leaders
    await stage.until(lambda: stage.leaders == ["a"], timeout=TTL)
    assert stage.most_at_once() == 1


async def test_pod_that_comes_back_before_the_transfer_keeps_the_term(stage):
    """A leader that was stripped for a hand-over which could not be written leads on."""
    await stage.lead()
    token = stage.status["token"]
    stage.cluster.before_next("patch_pod", lambda: faults.enter_context(cut))
    cut = stage.bucket.dropping_requests()
    with contextlib.ExitStack() as faults:
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: not stage.leaders)
        stage.cluster.change("a", ready=True)
        await asyncio.sleep(0.5)
    await stage.until(lambda: stage.leaders == ["a"], timeout=TTL)
    assert stage.status["token"] == token


async def test_without_candidates_the_record_is_released(stage):
    """The release comes after the strip, and after a list that confirms that nobody is left."""
    await stage.lead()
    stage.cluster.change("b", ready=False)
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.record is None)
    assert stage.writes.index("a=None") < stage.writes.index(RELEASE)
    await stage.until(lambda: stage.condition() == ("False", "NoCandidates"))
    assert {"Released", "NoCandidates"} <= set(stage.reasons)


async def test_candidate_that_the_watch_missed_prevents_the_release(stage):
    """What a watch does not show is asked for before everything is given up."""
    await stage.lead()
    stage.cluster.change("b", ready=False)
    await stage.until(lambda: "b=None" in stage.writes)
    with stage.cluster.delaying_watches():
        stage.cluster.change("b", ready=True)
        stage.cluster._held.clear()
        believe(stage.first, "a", ready=False)
        await asyncio.sleep(0.5)
    assert RELEASE not in stage.writes


async def test_leader_that_the_watch_missed_is_not_replaced(stage):
    """A pod that the record names counts as gone only when the API server says so."""
    await stage.lead()
    overlook(stage.first, "a")
    await asyncio.sleep(1)
    assert "transfer" not in stage.writes


async def test_evicted_leader_is_told_and_avoided(stage):
    """Another pod leads, and the event says why."""
    await stage.lead()
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == ["b"])
    await stage.until(lambda: "LeaderElected" in stage.reasons[1:])
    assert stage.reasons == ["LeaderElected", "Evicted", "LeaderElected"]
    assert stage.most_at_once() == 1


async def test_overwritten_record_is_left_alone(stage):
    """The label goes at once, and nothing is written over the record."""
    await stage.lead()
    stage.bucket.put(KEY, "stranger")
    await stage.until(lambda: not stage.leaders, timeout=0.5)
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    assert stage.record == "stranger"
    assert "LeaderLost" in stage.reasons


@pytest.mark.parametrize("change", ("suspend", "selector"))
async def test_changed_spec_that_allows_no_leader_releases(stage, change):
    """Suspension and a selector without pods give everything up."""
    await stage.lead()
    spec, reason = {
        "suspend": ({"suspend": True}, ("False", "Suspended")),
        "selector": ({"selector": {"matchLabels": {"app": "other"}}}, ("False", "NoCandidates")),
    }[change]
    stage.change(**spec)
    await stage.until(lambda: stage.condition() == reason)
    assert stage.record is None
    assert stage.leaders == []
    assert stage.writes.count("a=candidate") + stage.writes.count("a=None") == 1

    stage.change(suspend=False, selector={"matchLabels": {"app": "billing"}}, campaign={})
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)


# Labels that somebody else sets


async def test_leader_label_on_another_pod_is_corrected(stage):
    """It is taken away, counted and told, and the leader stays."""
    await stage.lead()
    stage.cluster.change("b", labels={"app": "billing", LABEL: "leader"})
    await stage.until(lambda: stage.leaders == ["a"], timeout=0.5)
    assert stage.first.view.counts.corrections == 1
    await stage.until(lambda: "LabelCorrected" in stage.reasons)


async def test_label_that_only_a_lagging_watch_shows_is_no_stray(stage):
    """What was stripped already is neither written nor counted again."""
    await stage.lead()
    believe(stage.first, "b", labels={"app": "billing", LABEL: "leader"})
    await asyncio.sleep(1)
    assert stage.first.view.counts.corrections == 0
    assert not stage.cluster.patches


async def test_stray_label_is_shown_while_it_cannot_be_corrected(stage):
    """Without NATS nobody knows whether to correct, and the condition says what is wrong."""
    await stage.lead()
    with stage.bucket.unreachable():
        stage.cluster.change("b", labels={"app": "billing", LABEL: "leader"})
        await stage.until(lambda: stage.condition("LabelsInSync") == ("False", "LabelsNotWritten"))
        assert stage.leaders == ["a", "b"]
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)
    await stage.until(lambda: stage.condition("LabelsInSync") == ("True", "LabelsWritten"))


async def test_leader_label_that_was_removed_is_restored(stage):
    """With the same token."""
    await stage.lead()
    token = stage.cluster.pod("a").annotations[TOKEN]
    stage.cluster.change("a", labels={"app": "billing"}, annotations={})
    await stage.until(lambda: stage.leaders == ["a"], timeout=0.5)
    assert stage.cluster.pod("a").annotations[TOKEN] == token


async def test_label_write_without_an_answer_cannot_come_too_late(stage):
    """An add that is still on its way when its term ends is refused when it arrives."""
    stage.cluster.pods.pop((NAMESPACE, "b"))
    with stage.cluster.delaying_writes() as late:
        await stage.start()
        await stage.until(lambda: "a=leader" in stage.writes)
        on_its_way = [late.pending.pop() for _ in late.pending]
        await asyncio.sleep(0)
    stage.bucket.put(KEY, "stranger")
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    await asyncio.sleep(3)
    for arrive in on_its_way:
        with contextlib.suppress(Exception):
            arrive()
    assert stage.leaders == []


async def test_label_write_of_a_dead_replica_cannot_come_too_late(stage):
    """Before another pod is labelled, the one that the last record named is fenced."""
    for name in ("a", "b"):
        stage.cluster.change(name, labels={"app": "billing", LABEL: "candidate"})
    with stage.cluster.delaying_writes() as late:
        first = await stage.start("one")
        await stage.start("two")
        await stage.until(lambda: "a=leader" in stage.writes)
        on_its_way = [late.pending.pop() for _ in late.pending]
        await stage.kill(first)
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == ["b"])
    for arrive in on_its_way:
        with contextlib.suppress(Conflict):
            arrive()
    assert stage.leaders == ["b"]


async def test_election_that_is_gone_gets_no_leader(stage):
    """The resource is read before a term begins."""
    await stage.start()
    del stage.cluster.elections[NAMESPACE, "billing"]
    await asyncio.sleep(TTL)
    assert stage.record is None
    assert "a=leader" not in stage.writes


async def test_site_that_cannot_reach_its_api_server_takes_no_office(stage):
    """It could label nobody, and another site may be able to."""
    await stage.start()
    with stage.cluster.refusing("get_election", error=ClusterUnreachable("no answer")):
        await asyncio.sleep(3 * TTL)
        assert stage.record is None
    await stage.until(lambda: stage.leaders == ["a"], timeout=10)


async def test_term_that_cannot_be_labelled_is_given_up(stage):
    """The API server goes away after it was won: another site may have one that answers."""
    gone = Unconnected("connection refused")
    with stage.cluster.refusing("list_pods", error=gone):
        await stage.start()
        await stage.until(lambda: stage.record is not None)
        with stage.cluster.refusing("get_election", error=gone):
            await asyncio.sleep(TTL / 2)
            assert stage.record is None
            await asyncio.sleep(2 * TTL)
            assert stage.record is None
            assert [write for write in stage.writes if "=" not in write] == ["create", "release"]
    await stage.until(lambda: stage.leaders == ["a"])


async def test_term_is_kept_while_the_api_server_is_slow(stage):
    """When many elections begin at once it takes its time, and giving up would only add to that."""
    with stage.cluster.refusing("list_pods", error=ClusterUnreachable("no answer in time")):
        await stage.start()
        await stage.until(lambda: stage.record is not None)
        await asyncio.sleep(3 * TTL)
        assert "release" not in stage.writes
    await stage.until(lambda: stage.leaders == ["a"])
    assert stage.writes.count("create") == 1


async def test_hand_over_that_cannot_be_labelled_is_given_up(stage):
    """The old pod is stripped, so nobody leads, and another site may."""
    await stage.lead()
    gone = stage.cluster.refusing("patch_pod", error=Unconnected("connection refused"))
    with contextlib.ExitStack() as away:
        stage.cluster.before_next("patch_pod", lambda: None)  # the strip
        stage.cluster.before_next("patch_pod", lambda: away.enter_context(gone))
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: (stage.record or "").endswith("/b"))
        await stage.until(lambda: stage.record is None, timeout=TTL)
        assert stage.leaders == []
    await stage.until(lambda: stage.leaders == ["b"])


async def test_term_whose_label_may_have_been_sent_is_kept(stage):
    """No answer to the label is no reason: an outage of the API server changes no leader."""
    await stage.start()
    stage.cluster.stuck.add("patch_pod")
    await stage.until(lambda: "a=leader" in stage.writes)
    with stage.cluster.unreachable():
        await asyncio.sleep(3 * TTL)
    assert stage.record is not None
    assert "release" not in stage.writes


async def test_standby_with_a_dead_link_does_not_fight_for_the_label(stage):
    """What it believes of the record may be old, so it looks before it strips."""
    stage.bucket.put(KEY, "elsewhere")
    view = View(stage.bucket)
    await stage.start("one")
    second = await stage.start("two", view=view)
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    view.mute = True
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders, timeout=3 * TTL)
    await asyncio.sleep(TTL)
    assert second._driver.record.holder == "elsewhere"
    shown = [pod.labels.get(LABEL) == "leader" for pod in stage.cluster.history if pod.name == "a"]
    assert shown == sorted(shown), "once there, the label stays"


class Slow:
    """One replica's way to the API server, with answers that take their time."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.lists = self.patches = 0.0
        """Seconds that each of them takes."""

    def __getattr__(self, name):
        return getattr(self.cluster, name)

    async def list_pods(self, *arguments, **options):
        """See `Cluster`."""
        pods = await self.cluster.list_pods(*arguments, **options)
        await asyncio.sleep(self.lists)
        return pods

    async def patch_pod(self, *arguments, **options):
        """See `Cluster`."""
        pod = await self.cluster.patch_pod(*arguments, **options)
        await asyncio.sleep(self.patches)
        return pod


async def two_replicas(stage):
    """Start two, and return the way of the first, the steward, which can be made slow."""
    stage.first = await stage.start("one")
    await stage.until(lambda: stage.leaders == ["a"])
    stage.first._reconciler._labels._cluster = slow = Slow(stage.cluster)
    stage.second = await stage.start("two")
    await asyncio.sleep(1)
    return slow


async def leave(stage, replica):
    """End a replica as a rolling update of the operator does."""
    await replica.leave()
    await stage.kill(replica)


async def test_hand_over_does_not_go_on_after_another_replica_led(stage):
    """It was prepared for when this one was the steward for the first time."""
    slow = await two_replicas(stage)
    stage.cluster.add(make_pod("c", created="2026-01-01T00:00:03Z"))
    await asyncio.sleep(0.1)
    slow.lists = 4.0
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: not stage.leaders)
    stage.cluster.change("b", ready=False)
    await stage.until(lambda: stage.leaders == ["c"])
    stage.cluster.change("b", ready=True)
    await leave(stage, stage.second)
    await asyncio.sleep(5)
    assert stage.most_at_once() == 1
    assert stage.leaders == ["c"]


async def test_hand_over_does_not_go_on_in_a_later_tenure_of_the_same_term(stage):
    """Meanwhile the old leader came back, and another replica labelled it again."""
    slow = await two_replicas(stage)
    slow.lists = 4.0
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: not stage.leaders)
    stage.cluster.change("a", ready=True)
    await stage.until(lambda: stage.leaders == ["a"])
    await leave(stage, stage.second)
    await asyncio.sleep(5)
    assert stage.most_at_once() == 1
    assert stage.leaders == ["a"]


async def test_office_is_taken_only_on_the_vacancy_that_was_prepared_for(stage, monkeypatch):
    """Another replica may have held the record meanwhile, and its label be on the way."""
    await stage.lead()
    labels = stage.first._reconciler._labels
    strip_one, prepared = labels.strip_one, []

    async def strip_and_miss(pod, **options):
        await strip_one(pod, **options)
        if stage.record is None and pod.name == "a":
            prepared.append(stage.bucket._revision)
            if len(prepared) == 1:
                stage.cluster.change("a", ready=False)
                stage.bucket.put(KEY, "elsewhere")
                stage.bucket.delete(KEY)
                await asyncio.sleep(0.01)  # until the watch has shown it

    await asyncio.sleep(0.1)
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == [])
    monkeypatch.setattr(labels, "strip_one", strip_and_miss)
    await stage.until(lambda: stage.leaders == ["b"], timeout=3 * TTL)
    assert len(prepared) > 1
    term = stage.bucket._latest(KEY).entry.term
    assert prepared[-1] == term - 1, "nothing came between"


async def test_release_does_not_go_on_after_another_replica_led(stage):
    """Somebody is labelled again by then."""
    slow = await two_replicas(stage)
    stage.cluster.change("b", ready=False)
    await asyncio.sleep(0.2)
    slow.patches = 1.9
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: not stage.leaders)
    stage.cluster.change("b", ready=True)
    await stage.until(lambda: stage.leaders == ["b"])
    await leave(stage, stage.second)
    await asyncio.sleep(5)
    assert "release" not in stage.writes
    assert stage.leaders == ["b"]


# The API server slow, away, or unwilling


async def test_slow_api_server_makes_no_renewal_late(stage):
    """A pass that hangs does not keep the record from being renewed."""
    await stage.lead()
    stage.cluster.stuck = {"patch_pod", "get_pod", "list_pods", "replace_status"}
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(3 * TTL)
    renewals = [call.at for call in stage.cluster.calls if call.name == "renew"]
    assert max(b - a for a, b in itertools.pairwise(renewals)) < TTL / 3 + 0.1
    assert stage.record == "site/shop/a"


@pytest.mark.parametrize("stuck", ("patch_pod", "get_pod", "list_pods", "emit_event"))
async def test_strip_comes_in_time_while_a_pass_hangs(stage, stuck):
    """When the deadline passes, a request that hangs is not waited for."""
    await stage.lead()
    stage.cluster.stuck = {stuck}
    stage.cluster.change("b", ready=False)
    if stuck != "patch_pod":
        overlook(stage.first, "a")
    await asyncio.sleep(0.1)
    with stage.bucket.unreachable():
        lease = stage.first._driver.lease
        await asyncio.sleep(lease.deadline - clock.now() - 0.05)
        assert stage.leaders == ["a"]
        stage.cluster.stuck = set()
        await stage.until(lambda: not stage.leaders)
        assert clock.now() < lease.deadline + MARGIN


async def test_strip_does_not_wait_for_the_status(stage):
    """Whether another replica has taken over is asked for no longer than there is time."""
    await stage.lead()
    stage.cluster.stuck = {"get_election", "replace_status", "emit_event"}
    with stage.bucket.unreachable():
        lease = stage.first._driver.lease
        await stage.until(lambda: not stage.leaders)
        assert clock.now() < lease.deadline + MARGIN


async def test_api_server_away_at_the_deadline_is_tried_until_it_is_back(stage):
    """The strip is carried out soon after."""
    await stage.lead()
    with stage.bucket.unreachable():
        with stage.cluster.unreachable():
            await asyncio.sleep(3 * TTL)
        await stage.until(lambda: not stage.leaders, timeout=3)
    await stage.until(lambda: stage.leaders == ["a"])


async def test_missing_right_is_told_and_heals(stage):
    """Conditions, an event and one log line name the right; nothing has to be restarted."""
    await stage.lead()
    with stage.cluster.refusing("patch_pod", error=Forbidden("may not patch pods")):
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.condition("LabelsInSync") == ("False", "LabelsNotWritten"))
        assert stage.condition("Stalled") == ("True", "PermissionDenied")
        await asyncio.sleep(TTL)
        assert stage.record == "site/shop/a"
    await stage.until(lambda: stage.leaders == ["b"], timeout=3)
    await stage.until(lambda: stage.condition("LabelsInSync") == ("True", "LabelsWritten"))


async def test_status_that_cannot_be_written_delays_no_change_of_leader(stage):
    """Labels go on, and the status follows when it may be written again."""
    await stage.lead()
    with stage.cluster.refusing("replace_status", "emit_event"):
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=0.5)
        await asyncio.sleep(2)
    await stage.until(lambda: stage.status["leader"]["podName"] == "b", timeout=6)


async def test_status_changed_by_somebody_else_is_corrected(stage):
    """A status that says something else is written anew."""
    await stage.lead()
    election = stage.cluster.elections[NAMESPACE, "billing"]
    stage.cluster.put_election({**election, "status": {**stage.status, "state": "Candidate"}})
    await stage.until(lambda: stage.status["state"] == "Leader", timeout=1)


async def test_events_are_lost_rather_than_repeated(stage):
    """An event that is refused does not come later, nor keep others back."""
    await stage.lead()
    with stage.cluster.refusing("emit_event"):
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.status.get("leader", {}).get("podName") == "b")
        await asyncio.sleep(1)
    stage.cluster.change("b", ready=False)
    await stage.until(lambda: "Released" in stage.reasons)
    assert "HandedOver" not in stage.reasons


async def test_error_of_our_own_does_not_end_the_campaign(stage, monkeypatch):
    """Renewals go on, and the next pass may do better."""
    await stage.lead()
    broken = True

    async def settle(**_):
        if broken:
            msg = "no such thing"
            raise LookupError(msg)
        return True

    monkeypatch.setattr(stage.first._reconciler, "settle", settle)
    with capture_logs() as logs:
        stage.first._schedule.wake()
        await asyncio.sleep(2 * TTL)
    assert "pass.broke" in [line["event"] for line in logs]
    assert stage.record == "site/shop/a"
    assert not stage.tasks[stage.first].done()
    broken = False
    stage.first._schedule.wake()
    await asyncio.sleep(3)
    assert stage.first._schedule.idle


# NATS away, the bucket another one


async def test_blind_replica_asks_before_it_strips_again(stage):
    """A label that comes after its strip is another's, as far as it can know."""
    await stage.lead()
    with stage.bucket.unreachable():
        await stage.until(lambda: not stage.leaders)
        stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"})
        await asyncio.sleep(TTL / 2)
        assert stage.leaders == ["a"]
        await stage.until(lambda: "unconfirmed" in stage.status, timeout=TTL)
        assert stage.leaders == ["a"]
        await stage.until(lambda: not stage.leaders, timeout=TTL)


async def test_label_from_an_earlier_life_is_taken_away_while_the_bucket_is_missing(stage):
    """Not at once, for another replica may see more, but before a record could have expired."""
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"})
    status = {"observedGeneration": 1, "bucket": {"name": "LEADER_ELECTION", "ttlSeconds": TTL}}
    stage.cluster.put_election(make_election(status=status))
    stage.bucket._unreachable = True
    stage.bucket.problem = BucketNotFound("there is no bucket")
    await stage.start()
    await asyncio.sleep(0.5)
    assert stage.leaders == ["a"]
    assert stage.condition() == ("False", "BucketNotFound")
    await asyncio.sleep(TTL / 2)
    assert stage.leaders == []


# Several replicas


async def test_restart_within_the_ttl_writes_one_steward_and_nothing_else(stage):
    """Neither a label nor the term changes, nor is there an event."""
    await stage.lead()
    token, label = stage.status["token"], stage.cluster.pod("a")
    await stage.kill(stage.first)
    await asyncio.sleep(1)
    second = await stage.start(nonce="another")
    await stage.until(lambda: second._driver.leads)
    await asyncio.sleep(1)
    assert stage.status["token"] == token
    assert stage.cluster.pod("a") == label
    assert stage.reasons == ["LeaderElected"]
    assert second.view.counts.transitions == 0


async def test_standby_is_silent(stage):
    """It writes nothing, neither to the bucket nor to the API server."""
    await stage.lead()
    await stage.start("two")
    await asyncio.sleep(1)
    assert stage.cluster.operations.count("replace_status") == 2  # a question, and the answer
    stage.cluster.calls.clear()
    await asyncio.sleep(3 * TTL)
    assert not {"patch_pod", "replace_status"} & set(stage.cluster.operations)
    renewed_by = {
        call.headers[wire.REPLICA] for call in stage.cluster.calls if call.name == "renew"
    }
    assert renewed_by == {"one/nonce"}


async def test_blind_steward_is_relieved_and_says_nothing_wrong(stage):
    """It neither strips what its peer keeps, nor writes over the status."""
    view = View(stage.bucket)
    first = await stage.start("one", view=view)
    await stage.until(lambda: stage.leaders == ["a"])
    second = await stage.start("two")
    await asyncio.sleep(1)
    patches = len(stage.cluster.patches)
    with view.blind():
        await stage.until(lambda: second._driver.leads)
        await asyncio.sleep(PATIENCE * 5)
        assert first._driver.lease is None
        assert len(stage.cluster.patches) == patches
        assert stage.reasons == ["LeaderElected"]
        assert stage.condition() == ("True", "Leading")
        assert stage.status["steward"]["replica"] == "two"
    await asyncio.sleep(TTL)
    assert len(stage.cluster.patches) == patches


async def test_standby_whose_relay_got_no_answer_strips_in_time(stage):
    """Perhaps it is the steward, and there is nobody else to answer for the label."""
    view = View(stage.bucket)
    first = await stage.start("one")
    await stage.until(lambda: stage.leaders == ["a"])
    second = await stage.start("two", view=view)
    await asyncio.sleep(1)
    await stage.kill(first)

    async def stored_and_cut_off(key, value, **options):
        view._be(BucketUnreachable("NATS is away"))
        await stage.bucket.write(key, value, **options)
        return Answer(Outcome.UNKNOWN)

    view.write = stored_and_cut_off
    await stage.until(lambda: stage.bucket._latest(KEY).entry.replica == "two/nonce")
    renewed_at = second._driver.campaign.latest_at
    await stage.until(lambda: not stage.leaders)
    assert second._driver.lease is None
    # The relay may not have been stored, as far as it knows.
    assert clock.now() == pytest.approx(renewed_at + TTL - MARGIN, abs=0.1)
    del view.write
    view._be(None)
    await stage.until(lambda: stage.leaders)


@pytest.mark.parametrize("later", (0, TTL), ids=("within its lease", "after its lease"))
async def test_replica_that_stood_still_learns_from_the_status_who_relieved_it(stage, later):
    """The record is of a replica of which it has not heard yet, and its own lease ends."""
    view = View(stage.bucket)
    first = await stage.start("one", view=view)
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    hears = stage.cluster.shown.pop()
    second = await stage.start("two")
    await asyncio.sleep(0.5)
    patches, view.mute = len(stage.cluster.patches), True
    await stage.until(lambda: second._driver.leads, timeout=TTL)
    await asyncio.sleep(later)
    view.mute = False
    view._be(None)
    await asyncio.sleep(TTL / 2)
    stage.cluster.shown.append(hears)
    await asyncio.sleep(TTL)
    assert first._driver.lease is None
    assert stage.leaders == ["a"]
    assert len(stage.cluster.patches) == patches


async def test_older_view_of_the_resource_is_ignored(stage):
    """The answer to our own write can be faster than the watch."""
    old = await stage.cluster.get_election(NAMESPACE, "billing")
    await stage.lead()
    stage.first.update(old, resource_from(old, default_bucket="LEADER_ELECTION"))
    assert stage.first.view.row()["leader"]["podName"] == "a"


async def test_work_that_the_steward_leaves_undone_is_done_by_another(stage):
    """A steward that cannot write to its API server is relieved after a second."""
    view = View(stage.bucket)
    first = await stage.start("one", view=view)
    await stage.until(lambda: stage.leaders == ["a"])
    second = await stage.start("two")
    await asyncio.sleep(1)
    first._reconciler.settle = _hang
    stage.cluster.change("a", ready=False)
    gone = clock.now()
    await stage.until(lambda: stage.leaders == ["b"])
    assert 1 <= clock.now() - gone < 2
    assert second._driver.leads
    assert stage.most_at_once() == 1


async def test_watch_that_lags_relieves_nobody(stage):
    """A standby reads what it needs to know before it takes a record."""
    await stage.lead()
    standby = await stage.start("two")
    await asyncio.sleep(1)
    with stage.cluster.delaying_watches():
        for replica in (stage.first, standby):
            believe(replica, "a", ready=True)
        believe(standby, "b", labels={"app": "billing", LABEL: "leader"})
        await asyncio.sleep(2 * TTL)
    assert standby._driver.lease is None


async def test_replicas_that_cannot_do_the_work_do_not_quarrel(stage):
    """The record changes hands at growing distances, not every second."""
    first = await stage.start("one")
    second = await stage.start("two")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(1)
    before = stage.cluster.operations.count("replace_status")
    with stage.cluster.refusing("patch_pod"):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(60)
    assert stage.cluster.operations.count("replace_status") - before < 40
    await stage.until(lambda: stage.leaders == ["b"], timeout=3)
    assert first.view.counts.transitions + second.view.counts.transitions == 2


async def _hang(**_):
    await asyncio.Event().wait()
