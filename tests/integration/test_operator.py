"""The operator does its main job on a real control plane and a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field

import nats
import pytest
import pytest_asyncio
from nats.js.errors import NotFoundError

from controlplane.kube import Kube
from controlplane.sites import WRITES
from elections import LEADER, Election, LabelWatch, condition_of
from operatorprocess import OperatorProcess

BUCKET = "ELECTIONS"
TTL = 5.0
CREATE = (f"--bucket={BUCKET}", "--create-bucket", f"--bucket-ttl={TTL:g}s")
SHORT_TTL = 3.0
CREATE_SHORT = (f"--bucket={BUCKET}", "--create-bucket", f"--bucket-ttl={SHORT_TTL:g}s")


@dataclass(frozen=True)
class Message:
    """The latest message of a key."""

    revision: int
    value: str
    headers: dict[str, str] = field(default_factory=dict)


class Store:
    """A bucket as any other NATS client sees it."""

    def __init__(self, client):
        self.client = client
        self.jetstream = client.jetstream()

    async def latest(self, key):
        """Return the latest message of a key, None without one."""
        try:
            found = await self.jetstream.get_msg(
                f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.{key}", direct=False
            )
        except NotFoundError:
            return None
        return Message(found.seq, (found.data or b"").decode(), dict(found.headers or {}))

    async def until(self, key, condition, *, timeout=20):
        """Wait until the latest message of a key is as expected."""
        deadline = time.monotonic() + timeout
        while not condition(message := await self.latest(key)):
            assert time.monotonic() < deadline, f"{key} is {message} after {timeout} s"
            await asyncio.sleep(0.02)
        return message

    async def put(self, key, value, **headers):
        """Put a record, whatever there is."""
        await self.jetstream.publish(f"$KV.{BUCKET}.{key}", value.encode(), headers=headers)


@contextlib.asynccontextmanager
async def store_on(server):
    """Connect to the bucket on a server."""
    client = await nats.connect(server.url)
    try:
        yield Store(client)
    finally:
        await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_namespace(site):
    """The namespace of the shared operator."""
    async with Kube(site) as kube:
        name = f"operator-{secrets.token_hex(4)}"
        await kube.namespace(name)
        yield name
        await kube.delete(f"/api/v1/namespaces/{name}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(site, nats_server, shared_namespace, tmp_path_factory):
    """An operator that many tests share."""
    async with OperatorProcess(
        site,
        tmp_path_factory.mktemp("operator"),
        nats_url=nats_server.url,
        arguments=(f"--namespace={shared_namespace}", *CREATE),
    ) as process:
        yield process


@pytest.fixture
def shared(kube, operator, shared_namespace):
    """The election of a test, not created yet, for the operator that many tests share."""
    return Election(kube, shared_namespace, f"web-{secrets.token_hex(4)}")


@pytest.fixture
async def store(nats_server):
    """The bucket of the shared operator."""
    async with store_on(nats_server) as found:
        yield found


@pytest.fixture
def election(kube, namespace):
    """The election of a test, not created yet, for an operator of its own."""
    return Election(kube, namespace)


@pytest.fixture
def start(site, namespace, tmp_path):
    """Return a function that makes an operator of the test's own; it ends with the test."""
    processes = []

    def make(server, arguments=CREATE_SHORT, **options):
        arguments = (f"--namespace={namespace}", *arguments)
        process = OperatorProcess(
            site, tmp_path, nats_url=server.url, arguments=arguments, **options
        )
        processes.append(process)
        return process

    yield make
    for process in processes:
        process.process.kill()


async def led(election, *pods, **spec):
    """Create the pods and the election, and wait until it has a leader."""
    await election.add_pods(*(pods or ("one", "two")))
    await election.create(**spec)
    return await election.wait_leader()


def series(metric, election, **labels):
    """Return the name of an election's series."""
    labels = {"election": election.name, "namespace": election.namespace, **labels}
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{shown}}}"


# One operator, and nothing wrong with NATS or the API server


