"""A Service's EndpointSlices hold the leader or nobody, whatever is late, lost or done twice."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import NAMESPACE, Operation, make_election, make_pod
from incumbent import clock
from incumbent.errors import AdmissionDenied, ClusterUnreachable, Forbidden, Unsent
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import resource_from
from incumbent.routing.endpoint_slices import (
    FAMILIES,
    MANAGED_BY,
    SERVICE_NAME,
    Obstacle,
    emptied,
    filled,
    service_from,
    shows,
)
from incumbent.routing.writer import SliceWriter
from stage import KEY, LABEL, TOKEN, TTL, View, Watches

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

NAME = "incumbent-billing-ipv4"
ROUTING = {"service": "web", "mode": "EndpointSlice"}
A_WHILE = 31.0
"""Seconds after which Service and slices have been read again."""


@pytest.fixture
async def routed(stage):
    """A stage whose election names a Service."""
    stage.cluster.put_service()
    stage.change(routing=ROUTING)
    return stage


def slice_of(stage, name=NAME):
    return stage.cluster.slices.get((NAMESPACE, name))


def reached(stage, name=NAME):
    """Return the pods that the slice leads to."""
    found = slice_of(stage, name)
    return [one["targetRef"]["name"] for one in found["endpoints"]] if found else []


def writes(stage):
    """Return what was written of bucket, slices and leader labels, in order."""
    kinds = {"create", "transfer", "release", "create_slice", "patch_slice", "delete_slice"}
    found = []
    for call in stage.cluster.calls:
        if call.name in kinds:
            found.append(call.name)
        elif call.name == "patch_pod":
            found.append(f"{call.target}={call.labels['incumbent.dev/billing']}")
    return found


def assert_one_at_a_time(stage):
    assert all(len(route) <= 1 for route in stage.cluster.routes)
    assert stage.most_at_once() == 1


async def test_slice_leads_to_the_leader_with_its_token(routed):
    """The label is set, too, and a condition says that all is well."""
    await routed.lead()
    assert reached(routed) == ["a"]
    annotations = slice_of(routed)["metadata"]["annotations"]
    assert annotations[TOKEN] == str(routed.status["token"])
    await routed.until(lambda: routed.condition("RoutingInSync") == ("True", "SliceWritten"))
    assert routed.status["routing"] == {"service": "web"}
    assert routed.leaders == ["a"]


async def test_hand_over_is_one_write_of_the_slice_after_the_buckets(routed):
    """The labels follow."""
    await routed.lead()
    routed.cluster.change("a", ready=False)
    await routed.until(lambda: routed.leaders == ["b"])
    assert writes(routed) == ["transfer", "patch_slice", "a=None", "b=leader"]
    assert routed.cluster.routes[-2:] == [("a",), ("b",)]
    assert reached(routed) == ["b"]
    assert_one_at_a_time(routed)


async def test_at_rest_nothing_is_written_and_little_is_read(routed):
    """A look at Service and slices in half a minute."""
    await routed.lead()
    await asyncio.sleep(10 * A_WHILE)
    kinds = {"patch_pod", "patch_slice", "create_slice", "replace_status"}
    assert not kinds & set(routed.cluster.operations)
    reads = [name for name in routed.cluster.operations if name.startswith("get_")]
    assert len(reads) <= 3 * 14


async def test_without_routing_nothing_is_asked(stage):
    """No right is needed for an election that has labels only."""
    await stage.lead()
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.leaders == ["b"])
    assert not any("slice" in name or "service" in name for name in stage.cluster.operations)
    assert stage.condition("RoutingInSync") is None


async def test_release_empties_the_slice_first(routed):
    """Before the label goes, and before another site may lead."""
    await routed.lead()
    routed.change(suspend=True)
    await routed.until(lambda: routed.record is None)
    assert writes(routed)[:3] == ["patch_slice", "a=candidate", "release"]
    assert reached(routed) == []
    assert TOKEN not in slice_of(routed)["metadata"]["annotations"]


async def test_without_nats_the_slice_is_empty_at_the_deadline(stage):
    """As the label is gone then."""
    stage.cluster.put_service()
    stage.change(routing=ROUTING)
    view = View(stage.bucket)
    stage.first = await stage.start(view=view)
    await stage.until(lambda: stage.leaders == ["a"])
    with view.blind():
        await asyncio.sleep(TTL)
        assert (reached(stage), stage.leaders) == ([], [])
    await stage.until(lambda: stage.leaders and reached(stage) == stage.leaders, timeout=2 * TTL)
    assert_one_at_a_time(stage)


async def test_deletion_takes_the_slice_back(routed):
    """Nothing is left."""
    await routed.lead()
    await routed.first.retire()
    assert not routed.cluster.slices
    assert routed.leaders == []


async def test_routing_that_is_removed_takes_the_slice_back(routed):
    """The label stays, and the status forgets the Service."""
    await routed.lead()
    routed.change(routing=None)
    await routed.until(lambda: "routing" not in routed.status)
    assert not routed.cluster.slices
    assert routed.leaders == ["a"]


async def test_routing_removed_while_nobody_looked_takes_the_slice_back(routed):
    """The status remembers."""
    await routed.lead()
    await routed.kill(routed.first)
    routed.change(routing=None)
    await routed.start("two")
    await routed.until(lambda: "routing" not in routed.status)
    assert not routed.cluster.slices


async def test_other_service_gets_a_slice_of_its_own(routed):
    """The old one is deleted, for kube-proxy would go on with it."""
    routed.cluster.put_service("other")
    await routed.lead()
    first = slice_of(routed)["metadata"]["uid"]
    routed.change(routing={"service": "other"})
    await routed.until(lambda: () in routed.cluster.routes)
    await routed.until(lambda: reached(routed) == ["a"])
    assert slice_of(routed)["metadata"]["uid"] != first
    assert slice_of(routed)["metadata"]["labels"]["kubernetes.io/service-name"] == "other"


@pytest.mark.parametrize(
    ("spec", "reason"),
    (
        ({"selector": {"app": "billing"}}, "ServiceHasSelector"),
        ({"type": "ExternalName"}, "ServiceInvalid"),
        (None, "ServiceNotFound"),
    ),
)
async def test_service_that_cannot_be_used_is_refused(stage, spec, reason):
    """With a sentence; the label is set all the same, and no slice is written until then."""
    if spec is not None:
        stage.cluster.put_service(**spec)
    stage.change(routing=ROUTING)
    await stage.lead()
    await stage.until(lambda: stage.condition("RoutingInSync") == ("False", reason))
    assert stage.condition("Stalled") == ("True", reason)
    assert not stage.cluster.slices
    assert reason in stage.reasons
    stage.cluster.put_service()
    await stage.until(lambda: reached(stage) == ["a"])
    await stage.until(lambda: stage.condition("Stalled")[0] == "False")


@pytest.mark.parametrize(
    ("labels", "endpoints", "harmful"),
    (
        ({MANAGED_BY: "endpointslice-controller.k8s.io"}, [{"addresses": ["10.0.0.9"]}], True),
        ({}, [{"addresses": ["10.0.0.9"]}], True),
        ({}, [], False),
        ({MANAGED_BY: "incumbent.dev"}, [{"addresses": ["10.0.0.9"]}], False),
        ({SERVICE_NAME: "other"}, [{"addresses": ["10.0.0.9"]}], False),
    ),
)
async def test_slices_of_others_are_an_obstacle(routed, labels, endpoints, harmful):
    """Kubernetes leaves its own when a selector is removed, and they lead to every pod."""
    await routed.lead()
    name = "web-x7d9z"
    about = {"namespace": NAMESPACE, "name": name, "labels": {SERVICE_NAME: "web", **labels}}
    routed.cluster.slices[NAMESPACE, name] = {"metadata": about, "endpoints": endpoints}
    await asyncio.sleep(A_WHILE)
    state = ("False", "ServiceHasOthers") if harmful else ("True", "SliceWritten")
    assert routed.condition("RoutingInSync") == state
    del routed.cluster.slices[NAMESPACE, name]
    await routed.until(lambda: reached(routed) == ["a"])


async def test_selector_that_comes_later_ends_the_routing(routed):
    """Kubernetes would add pods of its own to what we wrote."""
    await routed.lead()
    routed.cluster.put_service(selector={"app": "billing"})
    await asyncio.sleep(A_WHILE)
    assert not routed.cluster.slices
    assert routed.leaders == ["a"]


async def test_service_of_another_election_is_refused(routed):
    """Until it is free."""
    await routed.lead()
    routed.first.refuse_service(Obstacle("ServiceInUse", "election x routes it"))
    await routed.until(lambda: routed.condition("RoutingInSync") == ("False", "ServiceInUse"))
    assert not routed.cluster.slices
    routed.first.refuse_service(None)
    await routed.until(lambda: reached(routed) == ["a"])


async def test_missing_right_leaves_the_labels_alone(routed):
    """The condition says which right, and the election goes on to its end."""
    methods = ("get_service", "get_slice", "create_slice", "patch_slice")
    with routed.cluster.refusing(*methods, error=Forbidden("A right is missing")):
        await routed.lead()
        await routed.until(
            lambda: routed.condition("RoutingInSync") == ("False", "PermissionDenied")
        )
        routed.cluster.change("a", ready=False)
        await routed.until(lambda: routed.leaders == ["b"])
        routed.change(suspend=True)
        await routed.until(lambda: routed.record is None)


async def test_slice_that_admission_refuses_is_no_missing_right(routed):
    """The condition does not send people to look for a right that is there."""
    denied = AdmissionDenied("exceeded quota: q")
    with routed.cluster.refusing("create_slice", "patch_slice", error=denied):
        await routed.lead()
        await routed.until(
            lambda: routed.condition("RoutingInSync") == ("False", "AdmissionDenied")
        )
        assert routed.condition("Stalled") == ("True", "AdmissionDenied")
        assert "AdmissionDenied" in routed.reasons
        [said] = [c["message"] for c in routed.status["conditions"] if c["type"] == "Stalled"]
        assert "rbac" not in said
    await routed.until(lambda: reached(routed) == ["a"])


async def test_change_of_the_slice_by_somebody_else_is_corrected(routed):
    """Not at once, for slices are not watched."""
    await routed.lead()
    found = slice_of(routed)
    stray = {"addresses": ["10.0.0.9"], "targetRef": {"name": "stranger"}}
    routed.cluster.put_slice({**found, "endpoints": [*found["endpoints"], stray]})
    assert reached(routed) == ["a", "stranger"]
    await asyncio.sleep(A_WHILE)
    assert reached(routed) == ["a"]


async def test_hand_over_corrects_a_slice_that_changed(routed):
    """The write is refused, and decided anew on a fresh warrant."""
    await routed.lead()
    routed.cluster.put_slice({**slice_of(routed), "ports": []})
    routed.cluster.change("a", ready=False)
    await routed.until(lambda: reached(routed) == ["b"], timeout=1)
    assert_one_at_a_time(routed)


async def test_other_ports_of_the_service_are_followed(routed):
    """When they are seen."""
    await routed.lead()
    routed.cluster.put_service(ports=[{"name": "web", "port": 80, "targetPort": 9090}])
    await asyncio.sleep(A_WHILE)
    assert slice_of(routed)["ports"] == [{"name": "web", "protocol": "TCP", "port": 9090}]


@pytest.mark.parametrize("fault", ("lost answer", "late"))
async def test_write_without_an_answer_does_no_harm(routed, fault):
    """Whether it was stored or comes later, the slice ends with the leader and never had two."""
    await routed.lead()
    cluster = routed.cluster
    held = cluster.dropping_answers() if fault == "lost answer" else cluster.delaying_writes(1)
    with held:
        cluster.change("a", ready=False)
        await routed.until(lambda: "patch_slice" in cluster.operations)
        await asyncio.sleep(1.9)
    await routed.until(lambda: routed.leaders == ["b"] and reached(routed) == ["b"])
    await asyncio.sleep(TTL)
    assert reached(routed) == ["b"]
    assert_one_at_a_time(routed)


async def test_late_write_is_refused_after_the_slice_was_emptied(routed):
    """An emptying is a real write, also of a slice that shows nobody."""
    await routed.lead()
    with routed.cluster.delaying_writes(1) as late:
        routed.cluster.change("a", ready=False)
        await routed.until(lambda: late.pending)
        routed.change(suspend=True)
        await routed.until(lambda: routed.record is None)
        late.carry_out()
    assert late.refused
    assert reached(routed) == []


async def test_label_on_its_way_is_refused_before_the_record_moves(routed):
    """Where the old leader's label is not seen, the old pod is stripped before the bucket's write.

    Another replica might read the new record at once, and label the new leader before the strip.
    """
    await routed.lead()
    with routed.cluster.delaying_writes(2) as late:  # each write is sent again
        routed.cluster.change("a", labels={"app": "billing"}, annotations={})  # by hand
        await routed.until(lambda: len(late.pending) == 2)
        routed.cluster.calls.clear()
        routed.annotate(step_down="b")
        await routed.until(lambda: routed.leaders == ["b"])
    assert writes(routed)[:4] == ["a=candidate", "transfer", "patch_slice", "b=leader"]
    assert late.refused
    assert_one_at_a_time(routed)


async def test_late_creation_is_refused_after_a_release(routed):
    """The name is taken by an empty slice."""
    with routed.cluster.delaying_writes(1) as late:
        await routed.start()
        await routed.until(lambda: late.pending)
        routed.change(suspend=True)
        await routed.until(lambda: "release" in routed.cluster.operations)
        late.carry_out()
    assert late.refused
    assert reached(routed) == []


async def test_replica_that_stood_still_moves_nothing(routed):
    """Another one has handed over meanwhile; what it knew of the slice is too old."""
    await routed.lead()
    await routed.start("two")
    await asyncio.sleep(1)
    view = routed.first
    routed.cluster.stuck.add("patch_slice")
    routed.cluster.change("a", ready=False)
    await asyncio.sleep(0.5)
    routed.cluster.stuck.clear()
    await routed.kill(view)
    await routed.until(lambda: routed.leaders == ["b"] and reached(routed) == ["b"])
    assert_one_at_a_time(routed)


async def test_restart_within_the_ttl_writes_no_slice(routed):
    """What is right stays as it is."""
    await routed.lead()
    await routed.kill(routed.first)
    await routed.start("one", nonce="another")
    await asyncio.sleep(2 * TTL)
    assert "patch_slice" not in routed.cluster.operations
    assert reached(routed) == ["a"]


async def test_leader_in_its_grace_gets_no_new_connections(routed):
    """Its endpoint is not ready, as with a Service that selects it."""
    routed.change(handover={"unreadyGraceSeconds": 20})
    await routed.lead()
    routed.cluster.change("a", ready=False)
    await routed.until(lambda: not slice_of(routed)["endpoints"][0]["conditions"]["ready"])
    routed.cluster.change("a", ready=True)
    await routed.until(lambda: slice_of(routed)["endpoints"][0]["conditions"]["ready"])
    assert reached(routed) == ["a"]


async def test_dual_stack_has_a_slice_of_each_family(stage):
    """Each of them moves in one write."""
    stage.cluster.put_service(ipFamilies=["IPv6", "IPv4"])
    for name in ("a", "b"):
        stage.cluster.change(name, ips=("10.0.0.1", "fd00::1"))
    stage.change(routing=ROUTING)
    await stage.lead()
    assert reached(stage, "incumbent-billing-ipv6") == reached(stage) == ["a"]
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.leaders == ["b"])
    assert writes(stage).count("patch_slice") == 2
    assert reached(stage, "incumbent-billing-ipv6") == reached(stage) == ["b"]
    stage.cluster.put_service()
    await asyncio.sleep(A_WHILE)
    assert reached(stage, "incumbent-billing-ipv6") == []


async def test_etcd_of_before_a_hand_over_is_corrected(routed):
    """Pods and slice are as in the backup: the old leader has the label and the traffic."""
    await routed.lead()
    pods, found = dict(routed.cluster.pods), dict(slice_of(routed))
    routed.cluster.change("a", ready=False)
    await routed.until(lambda: reached(routed) == ["b"] == routed.leaders)
    routed.cluster.change("a", ready=True)
    await asyncio.sleep(1)
    with routed.cluster.restored(pods[NAMESPACE, "b"], pods[NAMESPACE, "a"]):
        routed.cluster.slices[NAMESPACE, NAME] = found
        assert (reached(routed), routed.leaders) == (["a"], ["a"])
    await routed.until(lambda: reached(routed) == ["b"] == routed.leaders, timeout=2)
    assert_one_at_a_time(routed)


async def test_hand_over_sees_the_label_of_a_dead_steward(routed):
    """Also if the API server's cache lags behind that label, but not behind the successor."""
    routed.cluster.add(make_pod("c", created="2026-01-01T00:00:03Z"))
    routed.change(suspend=True)
    steward, standby = await routed.start("one"), await routed.start("two", nonce="n2")
    await routed.until(lambda: all(pod.labels.get(LABEL) for pod in routed.cluster.pods.values()))
    before = dict(routed.cluster.pods)
    routed.change(suspend=False)
    await routed.until(lambda: len(routed.leaders) == 1)
    await asyncio.sleep(1)
    first = routed.leaders[0]
    steward = steward if steward._driver.lease else standby

    def die():
        routed.tasks[steward].cancel()
        message = "killed between the slice and the strip"
        raise ClusterUnreachable(message)

    with routed.cluster.lagging(before.values()):
        routed.cluster.before_next("patch_pod", die)
        routed.cluster.change(first, ready=False)
        await routed.until(lambda: routed.record != f"site/shop/{first}")
        heir = routed.record.rpartition("/")[2]
        [third] = {"a", "b", "c"} - {first, heir}
        routed.cluster.change(heir, ready=False)
        await routed.until(lambda: third in routed.leaders)
    assert routed.leaders == [third]
    assert_one_at_a_time(routed)


