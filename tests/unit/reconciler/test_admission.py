"""Admission plugins of other people: slow webhooks, and policies that refuse our patches."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fakecluster import make_pod
from incumbent import clock
from incumbent.errors import AdmissionDenied, AdmissionUnavailable, Forbidden, Refused
from stage import LABEL, MARGIN, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


def message(stage, kind):
    """Return the message of a condition."""
    return next(c["message"] for c in stage.status["conditions"] if c["type"] == kind)


def never_two(stage):
    """Make sure that no two pods were ever labelled at once."""
    assert stage.most_at_once() <= 1


# Slow


@pytest.mark.parametrize("seconds", (2.5, 4.0))
async def test_slow_webhook_makes_everything_slow_and_nothing_impossible(stage, seconds):
    """A first leader, a hand-over, a step-down: each of the patches takes its time."""
    with stage.cluster.webhook(seconds=seconds):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["a"], timeout=1 + seconds)
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=1 + 3 * seconds)
        stage.cluster.change("a", ready=True)
        stage.annotate(step_down="a")
        await stage.until(lambda: stage.leaders == ["a"], timeout=1 + 3 * seconds)
        await stage.until(lambda: "webhook" in message(stage, "LabelsInSync"))
        assert f"about {seconds:.0f} s" in message(stage, "LabelsInSync")
        assert stage.condition("LabelsInSync") == ("True", "LabelsWritten")
    never_two(stage)
    assert "release" not in stage.writes


async def test_slow_candidates_hold_up_no_change_of_leader(stage):
    """Their labels are nothing that anybody waits for."""
    for name in "cdef":
        stage.cluster.add(make_pod(name, created="2026-01-01T00:01:00Z"))
    with stage.cluster.webhook("c", "d", "e", "f", seconds=20.0):
        await stage.lead()
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=0.5)
        await stage.until(lambda: stage.cluster.pod("c").labels.get(LABEL), timeout=60)


@pytest.mark.parametrize("method", ("hand-over", "step-down"))
async def test_slow_patch_outlasts_no_renewal(stage, method):
    """Renewals go on while a patch is on its way, so that the term does not end."""
    await stage.lead()
    with stage.cluster.webhook(seconds=5.0):
        if method == "hand-over":
            stage.cluster.change("a", ready=False)
        else:
            stage.annotate(step_down="b")
        await stage.until(lambda: stage.leaders == ["b"], timeout=13)
    assert [one for one in stage.writes if "=" not in one] == ["transfer"]


@pytest.mark.parametrize("seconds", (0.5, 1.5, 2.0))
async def test_strip_at_the_deadline_ends_before_the_record_does(stage, seconds):
    """It is sent sooner when patches are known to be slow: another cluster waits for the TTL."""
    with stage.cluster.webhook(seconds=seconds):
        await stage.lead()
        await asyncio.sleep(2 * TTL)
        with stage.bucket.unreachable():
            expires = stage.first._driver.lease.sent_at + TTL
            await stage.until(lambda: not stage.leaders)
            assert clock.now() < expires
        await stage.until(lambda: stage.leaders == ["a"])


async def test_webhook_that_is_too_slow_for_the_ttl_is_told(stage):
    """Then the second promise cannot be held, and the condition says so."""
    with stage.cluster.webhook(seconds=4.0):
        await stage.lead()
        await stage.until(lambda: "TTL is too short" in message(stage, "LabelsInSync"))


async def test_deadline_moves_back_when_the_webhook_is_gone(stage):
    """Some patches later; nobody has to restart anything."""
    usual = []
    with stage.cluster.webhook(seconds=2.0):
        await stage.lead()
        usual.append(stage.first._driver.campaign.timing.margin)
    for pod in ("b", "a") * 3:
        stage.annotate(step_down=pod)
        await stage.until(lambda pod=pod: stage.leaders == [pod])
        await stage.until(lambda: "incumbent.dev/step-down" not in stage.annotations)
    usual.append(stage.first._driver.campaign.timing.margin)
    assert usual == [pytest.approx(0.3 + 2, abs=0.1), pytest.approx(MARGIN)]


# Refused

DENIED = AdmissionDenied("policy 'frozen' denied request: image not signed")
OUTAGE = AdmissionUnavailable("failed calling webhook")
INTERVAL = TTL / 3
SOME_INTERVALS = 2 * INTERVAL


@pytest.mark.parametrize("error", (DENIED, OUTAGE))
async def test_pod_that_refuses_the_label_is_passed_over(stage, error):
    """The next candidate leads; the condition names the pod and what the API server says."""
    with stage.cluster.webhook("a", error=error):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["b"], timeout=SOME_INTERVALS)
        await stage.until(lambda: stage.condition() == ("True", "Leading"))
        assert stage.record == "site/shop/b"
        await stage.until(lambda: stage.condition("LabelsInSync")[0] == "False")
        said = message(stage, "LabelsInSync")
        assert "pod a" in said
        assert str(error) in said
        await asyncio.sleep(20 * TTL)
        assert stage.leaders == ["b"]
    assert [one for one in stage.writes if "=" not in one] == ["create", "transfer"]
    await stage.until(
        lambda: stage.condition("LabelsInSync") == ("True", "LabelsWritten"), timeout=70
    )
    await asyncio.sleep(20 * TTL)
    assert stage.leaders == ["b"], "no hand-over back without need"
    never_two(stage)


async def test_pod_is_tried_again_when_it_would_be_accepted(stage):
    """That is asked without a write, so that nobody has to lose an office for it."""
    with stage.cluster.webhook("a", error=DENIED):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["b"])
        asked = len([call for call in stage.cluster.calls if call.name == "dry_run"])
        await asyncio.sleep(600)
        more = len([call for call in stage.cluster.calls if call.name == "dry_run"]) - asked
        assert 5 <= more <= 40
        stage.cluster.change("b", ready=False)
        await asyncio.sleep(TTL)
        assert stage.leaders == [], "nobody can lead"
    await stage.until(lambda: stage.leaders == ["a"], timeout=70)
    never_two(stage)


async def test_pod_of_higher_priority_preempts_nobody_while_it_is_refused(stage):
    """It does as soon as it would be accepted."""
    stage.change(handover={"preemption": "WhenReady"})
    stage.cluster.change("a", annotations={"incumbent.dev/priority": "9"})
    with stage.cluster.webhook("a", error=DENIED):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["b"])
        transfers = stage.writes.count("transfer")
        await asyncio.sleep(600)
        assert stage.leaders == ["b"]
        assert stage.writes.count("transfer") == transfers
    await stage.until(lambda: stage.leaders == ["a"], timeout=70)
    never_two(stage)


@pytest.mark.parametrize("error", (DENIED, OUTAGE, Forbidden("no right")))
async def test_record_is_released_if_no_pod_can_be_labelled(stage, error):
    """So that another site can lead. It is not taken again for nothing."""
    with stage.cluster.webhook(error=error):
        await stage.start()
        await stage.until(lambda: stage.record is not None)
        await stage.until(lambda: stage.record is None, timeout=SOME_INTERVALS)
        await asyncio.sleep(20 * TTL)
        assert [one for one in stage.writes if "=" not in one] == ["create", "release"]
        reason = "PermissionDenied" if isinstance(error, Forbidden) else "AdmissionDenied"
        assert stage.condition() == ("False", reason)
        assert stage.condition("Stalled") == ("True", reason)
        assert "pod a" in message(stage, "Ready")
        assert reason in stage.reasons
    await stage.until(lambda: stage.leaders, timeout=70)
    never_two(stage)


async def test_two_replicas_leave_it_both(stage):
    """The one that has not seen the refusal finds out, and then neither takes the record."""
    with stage.cluster.webhook(error=DENIED):
        await stage.start("one")
        await stage.start("two", nonce="other")
        await asyncio.sleep(6 * TTL)
        writes = list(stage.writes)
        assert stage.record is None
        await asyncio.sleep(20 * TTL)
        assert [one for one in stage.writes[len(writes) :] if "=" not in one] == []
    await stage.until(lambda: stage.leaders, timeout=70)
    never_two(stage)


async def test_step_down_works_while_a_pod_refuses(stage):
    """At once, also before it is passed over."""
    with stage.cluster.webhook("a", error=DENIED):
        await stage.start()
        await stage.until(lambda: "a=leader" in stage.writes)
        stage.annotate(step_down="b")
        await stage.until(lambda: stage.leaders == ["b"], timeout=INTERVAL)
        await stage.until(lambda: "incumbent.dev/step-down" not in stage.annotations)
        stage.annotate(step_down="a")
        await stage.until(lambda: "StepDownRefused" in stage.reasons)
        assert "refuses" in stage.cluster.events[-1].note or "refuses" in str(stage.cluster.events)
        assert stage.leaders == ["b"]
    never_two(stage)


@pytest.mark.parametrize("how", ("suspend", "delete"))
async def test_election_ends_though_a_pod_refuses(stage, how):
    """It never had the label, so there is nothing to take from it."""
    with stage.cluster.webhook("a", error=DENIED):
        replica = await stage.start()
        await stage.until(lambda: "a=leader" in stage.writes)
        if how == "suspend":
            stage.change(suspend=True)
            await stage.until(lambda: stage.record is None, timeout=INTERVAL)
        else:
            async with asyncio.timeout(INTERVAL + 4):
                await replica.retire()
            assert stage.record is None


async def test_label_without_an_answer_is_no_refusal(stage):
    """The pod may be labelled, so nobody else may be, whatever the API server says later."""
    await stage.start()
    with stage.cluster.delaying_writes() as late:
        await stage.until(lambda: "a=leader" in stage.writes)
        with stage.cluster.webhook("a", error=DENIED):
            await asyncio.sleep(6 * TTL)
            assert stage.leaders == []
            assert stage.record == "site/shop/a"
            assert str(DENIED) in message(stage, "LabelsInSync")
        late.carry_out()
    never_two(stage)
    await stage.until(lambda: stage.leaders == ["a"])
    never_two(stage)


async def test_pod_that_cannot_be_stripped_keeps_the_record(stage):
    """It carries the label, so nobody else may; the condition says so, and what to do."""
    await stage.lead()
    with stage.cluster.webhook("a", error=DENIED):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(6 * TTL)
        assert stage.leaders == ["a"]
        assert stage.record == "site/shop/a"
        said = message(stage, "Stalled")
        assert "Pod a may carry the leader label and cannot be stripped" in said
        assert str(DENIED) in said
        assert "delete it" in said
        stage.cluster.delete("a")
        await stage.until(lambda: stage.leaders == ["b"], timeout=5)
    never_two(stage)


async def test_label_of_another_replica_on_its_way_keeps_others_from_leading(stage):
    """Its sender stood still, the record expired, and the pod refuses a strip: nobody is sure."""
    view = View(stage.bucket)
    one = await stage.start("one", view=view)
    with stage.cluster.delaying_writes(2) as late:
        await stage.until(lambda: "a=leader" in stage.writes)
        await stage.kill(one)
        two = await stage.start("two", nonce="other")
        with stage.cluster.webhook("a", error=DENIED):
            await asyncio.sleep(6 * TTL)
            assert stage.leaders == []
        late.carry_out()
    never_two(stage)
    assert two
    await stage.until(lambda: stage.leaders, timeout=70)
    never_two(stage)


async def test_refused_candidates_hold_up_nothing(stage):
    """They are tried again now and then; the leader leads, and a hand-over takes no longer."""
    for name in "cdef":
        stage.cluster.add(make_pod(name, created="2026-01-01T00:01:00Z"))
    with stage.cluster.webhook("c", "d", "e", "f", error=DENIED):
        await stage.lead()
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=0.5)
        await asyncio.sleep(600)
        assert stage.condition() == ("True", "Leading")
        assert stage.condition("LabelsInSync") == ("False", "LabelsNotWritten")
        assert "could not be marked" in message(stage, "LabelsInSync")
        tries = [call for call in stage.cluster.patches if call.target == "c"]
        assert len(tries) < 40
    await stage.until(lambda: stage.cluster.pod("c").labels.get(LABEL), timeout=70)


async def test_webhook_that_takes_no_dry_run_is_found_out_by_a_term(stage):
    """Another pod is tried at once, the one that refused only after a while."""
    unsupported = Refused('admission webhook "x" does not support dry run')
    with (
        stage.cluster.webhook("a", error=DENIED),
        stage.cluster.refusing("dry_run", error=unsupported),
    ):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["b"], timeout=SOME_INTERVALS)
        await asyncio.sleep(600)
        assert stage.leaders == ["b"]
    never_two(stage)


def label_of(pod):
    return {name: value for name, value in pod.labels.items() if name == LABEL}


def without_label(_, patched):
    """Store no leader label: what a webhook makes of it."""
    if patched.labels.get(LABEL) != "leader":
        return patched
    return replace(patched, labels=patched.labels | {LABEL: "candidate"})


def with_old_label(before, patched):
    """Store the label as it was."""
    return replace(patched, labels=patched.labels | label_of(before))


async def test_pod_whose_label_a_webhook_takes_out_is_passed_over(stage):
    """The API server answers 200, and the label is not there: that is a refusal, too."""
    with stage.cluster.webhook("a", change=without_label):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["b"], timeout=SOME_INTERVALS)
        assert "took the leader label out" in message(stage, "LabelsInSync")
        await asyncio.sleep(20 * TTL)
        assert stage.leaders == ["b"]
    never_two(stage)


async def test_pod_to_which_a_webhook_gives_its_label_back_keeps_the_record(stage):
    """The strip was answered with 200, and has changed nothing: nobody else may be labelled."""
    await stage.lead()
    with stage.cluster.webhook("a", change=with_old_label):
        stage.cluster.change("a", ready=False)
        await asyncio.sleep(6 * TTL)
        assert stage.leaders == ["a"]
        assert stage.record == "site/shop/a"
        assert "an admission webhook put it back" in message(stage, "Stalled")
    await stage.until(lambda: stage.leaders == ["b"], timeout=70)
    never_two(stage)


async def test_marks_that_a_webhook_changes_are_not_written_for_ever(stage):
    """They are tried again ever more rarely."""

    def unmarked(_, patched):
        labels = {k: v for k, v in patched.labels.items() if (k, v) != (LABEL, "candidate")}
        number = str(len(stage.cluster.history))  # each is a real write, which the watch shows
        return replace(patched, labels=labels, annotations=patched.annotations | {"n": number})

    with stage.cluster.webhook(change=unmarked):
        await stage.lead()
        await asyncio.sleep(600)
        assert len(stage.cluster.patches) < 60
        assert "changed the label of pod b" in message(stage, "LabelsInSync")
    await stage.until(lambda: stage.cluster.pod("b").labels.get(LABEL) == "candidate", timeout=70)