async def test_one_pod_carries_the_leader_label(site, shared, operator, store):
    """One pod leads, the others are candidates, and record, status and metrics tell the same."""
    leader = await led(shared, "one", "two", "three")

    others = {"one", "two", "three"} - {leader}
    await shared.wait_labels({leader: LEADER} | dict.fromkeys(others, "candidate"))
    pod = (await shared.pods())[leader]
    message = await store.latest(shared.key)
    status = await shared.status()
    assert message.value == status["holder"]
    assert message.value.endswith(f"/{shared.namespace}/{shared.name}-{leader}")
    assert status["leader"]["podUID"] == pod["metadata"]["uid"]
    assert status["candidates"] == {"total": 3, "ready": 3}
    assert pod["metadata"]["annotations"] == {shared.token: str(status["token"])}
    assert condition_of({"status": status}, "Ready")["reason"] == "Leading"
    view = await operator.election(shared.namespace, shared.name)
    assert (view["state"], view["token"]) == ("Leader", status["token"])
    assert 0 < view["remainingSeconds"] < TTL
    metrics = await operator.metrics()
    for name in ("leader", "transitions_total", "labelled_pods"):
        assert metrics[series(f"incumbent_{name}", shared)] == 1


async def test_objects_of_users_carry_nothing_of_the_framework(shared, operator):
    """No annotations, no finalizer but our own, and no events but our own."""
    await led(shared)

    metadata = (await shared.kube.get(shared.path))["metadata"]
    assert metadata["finalizers"] == ["incumbent.dev/cleanup"]
    assert "annotations" not in metadata
    (event,) = await shared.events()
    assert event["reason"] == "LeaderElected"
    assert event["reportingController"] == "incumbent.dev/operator"


@pytest.mark.parametrize("how", ("deleted", "not ready", "failed", "excluded"))
async def test_leader_that_cannot_lead_is_replaced(shared, operator, pods, how):
    """Another pod leads at once, with a higher token, and at no time do two."""
    leader = await led(shared)
    pod = (await shared.pods())[leader]
    token = (await shared.status())["token"]
    async with LabelWatch(shared) as watch:
        match how:
            case "deleted":
                await shared.kube.delete(shared.pod_path(leader))
            case "not ready":
                await pods.set_ready(pod, ready=False)
            case "failed":
                await pods.fail(pod)
            case "excluded":
                exclude = {"incumbent.dev/exclude": "true"}
                await shared.annotate_or_label(leader, annotations=exclude)
        change = await watch.wait(lambda c: c.leaders and leader not in c.leaders, timeout=3)

    assert watch.most == 1
    assert int(*change.leaders.values()) > token
    await shared.wait_leader(other_than=leader)
    await shared.wait_event("HandedOver")
    assert (await shared.status())["transitions"] == 2


async def test_leader_that_comes_back_does_not_take_over(shared, operator, pods):
    """A pod that was not ready is a candidate again, and the leader stays."""
    first = await led(shared)
    pod = (await shared.pods())[first]
    await pods.set_ready(pod, ready=False)
    second = await shared.wait_leader(other_than=first)
    await shared.wait_labels({second: LEADER})

    await pods.set_ready(pod, ready=True)

    await shared.wait_labels({first: "candidate", second: LEADER})


async def test_without_candidates_the_record_is_released_at_once(shared, operator, store):
    """The last candidate's end is not waited for; the next candidate leads with a new token."""
    leader = await led(shared, "one")
    token = (await shared.status())["token"]

    await shared.kube.delete(shared.pod_path(leader))

    await store.until(shared.key, lambda m: "Incumbent-Release" in m.headers, timeout=2)
    await shared.wait_reason("NoCandidates")
    await shared.wait_event("NoCandidates")
    await shared.add_pods("two")
    assert await shared.wait_leader(timeout=2) == "two"
    assert (await shared.status())["token"] > token


@pytest.mark.parametrize("how", ("added", "removed", "changed", "token", "unselected"))
async def test_tampered_label_is_corrected(shared, operator, how):
    """Whatever somebody does to the labels by hand is undone within a second."""
    leader = await led(shared)
    (other,) = {"one", "two"} - {leader}
    await shared.wait_labels({leader: LEADER, other: "candidate"})
    await shared.add_pods("stranger", labels={"app": "other"})
    token = str((await shared.status())["token"])

    match how:
        case "added":
            await shared.set_label(other, LEADER)
        case "removed":
            await shared.set_label(leader, None)
        case "changed":
            await shared.set_label(other, "nonsense")
        case "token":
            await shared.annotate_or_label(leader, annotations={shared.token: "1"})
        case "unselected":
            await shared.set_label("stranger", LEADER)

    await shared.wait_labels({leader: LEADER, other: "candidate"}, timeout=1)
    await shared.kube.until(
        shared.pod_path(leader),
        lambda pod: pod["metadata"]["annotations"][shared.token] == token,
        timeout=1,
    )
    if how in {"added", "unselected"}:
        event = await shared.wait_event("LabelCorrected")
        assert (f"-{other}" if how == "added" else "-stranger") in event["note"]
        corrections = series("incumbent_label_corrections_total", shared)
        assert (await operator.metrics())[corrections] == 1
    assert (await shared.status())["transitions"] == 1


