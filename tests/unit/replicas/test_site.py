"""Replicas of one site are those that use one API server, whatever a copy of it claims."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from fakecluster import NAMESPACE, make_election, make_pod
from fakes import FakeBucket
from incumbent.campaign import wire
from incumbent.campaign.records import Record
from incumbent.campaigner.recognition import ACCOUNT_WITHIN, QUIET_TTLS
from incumbent.errors import Conflict, Refused
from incumbent.replicas.site import MOST_PROCESSES, Kinship, Peers, Site
from stage import KEY, LABEL, MARGIN, TOKEN, TTL, Stage, View

pytestmark = [pytest.mark.looptime(noop_cycles=2), pytest.mark.usefixtures("clock_of_the_loop")]

IN_USE = ("False", "SiteInUse")
LEADING = ("True", "Leading")
ELSEWHERE = ("True", "LedElsewhere")


@contextlib.asynccontextmanager
async def copy_of(stage, *, pods="same", site=None):
    """A copy of a cluster, as it is now, on the same bucket; no operator runs there yet.

    pods: `same` have been there when it was copied, `other` have been created since.
    """
    other = Stage()
    other.bucket = stage.bucket
    other.site = site or stage.site
    other.cluster.latency = stage.cluster.latency
    other.cluster.put_election(make_election(status=stage.status))
    for pod in stage.cluster.pods.values():
        kept = pod if pods == "same" else make_pod(pod.name, uid=f"other-{pod.uid}")
        other.cluster.add(replace(kept, resource_version=""))
    yield other
    for campaigner in list(other.tasks):
        await other.kill(campaigner)


async def both_lead(stage, other, *, seconds):
    """Return the seconds for which both clusters had a pod with the label."""
    both = 0
    for _ in range(round(seconds * 100)):
        both += bool(stage.leaders and other.leaders)
        await asyncio.sleep(0.01)
    return both / 100


@pytest.mark.parametrize("pods", ("same", "other"))
async def test_a_copied_cluster_never_leads_beside_its_original(stage, pods):
    """It says so, strips what the copy brought, and leaves the record alone."""
    await stage.lead()
    term = stage.status["token"]
    async with copy_of(stage, pods=pods) as other:
        await other.start("one", nonce="copy")
        await asyncio.sleep(ACCOUNT_WITHIN + TTL)
        assert other.leaders == []
        assert await both_lead(stage, other, seconds=20 * TTL) == 0
        assert (other.condition(), other.condition("Stalled")) == (IN_USE, ("True", "SiteInUse"))
        assert other.reasons.count("SiteInUse") == 1
    assert (stage.leaders, stage.condition()) == (["a"], LEADING)
    assert stage.status["token"] == term
    renewals = [call for call in stage.bucket.calls if call.name == "renew"]
    assert {call.headers[wire.REPLICA] for call in renewals} == {"one/nonce"}


async def test_two_replicas_of_a_copy_do_not_vouch_for_the_original(stage):
    """They know each other, and neither of them has ever seen the original's steward write."""
    await stage.lead()
    async with copy_of(stage) as other:
        await other.start("one", nonce="copy-1")
        await other.start("two", nonce="copy-2")
        await asyncio.sleep(2 * ACCOUNT_WITHIN)
        assert await both_lead(stage, other, seconds=10 * TTL) == 0
        assert other.condition() == IN_USE
        assert stage.condition() == LEADING


async def test_a_copy_and_its_original_that_start_together_do_not_both_lead(stage):
    """Whoever of the two has the record leads, and the other one says why it does not."""
    async with copy_of(stage) as other:
        await asyncio.gather(stage.start("one"), other.start("one", nonce="copy"))
        await asyncio.sleep(2 * ACCOUNT_WITHIN)
        assert await both_lead(stage, other, seconds=10 * TTL) == 0
        assert {stage.condition(), other.condition()} == {LEADING, IN_USE}


async def test_restart_of_the_original_gives_nothing_to_its_copy(stage):
    """The copy waits for a while after the record has gone: its holder may come back."""
    await stage.lead()
    async with copy_of(stage, pods="other") as other:
        await other.start("one", nonce="copy")
        await other_says(other, IN_USE)
        await stage.first.resign()
        await stage.kill(stage.first)
        await asyncio.sleep(2 * TTL)
        assert other.leaders == []
        await stage.start("one", nonce="restarted")
        await stage.until(lambda: stage.leaders != [])
        assert await both_lead(stage, other, seconds=10 * TTL) == 0
        assert (stage.condition(), other.condition()) == (LEADING, IN_USE)