async def test_standby_empties_what_a_dead_steward_filled(stage):
    """Also if that one had labelled nobody yet: what it knew of the slice is from before."""
    stage.cluster.put_service()
    stage.change(routing=ROUTING)
    view = View(stage.bucket)
    await stage.start(view=view)
    await stage.until(lambda: reached(stage) == ["a"])
    stage.change(suspend=True)
    await stage.until(lambda: stage.record is None)
    with view.blind():
        second = await stage.start("two")
        stage.cluster.stuck.add("patch_pod")
        stage.change(suspend=False)
        await stage.until(lambda: reached(stage) == ["a"])
        await stage.kill(second)
        stage.cluster.stuck.clear()
        assert stage.leaders == []
    await asyncio.sleep(0.1)
    stage.bucket.put(KEY, "stranger")
    await stage.until(lambda: reached(stage) == [], timeout=1)


# The writes by themselves


class Counts(Watches):
    """An observer that counts the writes of slices."""

    slices = 0

    def slice_write(self, seconds):
        """See `Observer`."""
        self.slices += 1


@pytest.fixture
def counts():
    """Who is told about writes."""
    return Counts()


@pytest.fixture
async def routing(stage, counts):
    """The writer of the slices, and a Service."""
    stage.cluster.put_service()
    resource = resource_from(make_election(spec={"routing": ROUTING}), default_bucket="B")
    return SliceWriter(stage.cluster, resource, lambda _: None, counts)