async def test_suspension_releases_and_its_end_elects(shared, operator, store):
    """A suspended election has no leader and no record."""
    leader = await led(shared)

    await shared.patch(suspend=True)

    await shared.wait_reason("Suspended")
    assert LEADER not in (await shared.labels()).values()
    assert "Incumbent-Release" in (await store.latest(shared.key)).headers
    await shared.wait_event("Released")
    await shared.patch(suspend=False)
    assert await shared.wait_leader(timeout=2) == leader


async def test_changed_selector_moves_the_leader(shared, operator):
    """A leader that the selector no longer matches loses its label to one that it does."""
    first = await led(shared)
    await shared.add_pods("blue", labels={"app": "blue"})
    async with LabelWatch(shared) as watch:
        await shared.patch(selector={"matchLabels": {"app": "blue"}})

        assert await shared.wait_leader(other_than=first) == "blue"
        await shared.wait_labels({"blue": LEADER})

    assert watch.most == 1


async def test_interval_can_be_changed(shared, operator):
    """The interval of a running election follows its spec, and one that is too long is refused."""
    leader = await led(shared)
    gauge = series("incumbent_campaign_interval_seconds", shared)
    assert (await operator.metrics())[gauge] == pytest.approx(TTL / 3)

    await shared.patch(campaign={"intervalSeconds": 1})
    await shared.kube.until(shared.path, lambda f: f["status"]["observedGeneration"] == 2)
    assert (await operator.metrics())[gauge] == 1

    await shared.patch(campaign={"intervalSeconds": 60})
    condition = await shared.wait_reason("BucketInvalid")
    assert "60 s" in condition["message"]
    assert LEADER not in (await shared.labels()).values()

    await shared.patch(campaign=None)
    assert await shared.wait_leader() == leader


async def test_overwritten_record_ends_the_term(shared, operator, store):
    """A stranger's record is respected, and what it leaves behind is taken over later."""
    leader = await led(shared, "one")
    token = (await shared.status())["token"]

    await store.put(shared.key, "somebody else")

    condition = await shared.wait_reason("LedElsewhere", timeout=2)
    assert "somebody else" in condition["message"]
    assert LEADER not in (await shared.labels()).values()
    await shared.wait_event("LeaderLost")
    # It expires after a TTL, and the stranger may believe in itself for nearly another one.
    assert await shared.wait_leader(timeout=3 * TTL) == leader
    assert (await shared.status())["token"] > token


async def test_evicted_leader_is_followed_by_another(shared, operator, store):
    """Whoever deletes the key gets another pod, if there is one."""
    leader = await led(shared)

    await store.put(shared.key, "", **{"KV-Operation": "DEL"})

    await shared.wait_leader(other_than=leader)


async def test_deletion_leaves_nothing_behind(shared, operator, store):
    """No label, no annotation, no record and no series is left of a deleted election."""
    await led(shared)

    await shared.delete()

    await shared.wait_gone(timeout=3)
    for pod in (await shared.pods()).values():
        assert pod["metadata"]["labels"] == {"app": shared.name}
        assert not pod["metadata"].get("annotations")
    assert "Incumbent-Release" in (await store.latest(shared.key)).headers
    assert shared.name not in "".join(await operator.metrics())


async def test_recreated_election_starts_anew(shared, operator):
    """A resource of the same name, created at once, has nothing to do with the deleted one."""
    await led(shared)
    await shared.delete()
    await shared.wait_gone()

    await shared.create()

    await shared.wait_leader(timeout=3)
    assert (await shared.status())["transitions"] == 1
    assert len(await shared.events("LeaderElected")) == 2


async def test_younger_election_waits_for_the_key(shared, operator):
    """Of two elections with one key the younger says so, and goes on when the older is gone."""
    await led(shared, key=shared.name)
    younger = Election(shared.kube, shared.namespace, f"{shared.name}-younger")
    await younger.add_pods("three")
    await asyncio.sleep(1)  # the age has seconds
    await younger.create(key=shared.name)
    condition = await younger.wait_reason("KeyInUse")
    assert f"{shared.namespace}/{shared.name}" in condition["message"]
    assert not await younger.labels()

    await shared.delete()

    assert await younger.wait_leader() == "three"