async def test_copy_takes_over_when_the_original_is_gone_for_good(stage):
    """After a few TTLs without a record of it."""
    await stage.lead()
    async with copy_of(stage, pods="other") as other:
        await other.start("one", nonce="copy")
        await other_says(other, IN_USE)
        await stage.kill(stage.first)
        for name in ("a", "b"):
            stage.cluster.delete(name)
        await other.until(lambda: other.condition() == LEADING, timeout=(QUIET_TTLS + 3) * TTL)


async def test_way_out_of_a_copy_is_a_name_of_its_own(stage):
    """The name that the administrator gives wins over the one in the copied status."""
    await stage.lead()
    async with copy_of(stage, site=Site("dr", "uid-of-cluster", given=True)) as other:
        await other.start("one", nonce="copy")
        await asyncio.sleep(ACCOUNT_WITHIN + TTL)
        assert (other.leaders, other.condition()) == ([], ELSEWHERE)
        assert other.status["site"] == "dr"
        await stage.first.resign()
        await stage.kill(stage.first)
        await other.until(lambda: other.condition() == LEADING)
        assert stage.record == "dr/shop/a"
        assert await both_lead(stage, other, seconds=5 * TTL) == 0


async def test_rolling_update_of_the_original_gives_nothing_to_a_copy_that_has_just_started(stage):
    """The last renewal of a replica is meant for its peers, and a copy has not been judged yet."""
    await stage.lead()
    token = stage.status["token"]
    second = await stage.start("two", nonce="n2")
    await asyncio.sleep(2)
    async with copy_of(stage) as other:
        await other.start("one", nonce="copy")
        second._driver.campaign._next_at += 0.3  # it is a little late
        await stage.first.leave()
        await stage.kill(stage.first)
        await asyncio.sleep(2 * ACCOUNT_WITHIN)
        assert (stage.leaders, stage.status["token"]) == (["a"], token)
        assert (other.leaders, other.condition()) == ([], IN_USE)


async def test_copy_whose_status_may_not_be_written_strips_its_pods_all_the_same(stage):
    """Nobody can be asked there, and nobody can answer."""
    await stage.lead()
    async with copy_of(stage) as other:
        with other.cluster.refusing("replace_status", error=Refused("a policy forbids it")):
            await other.start("one", nonce="copy")
            await asyncio.sleep(2 * ACCOUNT_WITHIN)
            assert other.leaders == []


# Replicas of one cluster


async def replaced(stage, old, name, nonce):
    """Start the replica that a rolling update starts, and then end the old one."""
    new = await stage.start(name, nonce=nonce)
    await asyncio.sleep(2)
    await old.leave()
    await stage.kill(old)
    await asyncio.sleep(2 * ACCOUNT_WITHIN)
    return new


@pytest.mark.parametrize(
    "site",
    (
        Site("site", "uid-of-cluster"),
        Site("site", "uid-of-another-namespace", given=True),
        Site("site", ""),
    ),
    ids=("the same", "another UID", "no UID"),
)
async def test_rolling_update_changes_no_leader_whatever_becomes_of_the_uid(stage, site):
    """What namespaces are served, and what may be read, may be another at each replica."""
    await stage.lead()
    token, before = stage.status["token"], len(stage.cluster.patches)
    old = stage.first
    for number in range(3):
        stage.site = (site, Site("site", "uid-of-cluster"))[number % 2]
        old = await replaced(stage, old, f"new-{number}", f"n-{number}")
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    assert len(stage.cluster.patches) == before
    assert stage.status["steward"]["replica"] == "new-2"


@pytest.mark.parametrize("leaves", (True, False), ids=("leaves", "is killed"))
async def test_single_replica_that_is_replaced_changes_no_leader(stage, leaves):
    """Its successor meets nobody who could answer, and goes on with what the status names."""
    await stage.lead()
    token = stage.status["token"]
    if leaves:
        await stage.first.leave()
    await stage.kill(stage.first)
    await asyncio.sleep(1)
    await stage.start("two", nonce="new")
    await asyncio.sleep(5 * TTL)
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    assert stage.most_at_once() == 1


async def test_single_replica_that_is_replaced_within_a_long_ttl_changes_no_leader(stage):
    """Its record is not renewed for longer than a living steward has for an answer."""
    stage.bucket = FakeBucket(ttl=60.0)
    await stage.lead()
    token = stage.status["token"]
    await stage.kill(stage.first)
    await asyncio.sleep(1)
    await stage.start("two", nonce="new")
    await asyncio.sleep(120)
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    assert stage.most_at_once() == 1


