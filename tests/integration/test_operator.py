"""The operator does its main job on a real control plane and a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import aiohttp
import pytest
import pytest_asyncio

from controlplane.kube import ApiError
from controlplane.sites import WRITES
from elections import BUCKET, LEADER, Election, LabelWatch, condition_of, store_on, with_bucket
from incumbent import Election as Member
from operatorprocess import OperatorProcess, series

TTL = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(site, nats_server, shared_namespace, tmp_path_factory):
    """An operator that many tests share."""
    async with OperatorProcess(
        site,
        tmp_path_factory.mktemp("operator"),
        nats_url=nats_server.url,
        arguments=(f"--namespace={shared_namespace}", *with_bucket(TTL)),
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


async def test_one_pod_carries_the_leader_label(site, shared, operator, store):
    """One pod leads, the others are candidates, and record, status and metrics tell the same."""
    leader = await shared.lead("one", "two", "three")

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
        assert metrics[series(name, shared)] == 1
    assert metrics[series("candidates", shared)] == 3


async def test_objects_of_users_carry_nothing_of_the_framework(shared, operator):
    """No annotations, no finalizer but our own, and no events but our own."""
    await shared.lead()

    metadata = (await shared.kube.get(shared.path))["metadata"]
    assert metadata["finalizers"] == ["incumbent.dev/cleanup"]
    assert "annotations" not in metadata
    await shared.wait_event("LeaderElected")
    (event,) = await shared.events()
    assert event["reportingController"] == "incumbent.dev/operator"


@pytest.mark.parametrize("how", ("deleted", "not ready", "failed", "excluded"))
async def test_leader_that_cannot_lead_is_replaced(shared, operator, pods, how):
    """Another pod leads at once, with a higher token, and at no time do two."""
    leader = await shared.lead()
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
    first = await shared.lead()
    pod = (await shared.pods())[first]
    await pods.set_ready(pod, ready=False)
    second = await shared.wait_leader(other_than=first)
    await shared.wait_labels({second: LEADER})

    await pods.set_ready(pod, ready=True)

    await shared.wait_labels({first: "candidate", second: LEADER})


async def test_without_candidates_the_record_is_released_at_once(shared, operator, store):
    """The last candidate's end is not waited for; the next candidate leads with a new token."""
    leader = await shared.lead("one")
    token = (await shared.status())["token"]

    await shared.kube.delete(shared.pod_path(leader))

    await store.until(shared.key, lambda m: "Incumbent-Release" in m.headers, timeout=2)
    await shared.wait_reason("NoCandidates")
    await shared.wait_event("NoCandidates")
    await shared.add_pods("two")
    assert await shared.wait_leader(timeout=2) == "two"
    assert (await shared.status())["token"] > token


async def test_a_pod_that_is_born_with_the_label_loses_it(shared, operator):
    """A template may have it that is older than the admission policies."""
    leader = await shared.lead()
    (other,) = {"one", "two"} - {leader}
    await shared.add_pods("three", labels={"app": shared.name, shared.label: LEADER})
    await shared.wait_labels({leader: LEADER, other: "candidate", "three": "candidate"}, timeout=2)


@pytest.mark.parametrize("how", ("added", "removed", "changed", "token", "unselected"))
async def test_tampered_label_is_corrected(shared, operator, how):
    """Whatever somebody does to the labels by hand is undone within a second."""
    leader = await shared.lead()
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
        corrections = series("label_corrections_total", shared)
        assert (await operator.metrics())[corrections] == 1
    assert (await shared.status())["transitions"] == 1


async def test_suspension_releases_and_its_end_elects(shared, operator, store):
    """A suspended election has no leader and no record."""
    leader = await shared.lead()

    await shared.patch(suspend=True)

    await shared.wait_reason("Suspended")
    assert LEADER not in (await shared.labels()).values()
    assert "Incumbent-Release" in (await store.latest(shared.key)).headers
    await shared.wait_event("Released")
    await shared.patch(suspend=False)
    assert await shared.wait_leader(timeout=2) == leader