async def test_stable_election_writes_nothing_to_the_api_server(site, shared, operator):
    """At rest there is no write request at all, however often the record is renewed."""
    await led(shared)
    campaigns = series("incumbent_campaigns_total", shared, state="leader")
    await asyncio.sleep(0.5)
    since = site.audit.position()
    renewals = (await operator.metrics())[campaigns]

    await asyncio.sleep(4)

    assert (await operator.metrics())[campaigns] >= renewals + 2
    assert not site.audit.requests(
        since=since, user="operator", namespace=shared.namespace, verbs=WRITES
    )


# Restarts


@pytest.mark.parametrize(("how", "ttl"), (("SIGKILL", 12), ("SIGTERM", 30)))
async def test_restart_changes_nothing(election, private_nats, start, how, ttl):
    """The leader of a replica that ends is the leader of its successor, in the same term.

    The TTLs leave time for a process to start on a busy machine.
    """
    operator = start(private_nats, (*CREATE, f"--bucket-ttl={ttl}s"))
    await operator.start()
    await led(election)
    before = await election.status()
    async with LabelWatch(election) as watch, store_on(private_nats) as store:
        if how == "SIGKILL":
            operator.process.kill()
        else:
            began = time.monotonic()
            await operator.process.stop()
            assert time.monotonic() - began < 3
            latest = await store.latest(election.key)
            assert "Incumbent-Leaving" in latest.headers
            assert "operator.stopped" in operator.log
        await operator.start()
        view = {"remainingSeconds": None}
        while view.get("remainingSeconds") is None:
            await asyncio.sleep(0.05)
            view = await operator.election(election.namespace, election.name)
        await asyncio.sleep(1)

    assert len(watch.changes) == 1
    after = await election.status()
    assert after["leader"] == before["leader"]
    assert after["token"] == before["token"]
    assert after["transitions"] == 1
    assert [event["reason"] for event in await election.events()] == ["LeaderElected"]
    assert (await operator.metrics())[series("incumbent_transitions_total", election)] == 0


async def test_leader_that_died_during_a_restart_is_replaced(election, private_nats, start):
    """A replica that starts takes the record of a pod that is gone, and hands it over."""
    operator = start(private_nats)
    await operator.start()
    leader = await led(election)
    operator.process.kill()
    await election.kube.delete(election.pod_path(leader), grace=0)

    await operator.start()

    await election.wait_leader(other_than=leader, timeout=SHORT_TTL + 2)


# NATS or the API server away


async def test_leader_steps_down_when_nats_is_away_for_too_long(election, private_nats, start):
    """The label is gone before a TTL has passed, and another term begins when NATS is back."""
    operator = start(private_nats)
    await operator.start()
    leader = await led(election, "one")
    token = (await election.status())["token"]
    async with LabelWatch(election) as watch:
        await private_nats.stop()
        stopped = time.monotonic()
        condition = await election.wait_reason("BucketUnreachable", kind="BucketReady", timeout=2)
        assert "NATS" in condition["message"]
        assert watch.changes[-1].leaders
        change = await watch.wait(lambda c: not c.leaders)
        assert change.at - stopped < SHORT_TTL
        await election.wait_reason("BucketUnreachable")
        await election.wait_event("BucketUnreachable")
        await election.wait_event("LeaderLost")
        await asyncio.sleep(1)

        await private_nats.start()

        await watch.wait(lambda c: c.leaders, timeout=5)
    assert await election.wait_leader() == leader
    assert (await election.status())["token"] > token
    assert (await election.wait_reason("BucketAtRisk", kind="BucketReady"))["status"] == "True"


async def test_short_absence_of_nats_changes_nothing(election, private_nats, start):
    """A restart of the NATS server leaves the leader where it is."""
    operator = start(private_nats, CREATE)
    await operator.start()
    await led(election)
    async with LabelWatch(election) as watch:
        await private_nats.restart()
        await operator.wait_said("bucket.watched")
        await asyncio.sleep(TTL / 3 + 0.5)
    assert len(watch.changes) == 1
    assert (await election.status())["transitions"] == 1
    assert not await election.events("LeaderLost")