async def test_leader_whose_record_a_copy_has_is_stripped_before_its_lease_ends(stage):
    """It was deleted and created again, and the watch showed only the latter."""
    await stage.lead()
    headers = {wire.REPLICA: "one/copy", wire.SITE: "site/uid-of-cluster", wire.POD_UID: "uid-x"}
    for _ in range(6):
        stage.bucket.put(KEY, "site/shop/x", headers)
        await asyncio.sleep(1)
    assert stage.leaders == []


async def test_new_name_costs_one_hand_over_to_the_same_pod(stage):
    """A term has one identity, so that a new one begins; the label is gone for a moment."""
    await stage.lead()
    token = stage.status["token"]
    stage.site = Site("renamed", "uid-of-cluster", given=True)
    await replaced(stage, stage.first, "two", "new")
    assert (stage.leaders, stage.record) == (["a"], "renamed/shop/a")
    assert stage.status["token"] > token
    assert stage.most_at_once() == 1
    assert stage.reasons.count("LeaderLost") == 0
    assert stage.writes.count("a=leader") == 1


async def test_new_name_of_a_single_replica_waits_for_the_old_record_to_expire(stage):
    """A name that is not ours any more is not renewed; the label is gone before the record is."""
    await stage.lead()
    stage.site = Site("renamed", "uid-of-cluster", given=True)
    await stage.first.leave()
    left = asyncio.get_running_loop().time()
    await stage.kill(stage.first)
    await stage.start("two", nonce="new")
    await stage.until(lambda: stage.leaders == [], timeout=TTL)
    assert asyncio.get_running_loop().time() - left == pytest.approx(TTL - MARGIN, abs=0.2)
    assert stage.record == "site/shop/a"
    await stage.until(lambda: stage.leaders == ["a"], timeout=3 * MARGIN)
    assert stage.record == "renamed/shop/a"
    assert stage.most_at_once() == 1


async def test_replica_with_an_old_definition_of_the_kind_still_relays(stage):
    """The API server drops what is not in it, so that a header has to be enough."""
    drop_new_fields(stage)
    await stage.lead()
    token = stage.status["token"]
    await replaced(stage, stage.first, "two", "new")
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    writes = stage.cluster.operations.count("replace_status")
    await asyncio.sleep(10 * TTL)
    assert stage.cluster.operations.count("replace_status") == writes


def drop_new_fields(stage):
    """Let the API server forget the fields that prove who is a replica."""
    replace_status = stage.cluster.replace_status

    async def pruned(namespace, name, *, resource_version, status):
        status = {key: value for key, value in status.items() if key != "newcomer"}
        if "steward" in status:
            kept = {"replica", "revision"}
            steward = {key: value for key, value in status["steward"].items() if key in kept}
            status["steward"] = steward
        return await replace_status(
            namespace, name, resource_version=resource_version, status=status
        )

    stage.cluster.replace_status = pruned


async def test_steward_of_an_earlier_version_is_recognised(stage):
    """It knows nothing of questions, and writes over them what it has to say."""
    drop_proofs(stage.cluster, "old")
    stage.first = await stage.start("old")
    await stage.until(lambda: stage.condition() == LEADING)
    assert "process" not in stage.status["steward"]
    token = stage.status["token"]
    standby = await stage.start("standby", nonce="s")
    patches = len(stage.cluster.patches)
    await asyncio.sleep(3 * ACCOUNT_WITHIN)
    assert len(stage.cluster.patches) == patches
    assert standby._driver.campaign.stands_by
    await stage.kill(standby)
    await replaced(stage, stage.first, "two", "new")
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    assert stage.most_at_once() == 1


def drop_proofs(cluster, name):
    """Let one replica write no proofs, as earlier versions do."""
    replace_status = cluster.replace_status

    async def written(namespace, election, *, resource_version, status):
        steward = status.get("steward") or {}
        if steward.get("replica") == name and "newcomer" not in status:
            steward.pop("process", None)
            steward.pop("admitted", None)
        return await replace_status(
            namespace, election, resource_version=resource_version, status=status
        )

    cluster.replace_status = written


async def test_replica_that_was_taken_for_a_foreign_one_is_recognised_by_what_it_labels(stage):
    """Its view of the elections was interrupted for long. It costs one label, and no fight."""
    await stage.lead()
    shown, stage.cluster.shown[:] = stage.cluster.shown[:], []
    await stage.start("two", nonce="new")
    await asyncio.sleep(2 * ACCOUNT_WITHIN)
    assert (stage.leaders, stage.writes.count("a=leader")) == (["a"], 1)
    patches = len(stage.cluster.patches)
    await asyncio.sleep(5 * TTL)
    assert len(stage.cluster.patches) == patches
    stage.cluster.shown += shown
    stage.cluster.show(stage.cluster.elections[NAMESPACE, "billing"])
    await asyncio.sleep(5 * TTL)
    assert (stage.leaders, stage.condition()) == (["a"], LEADING)


