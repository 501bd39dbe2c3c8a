"""Replicas of one site, on a bucket and a cluster in memory."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from fakecluster import NAMESPACE, FakeCluster, make_election, make_pod
from fakes import FakeBucket
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaigner.campaigner import Campaigner, Shared
from incumbent.errors import BucketUnreachable
from incumbent.kubernetes.resource import resource_from
from incumbent.kubernetes.turns import CHANGES, Turns
from incumbent.pods.cache import NamespacePods
from incumbent.replicas.site import Replica, Site

KEY = "shop.billing"
LABEL = "incumbent.dev/billing"
TOKEN = "incumbent.dev/billing.token"
TTL = 6.0
MARGIN = 0.6


class Watches:
    """An observer that keeps nothing."""

    def bucket_write(self, outcome, seconds):
        """See `Observer`."""

    def slice_write(self, seconds):
        """See `Observer`."""

    def label_write(self, seconds):
        """See `Observer`."""

    def handover(self, seconds):
        """See `Observer`."""

    def failover(self, seconds):
        """See `Observer`."""


class Cluster(FakeCluster):
    """A cluster that shows elections, too, and whose requests can hang."""

    def __init__(self):
        super().__init__()
        self.stuck = set()
        """Names of the methods whose calls do not return."""
        self.shown = []
        """Functions that are called with each state of an election."""

    def delete(self, name, **where):
        """Delete a pod; in the history it loses its labels."""
        pod = super().delete(name, **where)
        self.history.append(replace(pod, labels={}))
        return pod

    def put_election(self, election):
        """Create or change an election, and show it."""
        stored = super().put_election(election)
        self.show(stored)
        return stored

    async def replace_status(self, namespace, name, **status):
        """Replace the status, and show it."""
        answer = await super().replace_status(namespace, name, **status)
        self.show(answer)
        return answer

    def show(self, election):
        """Show an election to everybody, a moment later."""
        for shown in self.shown:
            asyncio.get_running_loop().call_later(0.01, shown, election)

    async def _arrive(self, operation):
        await super()._arrive(operation)
        if operation.name in self.stuck:
            await asyncio.Event().wait()


class View:
    """One replica's connection to a bucket that others use, too."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.name = bucket.name
        self.problem = None
        self.mute = False
        """Whether its link is dead, and that is not noticed yet."""
        self.listeners = []
        self.watchers = []
        self.shown = False
        """Whether this replica was shown anything, so that it knows the settings."""

    @property
    def settings(self):
        """See `WatchedBucket`; a process that starts while NATS is away knows none."""
        self.shown = self.shown or self.problem is None
        return self.bucket.settings if self.shown else None

    def __getattr__(self, name):
        return getattr(self.bucket, name)

    def listen(self, changed):
        """See `WatchedBucket`."""
        self.listeners.append(changed)
        return self.bucket.listen(changed)

    def watch(self, key, seen):
        """See `Bucket`; nothing is shown while this is blind."""

        def show(sighting):
            if self.problem is None and not self.mute:
                seen(sighting)

        self.watchers.append((key, show))
        return self.bucket.watch(key, show)

    async def write(self, key, value, **options):
        """See `Bucket`."""
        if self.mute:
            await asyncio.sleep(options["timeout"])
            return Answer(Outcome.UNKNOWN)
        if self.problem is not None:
            return Answer(Outcome.REFUSED, reason=str(self.problem))
        return await self.bucket.write(key, value, **options)

    async def read(self, key, *, timeout):
        """See `Bucket`."""
        if self.mute:
            await asyncio.sleep(timeout)
        if self.problem is not None or self.mute:
            raise self.problem or BucketUnreachable("no answer")
        return await self.bucket.read(key, timeout=timeout)

    @contextlib.contextmanager
    def blind(self):
        """Cut this replica off from NATS."""
        self._be(BucketUnreachable("NATS is away"))
        try:
            yield
        finally:
            self._be(None)

    def _be(self, problem):
        self.problem = problem
        for changed in self.listeners:
            changed()
        if problem is None:
            for key, seen in self.watchers:
                seen(self.bucket._latest(key))