async def test_request_moves_the_leader_once(shared, operator):
    """The annotation is gone when another pod leads."""
    leader = await shared.lead("a", "b", "c")
    await shared.kube.patch(
        shared.path, {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}}
    )
    successor = await shared.wait_leader(other_than=leader)
    async with asyncio.timeout(5):
        while True:
            found = await shared.kube.get(shared.path)
            if "incumbent.dev/step-down" not in (found["metadata"].get("annotations") or {}):
                break
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    assert await shared.wait_leader() == successor


async def test_members_that_campaign_themselves_are_labelled(shared, operator, nats_server):
    """The label follows whoever holds the record, with the member's own token."""
    await shared.add_pods("a", "b")
    await shared.create(mode="Observed")
    urls, bucket, key = nats_server.url, BUCKET, shared.key
    async with (
        LabelWatch(shared) as watch,
        Member(urls, bucket, key, f"{shared.namespace}/{shared.name}-a") as first,
    ):
        token = await first.won()
        assert await shared.wait_leader() == "a"
        pod = (await shared.pods())["a"]
        assert pod["metadata"]["annotations"][shared.token] == str(token)
        async with Member(urls, bucket, key, f"{shared.name}-b") as second:
            await first.stop()
            await second.won()
            assert await shared.wait_leader(other_than="a") == "b"
        await watch.wait(lambda change: not change.leaders)
    assert watch.most <= 1


async def test_changed_selector_moves_the_leader(shared, operator):
    """A leader that the selector no longer matches loses its label to one that it does."""
    first = await shared.lead()
    await shared.add_pods("blue", labels={"app": "blue"})
    async with LabelWatch(shared) as watch:
        await shared.patch(selector={"matchLabels": {"app": "blue"}})

        assert await shared.wait_leader(other_than=first) == "blue"
        await shared.wait_labels({"blue": LEADER})

    assert watch.most == 1


async def test_interval_can_be_changed(shared, operator):
    """The interval of a running election follows its spec. One that is too long changes nothing."""
    leader = await shared.lead()
    gauge = series("campaign_interval_seconds", shared)
    assert (await operator.metrics())[gauge] == pytest.approx(TTL / 3)

    await shared.patch(campaign={"intervalSeconds": 1})
    await shared.kube.until(shared.path, lambda f: f["status"]["observedGeneration"] == 2)
    assert (await operator.metrics())[gauge] == 1

    with pytest.raises(ApiError, match=r"0\.9 of the bucket's TTL"):
        await shared.patch(campaign={"intervalSeconds": 60})
    assert (await operator.metrics())[gauge] == 1

    await shared.patch(campaign=None)
    assert await shared.wait_leader() == leader


async def test_election_may_have_the_manners_of_a_choria_member(shared, operator):
    """It holds the record first, and is labelled after its second campaign."""
    await shared.add_pods("one")
    await shared.create(campaign={"profile": "Choria", "splaySeconds": 0})

    await shared.kube.until(shared.path, lambda f: (f.get("status") or {}).get("holder"))
    assert LEADER not in (await shared.labels()).values()

    assert await shared.wait_leader() == "one"
    assert (await operator.metrics())[series("campaign_interval_seconds", shared)] == 0.75 * TTL


@pytest.mark.parametrize("more", ("", "!" * 100_000, "\x1b[2J\n"), ids=("", "long", "control"))
async def test_overwritten_record_ends_the_term(shared, operator, store, more):
    """A stranger's record is respected, whatever it says: the label goes at once."""
    await shared.lead("one")

    await store.put(shared.key, f"somebody else{more}")

    condition = await shared.wait_reason("LedElsewhere")
    assert "somebody else" in condition["message"]
    assert condition["message"].isprintable()
    assert LEADER not in (await shared.labels()).values()
    await shared.wait_event("LeaderLost")
    await shared.delete()


async def test_evicted_leader_is_followed_by_another(shared, operator, store):
    """Whoever deletes the key gets another pod, if there is one."""
    leader = await shared.lead()

    await store.put(shared.key, "", **{"KV-Operation": "DEL"})

    await shared.wait_leader(other_than=leader)


