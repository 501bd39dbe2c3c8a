"""Replicas that cannot see the key: what becomes of a leader label, and who answers for it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fakecluster import NAMESPACE
from incumbent import clock
from incumbent.errors import ClusterUnreachable
from incumbent.replicas.confirmation import Confirmation, Later
from stage import KEY, LABEL, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


async def start_blind(stage, name="two"):
    """Start a replica that does not reach NATS, and return it with its view."""
    view = View(stage.bucket)
    view.cut = view.blind()
    view.cut.__enter__()
    return await stage.start(name, nonce=f"{name}-{clock.now()}", view=view), view


def restore(view):
    """Let a replica reach NATS."""
    view.cut.__exit__(None, None, None)


def expires_at(stage):
    """Return when the record expires if nobody renews it."""
    message = stage.bucket._messages[KEY]
    return message.stored_at + stage.bucket.ttl


async def test_a_restart_without_nats_strips_before_the_record_expires(stage):
    """The process that led is dead, so nobody else can take the label away in time."""
    await stage.lead()
    await stage.kill(stage.first)
    expires = expires_at(stage)
    await start_blind(stage, "one")
    await stage.until(lambda: not stage.leaders, timeout=TTL)
    assert clock.now() < expires
    await stage.until(lambda: stage.condition() == ("False", "BucketUnreachable"))
    assert "leader" not in stage.status
    assert "LeaderLost" in stage.reasons


async def test_a_moment_that_passes_while_it_is_looked_at_is_not_missed(stage, monkeypatch):
    """A timer may come a little early: the strip is not due yet, and due a microsecond later."""
    await stage.lead()
    await stage.kill(stage.first)
    replica, _ = await start_blind(stage, "one")
    unseen_key, passes = replica._reconciler._unseen_key, []
    monkeypatch.setattr(unseen_key._adapters, "wake", passes.append)
    monkeypatch.setattr(Confirmation, "act", lambda _, now, *_args, **_seen: Later(now))
    await unseen_key.seek_confirmation(withdrawn=False)
    assert passes == [0.0]


async def test_restarts_in_a_row_do_not_postpone_the_strip(stage):
    """A process that lives shorter than a TTL goes on where the one before it ended."""
    await stage.lead()
    await stage.kill(stage.first)
    lived = TTL / 5
    for _ in range(3):
        replica, _ = await start_blind(stage, "one")
        with contextlib.suppress(TimeoutError):
            await stage.until(lambda: not stage.leaders, timeout=lived)
        await stage.kill(replica)
        if not stage.leaders:
            break
    assert not stage.leaders


async def test_a_replica_that_sees_keeps_its_leader_however_long_another_is_cut_off(stage):
    """It answers each question with a renewal, and no label changes."""
    await stage.lead()
    await start_blind(stage)
    before = len(stage.cluster.history)
    for _ in range(50):
        with contextlib.suppress(TimeoutError):
            await stage.until(lambda: stage.leaders != ["a"], timeout=1)
        assert stage.leaders == ["a"]
    assert not [pod for pod in stage.cluster.history[before:] if pod.name == "a"]
    assert stage.condition() == ("True", "Leading")
    assert set(stage.reasons) == {"LeaderElected"}


async def test_a_replica_that_sees_dies_beside_one_that_is_cut_off(stage):
    """The one that is left strips before the record expires."""
    await stage.lead()
    await start_blind(stage)
    await stage.until(lambda: "unconfirmed" in stage.status)
    await stage.until(lambda: "unconfirmed" not in stage.status)
    await stage.kill(stage.first)
    expires = expires_at(stage)
    await stage.until(lambda: not stage.leaders, timeout=2 * TTL)
    assert clock.now() < expires


async def test_a_standby_that_is_cut_off_strips_when_the_steward_dies(stage):
    """It knows when the record was renewed last."""
    await stage.lead()
    view = View(stage.bucket)
    await stage.start("two", nonce="second", view=view)
    await stage.until(lambda: clock.now() > expires_at(stage) - 0.75 * TTL)
    with view.blind():
        await stage.kill(stage.first)
        expires = expires_at(stage)
        await stage.until(lambda: not stage.leaders, timeout=2 * TTL)
        assert clock.now() < expires
    await stage.until(lambda: stage.leaders)
    assert stage.most_at_once() == 1


async def test_a_standby_that_sees_answers_when_the_steward_is_dead(stage):
    """It takes over, so that the leader stays."""
    await stage.lead()
    await stage.start("two", nonce="second")
    await stage.until(lambda: clock.now() > expires_at(stage) - 0.75 * TTL)
    await stage.kill(stage.first)
    await start_blind(stage, "three")
    with contextlib.suppress(TimeoutError):
        await stage.until(lambda: not stage.leaders, timeout=3 * TTL)
    assert stage.leaders == ["a"]
    assert "a=None" not in stage.writes


async def test_with_hold_the_label_stays(stage):
    """`onBucketLoss: Hold` asks for it."""
    await stage.lead()
    stage.change(onBucketLoss="Hold")
    await stage.until(lambda: stage.first.resource.holds)
    await stage.kill(stage.first)
    await start_blind(stage, "one")
    with contextlib.suppress(TimeoutError):
        await stage.until(lambda: not stage.leaders, timeout=3 * TTL)
    assert stage.leaders == ["a"]
    assert "unconfirmed" not in stage.status


async def test_without_a_known_ttl_the_label_is_taken_at_once(stage):
    """The record may have expired."""
    await stage.lead()
    await stage.kill(stage.first)
    election = stage.cluster.elections[NAMESPACE, "billing"]
    del election["status"]["bucket"]
    began = clock.now()
    await start_blind(stage, "one")
    await stage.until(lambda: not stage.leaders, timeout=TTL)
    assert clock.now() < began + TTL / 2


async def test_the_strip_does_not_need_the_view_of_the_pods(stage):
    """Pods are listed by the label alone if no watch has shown them yet."""
    await stage.lead()
    await stage.kill(stage.first)
    expires = expires_at(stage)
    with stage.cluster.delaying_watches():
        await start_blind(stage, "one")
        await stage.until(lambda: not stage.leaders, timeout=TTL)
        assert clock.now() < expires


async def test_an_api_server_that_fails_meanwhile_delays_the_strip_only(stage):
    """It is tried again until it is confirmed."""
    await stage.lead()
    await stage.kill(stage.first)
    with stage.cluster.refusing("replace_status", error=ClusterUnreachable("no answer")):
        await start_blind(stage, "one")
        with contextlib.suppress(TimeoutError):
            await stage.until(lambda: not stage.leaders, timeout=TTL)
        assert stage.leaders == ["a"]  # nobody could have answered yet
    await stage.until(lambda: not stage.leaders, timeout=TTL)


async def test_a_definition_without_the_field_does_not_keep_the_label(stage):
    """An API server with an older definition drops the question, so nobody can answer."""
    await stage.lead()
    await stage.kill(stage.first)
    expires = expires_at(stage)
    replace_status = stage.cluster.replace_status

    async def prune(namespace, name, *, resource_version, status):
        kept = {field: value for field, value in status.items() if field != "unconfirmed"}
        return await replace_status(namespace, name, resource_version=resource_version, status=kept)

    stage.cluster.replace_status = prune
    await start_blind(stage, "one")
    await stage.until(lambda: not stage.leaders, timeout=TTL)
    assert clock.now() < expires


async def test_when_nats_comes_back_the_pod_leads_again_and_the_question_is_gone(stage):
    """Nothing is left behind."""
    await stage.lead()
    await stage.kill(stage.first)
    _, view = await start_blind(stage, "one")
    await stage.until(lambda: not stage.leaders, timeout=TTL)
    restore(view)
    await stage.until(lambda: stage.leaders == ["a"])
    await stage.until(lambda: "unconfirmed" not in stage.status)
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    assert stage.most_at_once() == 1


async def test_a_label_that_a_replica_that_sees_sets_again_stays(stage):
    """A second strip would be a fight."""
    await stage.lead()
    await start_blind(stage)
    await stage.until(lambda: "unconfirmed" in stage.status)
    await stage.until(lambda: "unconfirmed" not in stage.status)
    stage.cluster.change("a", labels={"app": "billing", LABEL: "candidate"})
    await stage.until(lambda: stage.leaders == ["a"])
    with contextlib.suppress(TimeoutError):
        await stage.until(lambda: not stage.leaders, timeout=5 * TTL)
    assert stage.leaders == ["a"]


async def test_a_service_leads_to_nobody_after_the_strip(stage):
    """Its slices go with the label, and were not known to the new process."""
    stage.cluster.put_service()
    stage.change(routing={"service": "web"})
    await stage.lead()
    await stage.until(lambda: endpoints(stage) == ["a"])
    await stage.kill(stage.first)
    expires = expires_at(stage)
    await start_blind(stage, "one")
    await stage.until(lambda: not stage.leaders and not endpoints(stage), timeout=TTL)
    assert clock.now() < expires


def endpoints(stage):
    """Return to which pods the Service leads."""
    found = list(stage.cluster.slices.values())
    return [one["targetRef"]["name"] for body in found for one in body.get("endpoints") or ()]


async def test_two_replicas_that_see_do_not_relieve_each_other_while_an_answer_is_written(stage):
    """A slow API server keeps the question open for longer than a steward is waited for."""
    await stage.lead()
    await stage.start("three", nonce="third")
    replace_status = stage.cluster.replace_status

    async def slowly(namespace, name, **options):
        await asyncio.sleep(1.0)
        return await replace_status(namespace, name, **options)

    stage.cluster.replace_status = slowly
    with stage.bucket.delaying(0.01):
        await start_blind(stage)
        await stage.until(lambda: "unconfirmed" in stage.status)
        stage.bucket.calls.clear()
        await stage.until(lambda: "unconfirmed" not in stage.status, timeout=TTL)
    assert len([call for call in stage.bucket.calls if call.name == "renew"]) <= 5