async def point(stage, routing, name, *, token=7, granted=True, tenure=1, left=10.0):
    async def warrant():
        stage.cluster.calls.append(Operation("warrant"))
        return token if granted else None

    until = asyncio.get_running_loop().time() + left
    await routing.prepare(tenure)
    pod = stage.cluster.pod(name)
    return await routing.point(pod, token=token, warrant=warrant, until=lambda: until)


async def test_slice_is_read_before_the_bucket_is_written(stage, routing):
    """And written after that."""
    assert await point(stage, routing, "a")
    operations = ["get_service", "list_slices", *["get_slice"] * 2, "warrant", "create_slice"]
    assert stage.cluster.operations == operations


async def test_service_that_is_named_in_the_middle_of_a_hand_over_is_led(stage, routing):
    """What was read of the slices before belongs to the other one."""
    stage.cluster.put_service("other")
    await routing.prepare(1)

    async def warrant():
        spec = {"routing": {"service": "other"}}
        routing.resource = resource_from(make_election(spec=spec), default_bucket="B")
        return 7

    async def lead():
        await routing.prepare(1)
        deadline = asyncio.get_running_loop().time() + 10
        pod = stage.cluster.pod("a")
        return await routing.point(pod, token=7, warrant=warrant, until=lambda: deadline)

    await lead()
    assert await lead()
    labels = stage.cluster.slices[NAMESPACE, "incumbent-billing-ipv4"]["metadata"]["labels"]
    assert labels[SERVICE_NAME] == "other"