async def test_blind_replica_is_relieved_by_one_that_has_just_started(stage):
    """It comes back to a record of a replica that it has never met, and does not strip."""
    view = View(stage.bucket)
    first = await stage.start("one", view=view)
    await stage.until(lambda: stage.condition() == LEADING)
    token = stage.status["token"]
    with view.blind():
        await asyncio.sleep(0.1)
        await stage.start("two", nonce="new")
        await asyncio.sleep(TTL)
    await asyncio.sleep(3 * TTL)
    assert (stage.leaders, stage.status["token"], stage.condition()) == (["a"], token, LEADING)
    assert first in stage.tasks


async def other_says(stage, condition):
    await stage.until(lambda: stage.condition() == condition, timeout=10 * TTL)


# A brake


async def test_label_that_is_taken_again_and_again_is_given_back_ever_more_slowly(stage):
    """A thousand times a minute would load the API server, and nobody would hear of it."""
    await stage.lead()
    taken = 0
    for _ in range(6000):
        if stage.leaders:
            stage.cluster.change("a", labels={"app": "billing", LABEL: "candidate"})
            taken += 1
        await asyncio.sleep(0.01)
    assert taken < 15
    assert stage.condition("LabelsInSync") == ("False", "LabelsContested")
    assert stage.reasons.count("LabelsContested") == 1
    await asyncio.sleep(120)
    assert (stage.leaders, stage.condition("LabelsInSync")) == (["a"], ("True", "LabelsWritten"))
    stage.cluster.change("a", labels={"app": "billing", LABEL: "candidate"})
    await stage.until(lambda: stage.leaders == ["a"], timeout=1)


async def test_label_that_is_given_again_and_again_is_taken_once_a_second(stage):
    """A second leader is worse than a loaded API server, so that it never takes longer."""
    await stage.lead()
    given = 0
    for _ in range(6000):
        if stage.leaders == ["a"]:
            labels = {"app": "billing", LABEL: "leader"}
            with contextlib.suppress(Conflict):
                stage.cluster.change("b", labels=labels, annotations={TOKEN: "1"})
                given += 1
        await asyncio.sleep(0.01)
    assert 45 < given < 75
    assert stage.reasons.count("LabelCorrected") <= 5
    assert stage.condition("LabelsInSync")[1] in {"LabelsContested", "LabelsNotWritten"}


# What a status proves, and what it only says

ME = "two/new"
OURS = Record(7, "site/shop/a", 5, replica="one/n1", site="site/uid", pod_uid="uid-a")


def kinship(first=None, *, site=None, peers=None):
    """What one replica knows after it has read a status for the first time."""
    return Kinship(site or Site("site", "uid"), ME, "shop", peers or Peers(), first or {})


def status(replica="one", process="n1", **more):
    """A status that names a steward."""
    return {"steward": {"replica": replica, "process": process, "revision": 3}, **more}


def test_header_and_first_status_prove_nothing():
    """A copy has both. The record is in doubt, and may only be gone on with."""
    kin = kinship(status())
    assert (kin.ours(OURS), kin.doubtful(OURS), kin.inherited(OURS)) == (False, True, True)


def test_record_of_a_process_that_no_status_names_is_not_gone_on_with():
    """The original of a copy has had other processes since."""
    kin = kinship(status(process="n0"))
    assert (kin.ours(OURS), kin.doubtful(OURS), kin.inherited(OURS)) == (False, True, False)


@pytest.mark.parametrize(
    "later",
    (
        {"steward": {"replica": "one", "process": "n1", "admitted": ME}},
        {"newcomer": "one/n1"},
    ),
    ids=("answer", "question"),
)
def test_process_that_writes_here_is_known(later):
    """It answers us, or asks somebody, which it can only do over our API server."""
    kin = kinship(status())
    kin.hear(later)
    assert (kin.ours(OURS), kin.doubtful(OURS)) == (True, False)


def test_new_steward_is_known():
    """Nobody else writes that it is the steward."""
    kin = kinship(status("zero", "n0"))
    kin.hear(status("one", "n1"))
    assert kin.ours(OURS)