async def test_deletion_leaves_nothing_behind(shared, operator, store):
    """No label, no annotation, no record and no series is left of a deleted election."""
    await shared.lead()

    await shared.delete()

    await shared.wait_gone(timeout=3)
    for pod in (await shared.pods()).values():
        assert pod["metadata"]["labels"] == {"app": shared.name}
        assert not pod["metadata"].get("annotations")
    assert "Incumbent-Release" in (await store.latest(shared.key)).headers
    assert shared.name not in "".join(await operator.metrics())


async def test_recreated_election_starts_anew(shared, operator):
    """A resource of the same name, created at once, has nothing to do with the deleted one."""
    await shared.lead()
    await shared.delete()
    await shared.wait_gone()

    await shared.create()

    await shared.wait_leader(timeout=3)
    assert (await shared.status())["transitions"] == 1
    await shared.wait_event("LeaderElected", times=2)


async def test_younger_election_waits_for_the_key(shared, operator):
    """Of two elections with one key the younger says so, and goes on when the older is gone."""
    await shared.lead(key=shared.key)
    younger = Election(shared.kube, shared.namespace, f"{shared.name}-younger")
    await younger.add_pods("three")
    await asyncio.sleep(1)  # the age has seconds
    await younger.create(key=shared.key)
    condition = await younger.wait_reason("KeyInUse")
    assert f"{shared.namespace}/{shared.name}" in condition["message"]
    assert not await younger.labels()

    await shared.delete()

    assert await younger.wait_leader() == "three"


async def test_stable_election_writes_nothing_to_the_api_server(site, shared, operator):
    """At rest there is no write request at all, however often the record is renewed."""
    leader = await shared.lead()
    await shared.wait_labels(dict.fromkeys(("one", "two"), "candidate") | {leader: LEADER})
    await shared.wait_event("LeaderElected")
    campaigns = series("campaigns_total", shared, state="leader")
    await asyncio.sleep(0.5)
    since = site.audit.position()
    renewals = (await operator.metrics())[campaigns]

    await asyncio.sleep(4)

    assert (await operator.metrics())[campaigns] >= renewals + 2
    writes = site.audit.requests(
        since=since, user="operator", namespace=shared.namespace, verbs=WRITES
    )
    written = [write for write in writes if write.name.startswith(shared.name)]
    assert not written, written


# aiohttp leaves a socket behind where a server is killed in the middle of a connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120)
async def test_no_restart_makes_anybody_believe_that_an_election_is_gone(
    private_nats, election, new_operator
):
    """Whoever asks is told to ask again, and whoever listens hears nothing but the end."""
    flags = with_bucket(10)
    operator = new_operator(private_nats.url, *flags)
    await operator.start()
    await election.lead()
    path, stopped = f"/v1/elections/{election.namespace}/{election.name}", asyncio.Event()
    answers, heard = set(), b""

    async def ask():
        async with aiohttp.ClientSession() as session:
            while not stopped.is_set():
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(operator.url + path) as answer:
                        answers.add((answer.status, "Retry-After" in answer.headers))
                await asyncio.sleep(0)

    async def listen():
        nonlocal heard
        headers = {"Accept": "text/event-stream"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(operator.url + path, headers=headers) as stream,
        ):
            async for line in stream.content:
                heard += line

    listening, asking = asyncio.create_task(listen()), asyncio.create_task(ask())
    while not heard:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    for _ in range(3):
        await operator.process.stop()
        await operator.start()
        await operator.wait_said("election.configured")
    async with asyncio.timeout(20):
        while not await operator.election(election.namespace, election.name):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stopped.set()
    await asyncio.gather(listening, asking)
    assert answers == {(200, False), (503, True)}
    assert b"gone" not in heard


async def test_first_start_that_creates_the_bucket_warns_of_nothing(
    private_nats, election, new_operator
):
    """Neither in the log nor by an event, though elections are there before the bucket is."""
    await election.add_pods("one", "two")
    await election.create()
    operator = new_operator(private_nats.url, *with_bucket(10))
    await operator.start()
    await election.wait_leader()
    assert not operator.lines("bucket.problem")
    await election.wait_event("LeaderElected")
    assert {event["type"] for event in await election.events()} == {"Normal"}