@pytest.mark.parametrize("case", ({"granted": False}, {"left": 0.0}))
async def test_without_a_warrant_or_past_the_deadline_nothing_is_sent(stage, routing, case):
    """The caller has to look at everything anew."""
    assert not await point(stage, routing, "a", **case)
    assert not stage.cluster.slices


async def test_deletion_that_took_too_long_is_followed_by_nothing(stage, routing, monkeypatch):
    """A slice of another Service is deleted first; past the deadline no other one is made."""
    other = resource_from(make_election(spec={"routing": {"service": "other"}}), default_bucket="B")
    stage.cluster.put_slice(emptied(other, None, "IPv4"))
    loop = asyncio.get_running_loop()

    def sleep_for_a_minute():
        monkeypatch.setattr(clock, "now", lambda: loop.time() + 60)

    stage.cluster.before_next("delete_slice", sleep_for_a_minute)
    with pytest.raises(Unsent):
        await point(stage, routing, "a")
    assert "delete_slice" in stage.cluster.operations
    assert "create_slice" not in stage.cluster.operations


async def test_writes_that_were_confirmed_are_counted(stage, routing, counts):
    """And no others: what was refused is tried again, and what shows it all is left alone."""
    await point(stage, routing, "a")
    await point(stage, routing, "a")
    stage.cluster.put_slice({**slice_of(stage), "ports": []})
    await point(stage, routing, "b", token=8)
    await routing.empty()
    assert counts.slices == 3


