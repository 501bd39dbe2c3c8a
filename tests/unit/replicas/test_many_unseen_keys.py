"""A replica that cannot see NATS, with hundreds of elections and a slow API server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fakecluster import NAMESPACE, make_election, make_pod
from fakes import FakeBucket
from incumbent import clock
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaigner.campaigner import Campaigner, Shared
from incumbent.kubernetes.resource import resource_from
from incumbent.kubernetes.turns import CHANGES, QUESTIONS, Turns
from incumbent.pods.cache import NamespacePods
from incumbent.replicas.confirmation import Stewards
from incumbent.replicas.site import Replica, Site
from stage import Cluster, View, Watches

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

TTL = 30.0
NAMES = [f"e{number:03}" for number in range(200)]
WRITE_TAKES = 0.5
"""Seconds for each write of a status, of which each process has four on their way."""


class SlowCluster:
    """One process's connection to an API server that is slow with statuses."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.turns = asyncio.Semaphore(4)
        self.write_takes = WRITE_TAKES
        self.drops = set()
        """Fields of the steward that its definition of the kind does not have."""
        self.written = []
        """The elections whose status was written, in order."""

    def __getattr__(self, name):
        return getattr(self.cluster, name)

    async def replace_status(self, namespace, name, *, resource_version, status):
        """See `Cluster`."""
        async with self.turns:
            await asyncio.sleep(self.write_takes)
            self.written.append(name)
            steward = {k: v for k, v in status.get("steward", {}).items() if k not in self.drops}
            return await self.cluster.replace_status(
                namespace,
                name,
                resource_version=resource_version,
                status={**status, "steward": steward} if steward else status,
            )


class LossyView(View):
    """One replica's connection to a bucket that loses the writes of some keys."""

    def __init__(self, bucket):
        super().__init__(bucket)
        self.lost = set()

    async def write(self, key, value, **options):
        """See `Bucket`."""
        if key in self.lost:
            await asyncio.sleep(options["timeout"])
            return Answer(Outcome.UNKNOWN)
        return await super().write(key, value, **options)


class Process:
    """One operator process, which serves all elections."""

    def __init__(self, site, name, *, nonce):
        self.cluster = SlowCluster(site.cluster)
        self.views = {bucket: LossyView(site.buckets[bucket]) for bucket in site.buckets}
        self.cuts = contextlib.ExitStack()
        self.site, self.name, self.nonce = site, name, nonce
        self.stewards = Stewards(Turns(QUESTIONS).turn)
        self.tasks = {}
        self.campaigners = {}

    def cut_off(self):
        """Cut this process off from NATS."""
        for view in self.views.values():
            self.cuts.enter_context(view.blind())

    def start(self, *only):
        """Serve every election, or only some."""
        pods = NamespacePods(self.site.cluster, NAMESPACE)
        shared = Shared(
            Site("site", "uid-of-cluster"),
            Replica(self.name, self.nonce),
            self.cluster,
            Watches(),
            Turns(CHANGES),
            stewards=self.stewards,
        )
        for (_, name), body in self.site.cluster.elections.items():
            if only and name not in only:
                continue
            resource = resource_from(body, default_bucket="LEADER_ELECTION")
            self.campaigners[name] = campaigner = Campaigner(
                body,
                resource,
                shared,
                bucket=self.views[resource.bucket],
                pods=pods,
                changed=lambda: None,
            )
            self.tasks[name] = asyncio.create_task(campaigner.run())
        if self.show not in self.site.cluster.shown:
            self.site.cluster.shown.append(self.show)

    def show(self, body):
        """Tell of an election that has changed."""
        resource = resource_from(body, default_bucket="LEADER_ELECTION")
        if resource.key.name in self.campaigners:
            self.campaigners[resource.key.name].update(body, resource)

    async def stop(self, *names):
        """Stop the work for some elections, without a trace."""
        for name in names:
            self.campaigners.pop(name)
            self.tasks[name].cancel()
        await asyncio.gather(*(self.tasks.pop(name) for name in names), return_exceptions=True)

    async def kill(self):
        """End as SIGKILL does."""
        if self.show in self.site.cluster.shown:
            self.site.cluster.shown.remove(self.show)
        await self.stop(*self.tasks)