class Stage:
    """A bucket, a cluster, and the replicas of one site."""

    def __init__(self):
        self.bucket = FakeBucket(ttl=TTL)
        self.cluster = Cluster()
        self.bucket.calls = self.cluster.calls = []  # in one order
        self.site = Site("site", "uid-of-cluster")
        self.turns = Turns(CHANGES)
        self.views = {}
        self.tasks = {}

    async def start(self, name="one", *, nonce="nonce", view=None, history_writer=None):
        """Start a replica."""
        body = await self.cluster.get_election(NAMESPACE, "billing")
        self.cluster.calls.pop()
        campaigner = Campaigner(
            body,
            resource_from(body, default_bucket="LEADER_ELECTION"),
            Shared(
                self.site,
                Replica(name, nonce),
                self.cluster,
                Watches(),
                self.turns,
                history_writer=history_writer,
            ),
            bucket=view or self.bucket,
            pods=NamespacePods(self.cluster, NAMESPACE),
            changed=lambda: None,
        )

        def shown(election):
            resource = resource_from(election, default_bucket="LEADER_ELECTION")
            campaigner.update(election, resource)

        self.cluster.shown.append(shown)
        self.tasks[campaigner] = asyncio.create_task(campaigner.run())
        return campaigner

    async def lead(self):
        """Start a replica, and wait until `a` leads."""
        self.first = await self.start()
        wanted = ("True", "Leading")
        await self.until(lambda: self.leaders == ["a"] and self.condition() == wanted)
        await asyncio.sleep(0.1)
        self.cluster.calls.clear()

    async def kill(self, campaigner):
        """End a replica as SIGKILL does."""
        task = self.tasks.pop(campaigner)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def change(self, **spec):
        """Change the spec."""
        election = self.cluster.elections[NAMESPACE, "billing"]
        metadata = {**election["metadata"], "generation": election["metadata"]["generation"] + 1}
        changed = {**election, "metadata": metadata, "spec": {**election["spec"], **spec}}
        self.cluster.put_election(changed)

    def annotate(self, **annotations):
        """Annotate the election, under our own prefix."""
        election = self.cluster.elections[NAMESPACE, "billing"]
        new = {f"incumbent.dev/{name.replace('_', '-')}": v for name, v in annotations.items()}
        metadata = {**election["metadata"], "annotations": {**self.annotations, **new}}
        self.cluster.put_election({**election, "metadata": metadata})

    @property
    def annotations(self):
        """The annotations of the election."""
        return self.cluster.elections[NAMESPACE, "billing"]["metadata"].get("annotations") or {}

    @property
    def leaders(self):
        """The pods that carry the leader label."""
        pods = self.cluster.pods.values()
        return [pod.name for pod in pods if pod.labels.get(LABEL) == "leader"]

    @property
    def record(self):
        """Who holds the record, None for nobody."""
        return getattr(self.bucket._latest(KEY).entry, "holder", None)

    @property
    def status(self):
        """The status of the election."""
        return self.cluster.elections[NAMESPACE, "billing"]["status"]

    def condition(self, kind="Ready"):
        """Return status and reason of a condition."""
        for condition in self.status.get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return None

    def message(self, kind="Ready"):
        """Return the message of a condition; empty if there is none."""
        conditions = self.status.get("conditions", ())
        return next((one["message"] for one in conditions if one["type"] == kind), "")

    @property
    def reasons(self):
        """The reasons of all events so far."""
        return [event.reason for event in self.cluster.events]

    @property
    def writes(self):
        """What was written anywhere, in order, without renewals."""
        kinds = {"create", "transfer", "release", "evict"}
        found = []
        for call in self.cluster.calls:
            if call.name == "patch_pod":
                found.append(f"{call.target}={call.labels[LABEL]}")
            elif call.name in kinds:
                found.append(call.name)
        return found

    def most_at_once(self):
        """Return the most pods that ever carried the leader label at the same time."""
        shown, most = {}, 0
        for pod in self.cluster.history:
            shown[pod.uid] = pod.labels.get(LABEL) == "leader"
            most = max(most, sum(shown.values()))
        return most

    async def until(self, condition, *, timeout=60):
        """Turn the clock forward until a condition holds."""
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def two_candidates():
    """A site with two candidates, `a` and `b`, and no replica."""
    stage = Stage()
    stage.cluster.put_election(make_election())
    for name in ("a", "b"):
        stage.cluster.add(make_pod(name, created=f"2026-01-01T00:00:0{ord(name) - 96}Z"))
    yield stage
    for campaigner in list(stage.tasks):
        await stage.kill(campaigner)