async def test_slice_that_changed_takes_a_new_warrant(stage, routing):
    """It is read again before."""
    await point(stage, routing, "a")
    stage.cluster.put_slice({**slice_of(stage), "ports": []})
    stage.cluster.calls.clear()
    assert await point(stage, routing, "b", token=8)
    operations = ["warrant", "patch_slice", "get_slice", "warrant", "patch_slice"]
    assert stage.cluster.operations == operations
    assert reached(stage) == ["b"]


async def test_write_on_its_way_is_refused_after_one_that_restores_what_is_there(stage, routing):
    """The same content is another write all the same."""
    await point(stage, routing, "a")
    with stage.cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await point(stage, routing, "b")
        assert routing.doubtful
        assert await point(stage, routing, "a")
        assert not routing.doubtful
    assert late.refused
    assert reached(stage) == ["a"]


async def test_what_was_known_in_an_earlier_tenure_does_not_count(stage, routing):
    """Another replica may have written since."""
    await point(stage, routing, "a")
    stage.cluster.put_slice({**slice_of(stage), "endpoints": []})
    await point(stage, routing, "a")
    assert reached(stage) == []
    await point(stage, routing, "a", tenure=2)
    assert reached(stage) == ["a"]


async def test_emptying_is_bounded(stage, routing):
    """Whoever was reached may still be, and that is an error."""
    await point(stage, routing, "a")
    with stage.cluster.unreachable():
        until = asyncio.get_running_loop().time() + 1
        with pytest.raises(ClusterUnreachable, match="may still lead"):
            await routing.empty(until=until)
    await routing.empty()
    assert reached(stage) == []


