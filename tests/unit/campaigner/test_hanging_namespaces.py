"""Namespaces whose webhooks hang, and the elections of another one, in one operator process."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import make_election, make_pod
from fakes import FakeBucket
from incumbent import clock
from incumbent.campaigner.campaigner import Campaigner, Shared
from incumbent.errors import ClusterUnreachable, Unsent
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.resource import resource_from
from incumbent.kubernetes.turns import CHANGES, QUESTIONS, REQUESTS, Turns
from incumbent.pods.cache import NamespacePods
from incumbent.replicas.confirmation import Stewards
from incumbent.replicas.site import Replica, Site
from stage import Cluster, View, Watches

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

TTL = 30.0
BAD = [f"bad-{number}" for number in range(20)]
EACH = 6
"""Elections of each of these namespaces: more in all than changes of leader go on at a time."""
GOOD = [f"e-{number}" for number in range(10)]
TAKES = 0.01
"""Seconds for a request that does not hang."""


class SharedCluster:
    """One process's connection to an API server, with the turns of `ApiServer`."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.turns = Turns(REQUESTS)
        self.hang = set()
        """Namespaces in which no patch of a pod has an answer."""
        self.hung = 0

    def __getattr__(self, name):
        plain = getattr(self.cluster, name)
        if name not in {"get_pod", "list_pods", "get_election", "replace_status", "emit_event"}:
            return plain
        usual = Rank.REPORT if name in {"replace_status", "emit_event"} else Rank.ROUTINE

        async def ask(*arguments, **options):
            first = arguments[0]
            namespace = first if isinstance(first, str) else first["metadata"]["namespace"]
            async with self.turns.turn(usual, namespace=namespace):
                await asyncio.sleep(TAKES)
                return await plain(*arguments, **options)

        return ask

    async def patch_pod(self, pod, *, timeout, within=None, **change):
        """See `Cluster`."""
        try:
            async with asyncio.timeout(within):
                taking = self.turns.turn(Rank.ROUTINE, namespace=pod.namespace)
                await taking.__aenter__()
        except TimeoutError as error:
            msg = "it had no turn"
            raise Unsent(msg) from error
        try:
            if pod.namespace in self.hang:
                self.hung += 1
                await asyncio.sleep(timeout)
                msg = "no answer"
                raise ClusterUnreachable(msg)
            await asyncio.sleep(TAKES)
            return await self.cluster.patch_pod(pod, timeout=timeout, **change)
        finally:
            await taking.__aexit__(None, None, None)


class Town:
    """Elections of many namespaces, each with two pods, and the process that serves them."""

    def __init__(self):
        self.cluster = Cluster()
        self.shared = SharedCluster(self.cluster)
        self.bucket = FakeBucket(ttl=TTL)
        self.view = View(self.bucket)
        self.tasks = []
        self.campaigners = {}

    def start(self):
        """Serve them all."""
        shared = Shared(
            Site("site", "uid-of-cluster"),
            Replica("one", "nonce"),
            self.shared,
            Watches(),
            Turns(CHANGES),
            stewards=Stewards(Turns(QUESTIONS).turn),
        )
        names = [(where, f"e-{number}") for where in BAD for number in range(EACH)]
        pods = {}
        for where, name in (*names, *(("good", name) for name in GOOD)):
            selector = {"matchLabels": {"app": name}}
            body = make_election(name, spec={"selector": selector})
            body["metadata"] |= {"namespace": where, "uid": f"uid-{where}-{name}"}
            for pod in "ab":
                about = {"uid": f"uid-{where}-{name}-{pod}", "labels": {"app": name}}
                self.cluster.add(make_pod(f"{name}-{pod}", namespace=where, **about))
            stored = self.cluster.put_election(body)
            watched = pods.setdefault(where, NamespacePods(self.shared, where))
            resource = resource_from(stored, default_bucket="LEADER_ELECTION")
            campaigner = Campaigner(
                stored, resource, shared, bucket=self.view, pods=watched, changed=lambda: None
            )
            self.campaigners[where, name] = campaigner
            self.tasks.append(asyncio.create_task(campaigner.run()))
        self.cluster.shown.append(self.show)

    def show(self, body):
        """Tell of an election that has changed."""
        resource = resource_from(body, default_bucket="LEADER_ELECTION")
        self.campaigners[resource.key.namespace, resource.key.name].update(body, resource)

    def leaders(self, namespaces):
        """Return the pods with a leader label in some namespaces."""
        return {
            (pod.namespace, pod.name)
            for pod in self.cluster.pods.values()
            if pod.namespace in namespaces and "leader" in pod.labels.values()
        }

    def change_hands(self, namespace):
        """Let every leader of a namespace be not ready."""
        for where, name in self.leaders({namespace}):
            self.cluster.change(name, namespace=where, ready=False)

    async def until(self, condition, *, within):
        """Turn the clock forward until a condition holds."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.1)


@pytest.fixture
async def town():
    """Elections without a process; it ends with the test."""
    town = Town()
    yield town
    for task in town.tasks:
        task.cancel()
    await asyncio.gather(*town.tasks, return_exceptions=True)


async def hang(town):
    """Let all have leaders; then patches hang in the bad namespaces, where leaders are to go."""
    town.start()
    every = len(BAD) * EACH + len(GOOD)
    await town.until(lambda: len(town.leaders({*BAD, "good"})) == every, within=60)
    town.shared.hang |= {*BAD}
    for namespace in BAD:
        town.change_hands(namespace)
    await town.until(lambda: town.shared.hung >= len(BAD), within=60)
    await asyncio.sleep(TTL / 3)


async def test_leaders_of_another_namespace_stay(town):
    """Nothing there is stripped, for as long as it hangs elsewhere."""
    await hang(town)
    before, seen = town.leaders({"good"}), len(town.cluster.history)
    await asyncio.sleep(2 * TTL)
    assert town.leaders({"good"}) == before
    assert not any(pod.namespace == "good" for pod in town.cluster.history[seen:])


async def test_leaders_of_another_namespace_change_hands_at_once(town):
    """All of them, together."""
    await hang(town)
    before = town.leaders({"good"})
    town.change_hands("good")
    await town.until(
        lambda: len(after := town.leaders({"good"})) == len(GOOD) and not after & before,
        within=3,
    )


async def test_leaders_of_another_namespace_lose_the_label_before_the_record_expires(town):
    """NATS is away, so those of the bad namespaces are to be stripped as well, in vain."""
    await hang(town)
    expires = {
        key: message.stored_at + TTL
        for key, message in town.bucket._messages.items()
        if key.startswith("good.")
    }
    assert len(expires) == len(GOOD)
    with town.view.blind():
        await town.until(lambda: not town.leaders({"good"}), within=2 * TTL)
        assert clock.now() < min(expires.values()) + TTL / 10
        assert clock.now() < max(expires.values())