async def test_deletion_does_not_wait_for_nats(election, private_nats, start):
    """While NATS is away the labels go at once, and the resource within 5 s."""
    operator = start(private_nats, CREATE)
    await operator.start()
    await led(election)
    await private_nats.stop()

    began = time.monotonic()
    await election.delete()

    await election.wait_labels({}, timeout=1)
    await election.wait_gone(timeout=6)
    assert time.monotonic() - began < 5


async def test_bucket_made_anew_gets_a_new_term(election, private_nats, start):
    """When the bucket is deleted and created again, nothing known of the old one counts."""
    operator = start(private_nats)
    await operator.start()
    await led(election)
    async with store_on(private_nats) as store, LabelWatch(election) as watch:
        config = (await store.jetstream.stream_info(f"KV_{BUCKET}")).config
        await store.jetstream.delete_stream(f"KV_{BUCKET}")
        await election.wait_reason("BucketNotFound", timeout=SHORT_TTL + 2)
        assert not watch.changes[-1].leaders

        await store.jetstream.add_stream(config)

        await watch.wait(lambda c: c.leaders, timeout=8)
        assert watch.most == 1
        await election.wait_leader()


async def test_outage_of_the_api_server_changes_no_leader(
    site, election, private_nats, start, proxy
):
    """The record is renewed meanwhile, and what happened to the pods is taken in afterwards."""
    between = await proxy(int(site.url.rpartition(":")[2]))
    kubeconfig = site.kubeconfig_for("operator", server=between.address)
    operator = start(private_nats, kubeconfig=kubeconfig)
    await operator.start()
    leader = await led(election)
    (other,) = {"one", "two"} - {leader}
    async with LabelWatch(election) as watch:
        await between.refuse()
        await asyncio.sleep(SHORT_TTL + 1)
        await election.set_label(other, None)
        await between.resume()
        await election.wait_labels({leader: LEADER, other: "candidate"})
        await election.patch(suspend=True)
        await election.wait_reason("Suspended")
    assert [dict(c.leaders) for c in watch.changes][1:] == [{}]
    assert (await election.status())["transitions"] == 1


# Two replicas


async def test_two_replicas_share_the_work(site, election, private_nats, start):
    """The leader stays while either replica is killed, restarted, paused and resumed."""
    first, second = (start(private_nats, replica=name) for name in ("replica-1", "replica-2"))
    await asyncio.gather(first.start(), second.start())
    await led(election)
    before = await election.status()
    replicas = {"replica-1": first, "replica-2": second}

    async def steward_is(name):
        await election.kube.until(
            election.path, lambda f: f["status"]["steward"]["replica"] == name, timeout=10
        )

    async with LabelWatch(election) as watch:
        steward = before["steward"]["replica"]
        (standby,) = replicas.keys() - {steward}
        await asyncio.sleep(1)
        since = site.audit.position()

        replicas[steward].process.kill()
        await steward_is(standby)
        await replicas[steward].start()
        await asyncio.sleep(1)

        replicas[standby].process.pause()
        await steward_is(steward)
        await asyncio.sleep(SHORT_TTL)
        replicas[standby].process.resume()
        await asyncio.sleep(1.5)

        await replicas[steward].process.stop()
        await steward_is(standby)

    assert len(watch.changes) == 1
    after = await election.status()
    assert (after["leader"], after["token"]) == (before["leader"], before["token"])
    assert [event["reason"] for event in await election.events()] == ["LeaderElected"]
    writes = site.audit.requests(
        since=since, user="operator", namespace=election.namespace, verbs=WRITES
    )
    assert {(write.resource, write.subresource) for write in writes} == {
        ("leaderelections", "status")
    }
    assert len(writes) == 3


async def test_leader_that_dies_with_the_steward_is_replaced(election, private_nats, start):
    """The other replica takes the record at once, for its pod is gone, and hands it over."""
    replicas = {name: start(private_nats, replica=name) for name in ("replica-1", "replica-2")}
    await asyncio.gather(*(replica.start() for replica in replicas.values()))
    leader = await led(election)
    steward = (await election.status())["steward"]["replica"]
    async with LabelWatch(election) as watch:
        replicas[steward].process.pause()
        await election.kube.delete(election.pod_path(leader), grace=0)
        await election.wait_leader(other_than=leader, timeout=3)
        await asyncio.sleep(SHORT_TTL)
        replicas[steward].process.resume()
        await asyncio.sleep(1)
    assert watch.most == 1
    assert len(watch.changes) == 3
    assert (await election.status())["transitions"] == 2