def test_answer_to_another_replica_proves_nothing_to_us():
    """It may have been copied with everything else."""
    kin = kinship(status())
    kin.hear({"steward": {"replica": "one", "process": "n1", "admitted": "three/n3"}})
    assert not kin.ours(OURS)


def test_question_that_was_there_before_us_proves_nothing():
    """It was copied in the moment between a question and its answer."""
    kin = kinship({"newcomer": "one/n1"})
    kin.hear({"newcomer": "one/n1", "state": "Leader"})
    assert not kin.ours(OURS)


def test_what_is_known_from_one_election_counts_in_all():
    """Processes are known, not records."""
    peers = Peers()
    kinship(peers=peers).hear({"newcomer": "one/n1"})
    assert kinship(peers=peers).ours(OURS)


@pytest.mark.parametrize(
    ("change", "site"),
    (
        ({"holder": "renamed/shop/a", "site": "renamed/uid"}, Site("site", "uid")),
        ({"site": "site/another"}, Site("site", "uid")),
        ({"site": "site/"}, Site("site", "")),
    ),
    ids=("another name", "another UID", "no UID"),
)
def test_known_replica_may_have_another_name_and_uid_of_the_site(change, site):
    """While a rolling update changes them, or the namespaces that are served."""
    kin = kinship(status(), site=site)
    kin.hear(status(admitted=None) | {"newcomer": "one/n1"})
    assert kin.ours(replace(OURS, **change))


def test_known_replica_of_other_namespaces_is_no_replica_here():
    """It does not reach the pods of this namespace."""
    kin = kinship()
    kin.hear({"newcomer": "one/n1"})
    assert not kin.ours(replace(OURS, holder="site/other/a"))


@pytest.mark.parametrize(
    "record",
    (
        replace(OURS, site="site/another"),
        replace(OURS, holder="site/other/a"),
        Record(7, "site/shop/a", 7),
    ),
    ids=("another cluster", "another namespace", "a stranger"),
)
def test_foreign_record_is_not_in_doubt(record):
    """Nobody is asked about it, and it is no reason to stay away."""
    kin = kinship()
    assert (kin.ours(record), kin.doubtful(record), kin.inherited(record)) == (False,) * 3


def test_process_of_another_cluster_is_judged_once():
    """It is not in doubt any more, nothing is inherited from it, and a proof changes that."""
    peers = Peers()
    kin = kinship(status(), peers=peers)
    judged = []
    end = peers.listen(judged.append)
    peers.exclude("one/n1")
    peers.exclude("one/n1")
    assert kin.in_use(OURS)
    assert (kin.ours(OURS), kin.doubtful(OURS), kin.inherited(OURS)) == (False,) * 3
    assert not kin.in_use(replace(OURS, holder="copy/shop/a"))
    peers.learn("one/n1")
    peers.exclude("one/n1")
    assert kin.ours(OURS)
    assert not kin.in_use(OURS)
    assert judged == ["one/n1", "one/n1"]
    end()
    peers.learn("three/n3")
    assert len(judged) == 2


def test_status_of_an_earlier_version_names_its_steward_by_the_term():
    """It has no process in it; another term is of another time."""
    plain = {"steward": {"replica": "one", "revision": 3}, "token": 5, "holder": "site/shop/a"}
    assert kinship(plain).inherited(OURS)
    assert not kinship({**plain, "token": 4}).inherited(OURS)
    assert not kinship({**plain, "holder": "site/shop/b"}).inherited(OURS)


def test_name_that_is_given_wins_over_the_one_in_a_status():
    """One that was derived does not: other defaults must not rename a running election."""
    assert Site("dr", "uid", given=True).for_election(name="site", uid="e").name == "dr"
    assert Site("7f3a", "uid").for_election(name="site", uid="e").name == "site"
    assert Site("7f3a", "uid").for_election(name="", uid="e") == Site("7f3a", "uid")
    assert Site("dr", "", given=True).for_election(name="", uid="e").header == "dr/e"


def test_any_number_of_processes_costs_little() -> None:
    """Whoever may write into a bucket can make them up. One that is forgotten is judged again."""
    peers = Peers()
    for number in range(10_000):
        peers.exclude(f"made-up-{number}")
        peers.learn(f"replica-{number}")
        peers.named.add(f"named-{number}")
        peers.asked_at.add(f"made-up-{number}", float(number))
    rooms = (peers.known, peers.named, peers.foreign, peers.asked_at)
    assert [len(room) for room in rooms] == [MOST_PROCESSES] * 4
    assert "made-up-0" not in peers.foreign
    assert "made-up-9999" in peers.foreign