# The content


def content(pod=None, **spec):
    """Return a slice's content for a Service."""
    spec = {"ports": [{"port": 80, "targetPort": 8080}], **spec}
    resource = resource_from(
        {
            "metadata": {"namespace": "shop", "name": "billing", "uid": "u"},
            "spec": {"routing": ROUTING},
        },
        default_bucket="B",
    )
    assert resource.key == ElectionKey("shop", "billing")
    service = service_from({"metadata": {"name": "web"}, "spec": spec})
    return filled(resource, service, FAMILIES[0], pod=pod or make_pod("a"), token=7), resource


def test_slice_belongs_to_the_election_and_not_to_kubernetes_controllers():
    """By its labels and its owner."""
    body, _ = content()
    assert body["metadata"]["labels"] == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "incumbent.dev",
    }
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("LeaderElection", "billing", "u")


@pytest.mark.parametrize(
    ("port", "expected"),
    (
        ({"port": 80}, 80),
        ({"port": 80, "targetPort": 8080}, 8080),
        ({"port": 80, "targetPort": "web"}, 8081),
        ({"port": 53, "targetPort": "web", "protocol": "UDP"}, None),
        ({"port": 80, "targetPort": "nobody"}, None),
    ),
)
def test_port_is_found_as_kubernetes_does(port, expected):
    """By number, or by name and protocol in the pod; a name that the pod lacks is left out."""
    body, _ = content(make_pod("a", ports=(("web", "TCP", 8081),)), ports=[port])
    assert [one["port"] for one in body["ports"]] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("pod", "unready", "expected"),
    (
        ({}, False, (True, True, False)),
        ({"ready": False}, False, (False, False, False)),
        ({"terminating": True}, False, (False, True, True)),
        ({"ready": False}, True, (True, False, False)),
    ),
)
def test_conditions_are_those_of_the_pod(pod, unready, expected):
    """Ready, serving, terminating; `publishNotReadyAddresses` makes every endpoint ready."""
    body, _ = content(make_pod("a", **pod), publishNotReadyAddresses=unready)
    found = body["endpoints"][0]["conditions"]
    assert (found["ready"], found["serving"], found["terminating"]) == expected


def test_headless_service_has_a_headless_slice():
    """So that kube-proxy need not look at it."""
    body, _ = content(clusterIP="None")
    assert body["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_pod_without_an_address_of_the_family_is_in_no_slice():
    """There is nothing to write."""
    body, _ = content(make_pod("a", ip="fd00::1"))
    assert body is None


def test_slice_is_as_wanted_whoever_wrote_it():
    """But not with another token, or without the pod."""
    body, resource = content()
    assert shows(body, body)
    assert not shows(emptied(resource, None, FAMILIES[0]), body)
    other = {**body["metadata"], "annotations": {TOKEN: "8"}}
    assert not shows({**body, "metadata": other}, body)