class Many:
    """A site with hundreds of elections, each with one pod."""

    def __init__(self):
        self.cluster = Cluster()
        self.buckets = {"LEADER_ELECTION": FakeBucket(ttl=TTL)}
        self.processes = []

    def add(self, *names, **spec):
        """Create elections."""
        for name in names:
            selector = {"matchLabels": {"app": name}}
            self.cluster.put_election(make_election(name, spec={"selector": selector, **spec}))
            self.cluster.add(make_pod(name, labels={"app": name}))

    def add_bucket(self, name):
        """Create another bucket."""
        self.buckets[name] = FakeBucket(name, ttl=TTL)

    def process(self, name, *, nonce=None):
        """Return an operator process that is not started yet."""
        process = Process(self, name, nonce=nonce or f"nonce-of-{name}")
        self.processes.append(process)
        return process

    async def lead(self, first=None):
        """Start a process, and wait until every pod leads and every status says so."""
        first = first or self.process("one")
        first.start()
        await self.until(lambda: all("leader" in one for one in self.statuses.values()), within=90)
        await asyncio.sleep(1)
        return first

    @property
    def statuses(self):
        """The statuses by the name of the election."""
        return {name: one["status"] for (_, name), one in self.cluster.elections.items()}

    @property
    def leaders(self):
        """The names of the elections whose pod has the leader label."""
        return {
            pod.name
            for pod in self.cluster.pods.values()
            if pod.labels.get(f"incumbent.dev/{pod.name}") == "leader"
        }

    @property
    def strips(self):
        """The pods that have lost the leader label, in order."""
        led, lost = set(), []
        for pod in self.cluster.history:
            if pod.labels.get(f"incumbent.dev/{pod.name}") == "leader":
                led.add(pod.name)
            elif pod.name in led:
                led.discard(pod.name)
                lost.append(pod.name)
        return lost

    @property
    def questions(self):
        """The elections in whose status there is a question."""
        return [name for name, status in self.statuses.items() if "unconfirmed" in status]

    def expires_at(self):
        """Return when the record of each election expires if nobody renews it."""
        return {
            key.removeprefix(f"{NAMESPACE}."): message.stored_at + bucket.ttl
            for bucket in self.buckets.values()
            for key, message in bucket._messages.items()
        }

    async def until(self, condition, *, within):
        """Turn the clock forward until a condition holds."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.1)

    async def stripped_in_time(self):
        """Wait until no pod has the label; return whose record may have expired before."""
        expires, late, known = self.expires_at(), set(), self.leaders
        async with asyncio.timeout(3 * TTL):
            while known:
                await asyncio.sleep(0.05)
                left = self.leaders
                late |= {name for name in known - left if clock.now() > expires[name]}
                known = left
        return late


@pytest.fixture
async def many():
    """A site with hundreds of elections, and no process."""
    site = Many()
    yield site
    for process in site.processes:
        await process.kill()
        process.cuts.close()


@pytest.mark.parametrize("known", (True, False), ids=("a standby", "a replica that starts"))
async def test_a_replica_that_is_cut_off_strips_nobody_and_writes_few_statuses(many, known):
    """One answer counts for all elections of the steward."""
    many.add(*NAMES)
    steward = await many.lead()
    second = many.process("two")
    if known:
        second.start()
        await asyncio.sleep(TTL)
        second.cluster.written.clear()
    steward.cluster.written.clear()
    second.cut_off()
    if not known:
        second.start()
    cycles = 2
    await asyncio.sleep(cycles * TTL)
    assert many.leaders == set(NAMES)
    assert many.strips == []
    assert second.cluster.written
    assert len(second.cluster.written) <= 10 * cycles
    assert len(steward.cluster.written) <= 10 * cycles


async def test_two_replicas_that_are_cut_off_strip_nobody(many):
    """Each asks in another election, or waits for the other's answer."""
    many.add(*NAMES[:100])
    steward = await many.lead()
    for name in ("two", "three"):
        process = many.process(name)
        process.start()
        process.cut_off()
    steward.cluster.written.clear()
    await asyncio.sleep(2 * TTL)
    assert many.strips == []
    assert len(steward.cluster.written) <= 40


@pytest.mark.parametrize("takes", (0.01, 5.0, 7.0))
@pytest.mark.parametrize("answers", (False, True), ids=("unasked yet", "just after an answer"))
async def test_when_the_steward_dies_every_label_goes_before_its_record_has_expired(
    many, answers, takes
):
    """Also those for which nobody has asked yet, and whose questions do not get through in time."""
    many.add(*NAMES)
    steward = await many.lead()
    second = many.process("two")
    second.start()
    await asyncio.sleep(TTL)
    second.cut_off()
    old = False  # whether the records were renewed long before the answer: the worst case
    while answers and not old:
        await many.until(lambda: many.questions, within=TTL)
        await many.until(lambda: not many.questions, within=TTL)
        old = min(many.expires_at().values()) < clock.now() + 0.75 * TTL
    await steward.kill()
    second.cluster.write_takes = takes
    assert await many.stripped_in_time() == set()


async def test_a_replica_that_starts_beside_a_dead_steward_strips_in_time(many):
    """It may have died a third of the TTL ago."""
    many.add(*NAMES)
    steward = await many.lead()
    await steward.kill()
    second = many.process("two")
    second.cut_off()
    second.start()
    assert await many.stripped_in_time() == set()


async def test_a_standby_that_sees_keeps_the_leaders_of_a_steward_that_died(many):
    """It renews their records; the replica that is cut off asks it once it has to."""
    names = NAMES[:20]
    many.add(*names)
    steward = await many.lead()
    standby, blind = many.process("two"), many.process("three")
    standby.start()
    blind.start()
    await asyncio.sleep(TTL)
    blind.cut_off()
    await asyncio.sleep(TTL)
    await steward.kill()
    await asyncio.sleep(3 * TTL)
    assert many.leaders == set(names)
    assert many.strips == []


async def test_the_answers_of_one_bucket_do_not_count_for_another(many):
    """The steward still answers in the one, and its work in the other stands still."""
    others = ["there-1", "there-2"]
    many.add_bucket("OTHER")
    many.add("here-1", "here-2")
    many.add(*others, bucket="OTHER")
    steward = await many.lead()
    second = many.process("two")
    second.start()
    await asyncio.sleep(TTL)
    second.cut_off()
    await asyncio.sleep(TTL)
    await steward.stop(*others)
    expires = many.expires_at()
    await many.until(lambda: many.leaders == {"here-1", "here-2"}, within=2 * TTL)
    assert clock.now() < min(expires[name] for name in others)
    await asyncio.sleep(2 * TTL)
    assert many.leaders == {"here-1", "here-2"}


async def test_the_answers_of_a_new_process_of_a_name_do_not_count_for_the_one_before(many):
    """It serves other elections, so nobody renews the record of the earlier process any more."""
    many.add("old-1", "old-2")
    before = await many.lead()
    second = many.process("two")
    second.start()
    await asyncio.sleep(TTL)
    second.cut_off()
    await asyncio.sleep(TTL)
    await before.kill()
    expires = many.expires_at()
    many.add("new-1", "new-2")
    after = many.process("one", nonce="another")
    after.start("new-1", "new-2")
    second.start("new-1", "new-2")
    await many.until(lambda: many.leaders == {"new-1", "new-2"}, within=2 * TTL)
    assert clock.now() < min(expires[name] for name in ("old-1", "old-2"))


async def renewed_without(many, *lost):
    """Let a steward lead beside a replica that is cut off, and lose its later writes of a key."""
    many.add(*NAMES[:20])
    steward = await many.lead()
    second = many.process("two")
    second.start()
    await asyncio.sleep(TTL)
    second.cut_off()
    steward.views["LEADER_ELECTION"].lost |= {f"{NAMESPACE}.{name}" for name in lost}
    return steward


async def test_a_record_that_its_steward_could_not_renew_is_not_covered_by_other_answers(many):
    """The steward dies before it can take the label away itself."""
    steward = await renewed_without(many, "e007")
    expires = many.expires_at()["e007"]
    await many.until(lambda: clock.now() > expires - 7, within=TTL)
    assert "e007" in many.leaders
    await steward.kill()
    await many.until(lambda: "e007" not in many.leaders, within=TTL)
    assert clock.now() < expires


async def test_a_record_that_its_steward_cannot_renew_costs_no_other_leader(many):
    """The steward still answers for the others."""
    await renewed_without(many, "e007")
    await asyncio.sleep(3 * TTL)
    assert many.leaders == set(NAMES[:20]) - {"e007"}
    assert set(many.strips) == {"e007"}


async def test_elections_whose_status_names_no_process_ask_in_turn(many):
    """An earlier version is the steward; each question has its time for an answer."""
    names = NAMES[:60]
    many.add(*names)
    steward = many.process("one")
    steward.cluster.drops = {"process"}
    await many.lead(steward)
    second = many.process("two")
    second.start()
    await asyncio.sleep(TTL)
    second.cluster.written.clear()
    second.cut_off()
    await asyncio.sleep(0.9 * TTL)
    assert set(second.cluster.written) == set(names)
    await asyncio.sleep(2 * TTL)
    assert many.leaders == set(names)
    assert many.strips == []
