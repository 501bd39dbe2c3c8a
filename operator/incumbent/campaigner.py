"""One replica's work for one election: it drives the campaign and brings the pods in line.

Two loops. The *renewals* do what the campaign asks of the bucket and nothing else, so that no API
server, however slow, makes a renewal late. The *passes* look at everything anew, level-based, and
move labels, terms and the status to where they should be. A lock keeps their writes to the bucket
apart, for a write expects the revision of the one before.

The order of every change of leader: strip the old pod, confirmed; write to the bucket, stored;
label the new pod; status and event.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from incumbent import clock, events
from incumbent.campaign import NEVER, Campaign, Create, Look, Member, Renew, Wait, Write
from incumbent.errors import (
    BucketError,
    ClusterError,
    ConfigurationError,
    Conflict,
    Forbidden,
)
from incumbent.labels import Labels
from incumbent.model import BucketInfo, ElectionKey, Nominee, Pod, Record, State
from incumbent.pods import NamespacePods
from incumbent.ports import Answer, Cluster, Observer, Outcome, Sighting, WatchedBucket
from incumbent.resource import Resource
from incumbent.status import Problem, Situation, events_from, problem_from, status_from
from incumbent.timing import Timing, timing_for
from incumbent.verdict import (
    CANDIDATE,
    candidates,
    choose,
    holder_pod,
    identity,
    labelled,
    markings,
    shows,
    why_not,
)
from incumbent.wire import headers_of, release_headers

log = structlog.get_logger(__name__)

UNDONE_AFTER = 1.0
"""Seconds for which a standby sees work undone before it takes the record: the steward may be
blind towards its API server."""
STRIP_WITHIN = 5.0
"""Seconds for which one pass tries to have a strip confirmed, before the next pass tries."""
DELETE_WITHIN = 5.0
"""Seconds after which a deleted election no longer waits for NATS: its record will lapse."""
LONGEST_PAUSE = 5.0
"""Seconds between passes that fail, at most."""


@dataclass(frozen=True, slots=True)
class Site:
    """All replicas that share one API server."""

    name: str
    uid: str
    """Of the cluster, which tells two sites of one name apart."""

    @property
    def header(self) -> str:
        """Return how records name it."""
        return f"{self.name}/{self.uid}"


@dataclass(frozen=True, slots=True)
class Replica:
    """This operator process."""

    name: str
    nonce: str

    def __str__(self) -> str:
        """Return how records name it."""
        return f"{self.name}/{self.nonce}"


@dataclass(slots=True)
class Counts:
    """What only grows, for the metrics."""

    campaigns: Counter[State] = field(default_factory=Counter)
    transitions: int = 0
    corrections: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gauges of one election show."""

    leads: bool
    interval: float
    token: int
    candidates: int
    remaining: float
    labelled: int
    conditions: list[tuple[str, str]]


class Campaigner:
    """Serves one election until it is told to stop."""

    def __init__(
        self,
        body: Mapping[str, Any],
        resource: Resource,
        *,
        site: Site,
        replica: Replica,
        bucket: WatchedBucket,
        cluster: Cluster,
        pods: NamespacePods,
        observer: Observer,
        changed: Callable[[], None],
    ) -> None:
        self.resource = resource
        self.campaign: Campaign | None = None
        self.counts = Counts()
        self._body = body
        self._site = Site(resource.site or site.name, site.uid)
        self._replica = replica
        self._bucket = bucket
        self._cluster = cluster
        self._pods = pods
        self._observer = observer
        self._changed = changed
        self._labels = Labels(cluster, resource, pods.learn)
        self._log = log.bind(namespace=resource.key.namespace, election=resource.key.name)
        self._writing = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._due = asyncio.Event()
        self._due_at = 0.0
        self._end_watch: Callable[[], None] | None = None
        self._settings: BucketInfo | None = None
        self._settled_at = 0.0
        self._blocked: Problem | None = None
        self._invalid: Problem | None = None
        self._failure: Problem | None = None
        self._unlabelled = ""
        self._known: object = None
        self._last_held: Record | None = None
        self._labelled_term = 0
        self._undone_since = NEVER
        self._sweep = False
        self._resigned = False
        self._retire_by = NEVER
        self._retired = asyncio.Event()

    # From outside

    @property
    def key(self) -> ElectionKey:
        """Return the namespace and name."""
        return self.resource.key

    async def run(self) -> None:
        """Serve the election until cancelled."""
        end_pods = self._pods.listen(self._concerns, self._wake)
        end_bucket = self._bucket.listen(self._configure)
        self._configure()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renewals(), name=f"renewals of {self.key}")
                tasks.create_task(self._passes(), name=f"passes of {self.key}")
        finally:
            self._drop_campaign()
            end_bucket()
            end_pods()

    def update(self, body: Mapping[str, Any], resource: Resource) -> None:
        """Take in a change of the resource."""
        if _newer(self._body, body):
            return
        self._body = body
        if resource != self.resource:
            self.resource = self._labels.resource = resource
            self._configure()
        self._wake()

    def block(self, problem: Problem | None) -> None:
        """Keep the election from campaigning: another one has its key, or its label."""
        if problem != self._blocked:
            self._blocked = problem
            self._configure()
            self._wake()

    async def retire(self) -> None:
        """Take everything back: labels, annotations, the record. Bounded if NATS is away."""
        self._retire_by = clock.now() + DELETE_WITHIN
        self.resource = self._labels.resource = replace(self.resource, deleting=True)
        self._wake()
        self._wake_in(DELETE_WITHIN)
        await self._retired.wait()

    async def leave(self) -> None:
        """Renew once more, so that another replica takes over at once instead of by silence."""
        campaign = self.campaign
        if campaign is None or campaign.lease is None:
            return
        async with self._writing:
            write = campaign.begin_renewal(clock.now(), leaving=True)
            if write is not None:
                await self._write(campaign, write)

    async def resign(self) -> None:
        """Strip and release: for a single replica that ends for good."""
        self._resigned = True
        if self.campaign is not None and self.campaign.lease is not None:
            self.campaign.nominate(None)
            await self._give_up(self.campaign)

    def view(self) -> dict[str, Any]:
        """Return what can be told about the election at this moment, for people and programs."""
        campaign, now = self.campaign, clock.now()
        status = self._body.get("status") or {}
        lease = campaign.lease if campaign is not None else None
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "state": (campaign.state(now) if campaign else State.UNKNOWN).name.capitalize(),
            "holder": status.get("holder"),
            "leader": status.get("leader"),
            "token": status.get("token"),
            "remainingSeconds": round(max(0.0, lease.deadline - now), 3) if lease else None,
            "conditions": status.get("conditions", []),
        }

    def reading(self) -> Reading:
        """Return what the gauges show at this moment."""
        campaign, now = self.campaign, clock.now()
        status = self._body.get("status") or {}
        pods = (self._pods.pods or {}).values()
        lease = campaign.lease if campaign is not None else None
        record = campaign.record if campaign is not None else None
        return Reading(
            leads=campaign is not None and campaign.leads(now),
            interval=campaign.timing.interval if campaign is not None else 0.0,
            token=record.term if record is not None and not record.stranger else 0,
            candidates=len(candidates(pods, self.resource.selector)),
            remaining=max(0.0, lease.deadline - now) if lease is not None else 0.0,
            labelled=len(labelled(pods, self.resource)),
            conditions=[(c["type"], c["status"]) for c in status.get("conditions", ())],
        )

    # What moves it

    def _wake(self) -> None:
        if not self._due.is_set():
            self._due_at = clock.now()
            self._due.set()

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(max(0.0, seconds), self._wake)

    def _concerns(self, pod: Pod) -> bool:
        resource = self.resource
        return (
            resource.label_key in pod.labels
            or resource.token_key in pod.annotations
            or resource.selector.matches(pod.labels)
        )

    def _configure(self) -> None:
        """Bring the campaign in line with the bucket's settings."""
        info = self._bucket.settings
        before, self._settings = self._settings, info
        if self._blocked is not None:
            self._drop_campaign()
        elif info is not None:
            timing, self._invalid = self._timing(info, before)
            if self.campaign is not None and timing is not None:
                self.campaign.timing = timing
            if self.campaign is not None and before and before.created != info.created:
                self._log.warning("bucket.recreated", bucket=info.name)
                self.campaign.forget(clock.now())
            if self.campaign is None and timing is not None:
                self._begin_campaign(timing)
        self._happened()
        self._wake()

    def _begin_campaign(self, timing: Timing) -> None:
        member = Member(str(self._replica), self._site.header)
        self.campaign = Campaign(member, timing, clock.now(), random=random.random)
        self._log.info("election.configured", bucket=self.resource.bucket, ttl=timing.ttl)
        self._end_watch = self._bucket.watch(self.resource.record_key, self._seen)

    def _drop_campaign(self) -> None:
        if self._end_watch is not None:
            self._end_watch()
        self.campaign = self._end_watch = None

    def _timing(
        self, info: BucketInfo, before: BucketInfo | None
    ) -> tuple[Timing | None, Problem | None]:
        now = clock.now()
        if info.mirror:
            msg = f"bucket {info.name} is a mirror or an aggregate, which cannot hold an election"
            return None, Problem("BucketInvalid", msg)
        try:
            timing = timing_for(info.ttl, interval=self.resource.interval)
        except ConfigurationError as error:
            return None, problem_from(error)
        if before is not None and info.ttl < before.ttl:
            # A member elsewhere may still count on the old TTL.
            self._settled_at = now + before.ttl
        if now < self._settled_at:
            msg = (
                f"the TTL of bucket {info.name} was lowered to {info.ttl:g} s:"
                " no campaign until the old one has passed"
            )
            asyncio.get_running_loop().call_later(self._settled_at - now, self._configure)
            return timing, Problem("BucketInvalid", msg)
        return timing, None

    def _seen(self, sighting: Sighting) -> None:
        """Take in what the watch of the bucket shows."""
        campaign = self.campaign
        if campaign is None:
            return
        campaign.observe(sighting, clock.now())
        self._happened()

    def _happened(self) -> None:
        """After anything that the campaign was told: let both loops look again."""
        self._stirred.set()
        campaign = self.campaign
        if campaign is None:
            return
        self._report(campaign)
        record = campaign.record
        if record is not None and campaign.ours(record):
            self._last_held = record
        known = _known(campaign)
        if known != self._known:
            self._known = known
            self._wake()
            self._changed()

    def _report(self, campaign: Campaign) -> None:
        for event in campaign.events():
            self._wake()
            match event:
                case events.Won(record):
                    self.counts.transitions += record.term != self._labelled_term
                    self._log.info("election.won", holder=record.holder, token=record.term)
                case events.Lost(record, loss):
                    self._log.info(
                        "election.lost", holder=record.holder, token=record.term, loss=loss.value
                    )
                case events.Relieved(record):
                    self._log.info("election.relieved", steward=record.replica)

    # The bucket

    async def _renewals(self) -> None:
        """Do what the campaign asks for, when it asks for it."""
        while True:
            self._stirred.clear()
            campaign = self.campaign
            if campaign is None:
                await self._stirred.wait()
                continue
            step = campaign.poll(clock.now())
            self._report(campaign)
            match step:
                case Look():
                    await self._look(campaign, step)
                case Renew():
                    async with self._writing:
                        await self._renew(campaign)
                case Create():
                    self._wake()  # a pass does it, for it takes more than a write
                    await self._stirred.wait()
                case Wait(until):
                    await self._sleep(until)

    async def _sleep(self, until: float) -> None:
        """Wait until then, or until something stirs."""
        seconds = None if until == NEVER else max(0.0, until - clock.now())
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return

    async def _look(self, campaign: Campaign, look: Look) -> None:
        try:
            timeout = campaign.timing.write_timeout
            sighting = await self._bucket.read(self.resource.record_key, timeout=timeout)
        except BucketError:
            campaign.unreadable(clock.now())
        else:
            campaign.observe(sighting, clock.now(), look=look)
        self._happened()

    async def _renew(self, campaign: Campaign) -> bool:
        """Renew as is; return whether that was stored."""
        write = campaign.begin_renewal(clock.now())
        return write is not None and await self._write(campaign, write)

    async def _write(self, campaign: Campaign, write: Write) -> bool:
        """Carry out a write that was begun, with the lock held; return whether it was stored."""
        self.counts.campaigns[campaign.state(write.sent_at)] += 1
        key = self.resource.record_key
        answer = Answer(Outcome.UNKNOWN)
        try:
            if write.record is None:
                answer = await self._bucket.remove(
                    key,
                    expected=write.expected,
                    headers=release_headers(str(self._replica)),
                    timeout=write.timeout,
                )
            else:
                answer = await self._bucket.write(
                    key,
                    write.record.holder,
                    expected=write.expected,
                    headers=headers_of(write.record),
                    timeout=write.timeout,
                )
        finally:
            now = clock.now()
            campaign.answered(write, answer, now)
            self._observer.bucket_write(answer.outcome, now - write.sent_at)
            self._happened()
        return answer.outcome is Outcome.STORED

    # The pods

    async def _passes(self) -> None:
        failures = 0
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._pass()
            except ClusterError as error:
                failures += 1
                pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 8))
                self._note_failure(error, failures)
                self._wake_in(pause * random.uniform(0.5, 1.0))  # noqa: S311
            else:
                failures = 0

    def _note_failure(self, error: ClusterError, failures: int) -> None:
        if failures in {1, 10}:
            self._log.warning("cluster.failed", problem=str(error))
        self._unlabelled = str(error)
        if isinstance(error, Forbidden):
            self._failure = problem_from(error)

    async def _pass(self) -> None:
        """Bring everything in line with what is known now."""
        pods = self._pods.pods
        if self._blocked is not None or pods is None:
            await self._write_status({}, [], None)
            if self._blocked is not None and self._retire_by < NEVER:
                self._retired.set()  # it never wrote anything
            return
        able = candidates(pods.values(), self.resource.selector)
        leader = await self._settle(pods, able)
        if not self._resting():
            await self._mark(pods, leader)
        self._unlabelled, self._failure = "", None
        await self._write_status(pods, able, leader)
        if self._retire_by < NEVER and await self._all_taken_back():
            self._retired.set()

    async def _mark(self, pods: Mapping[str, Pod], leader: Pod | None) -> None:
        """Label the candidates, and take the label from who is none any more."""
        uid = leader.uid if leader is not None else ""
        changes = markings(pods.values(), self.resource, leader_uid=uid)
        await asyncio.gather(*(self._labels.mark(c.pod, c.value) for c in changes))

    async def _all_taken_back(self) -> bool:
        """Whether nothing of a deleted election is left, but what NATS does not answer for."""
        resource = self.resource
        if await self._cluster.list_pods(self.key.namespace, resource.label_key):
            self._wake_in(0.1)
            return False
        if any(resource.token_key in p.annotations for p in (self._pods.pods or {}).values()):
            return False
        campaign = self.campaign
        record = campaign.record if campaign is not None else None
        if campaign is None or record is None or not campaign.ours(record):
            return True
        if clock.now() >= self._retire_by:
            self._log.warning("record.left", reason="NATS does not answer; the record will lapse")
            return True
        self._wake_in(0.25)
        return False

    @property
    def _withdrawn(self) -> bool:
        """Whether nobody of this site is to lead, whoever could."""
        resource = self.resource
        return resource.suspend or resource.deleting or self._resigned or self._invalid is not None

    def _resting(self) -> bool:
        """Whether the steward of this site, another replica, does what is to be done."""
        campaign = self.campaign
        return campaign is not None and campaign.stands_by and not self._lapsed(campaign)

    def _lapsed(self, campaign: Campaign) -> bool:
        """Whether our own record is the latest, and we gave it up at our deadline."""
        record = campaign.record
        return (
            campaign.lease is None
            and record is not None
            and record.replica == campaign.member.replica
        )

    async def _settle(self, pods: Mapping[str, Pod], able: list[Pod]) -> Pod | None:
        """See to it that the right pod carries the leader label, or none; return that pod."""
        campaign = self.campaign
        if campaign is None or campaign.latest is None:
            if self._retire_by < NEVER:
                await self._strip_all(labelled(pods.values(), self.resource), None)
            return None
        chosen = None if self._withdrawn else choose(able, campaign.evicted)
        nominee = None
        if chosen is not None:
            nominee = Nominee(identity(self._site.name, chosen), chosen.uid)
        if nominee != campaign.nominee:
            campaign.nominate(nominee)
            self._stirred.set()
        if self._retire_by < NEVER and campaign.stands_by:
            async with self._writing:
                await self._renew(campaign)  # whoever deletes takes the record first
        if campaign.lease is not None:
            return await self._govern(campaign, pods, chosen)
        if self._resting():
            return await self._stand_by(campaign, pods)
        await self._stand_down(campaign, pods)
        if chosen is not None and isinstance(campaign.poll(clock.now()), Create):
            return await self._take_office(campaign, chosen)
        return None

    async def _govern(
        self, campaign: Campaign, pods: Mapping[str, Pod], chosen: Pod | None
    ) -> Pod | None:
        """As the steward: keep the leader, or hand over, or release."""
        lease = campaign.lease
        if lease is None:
            return None
        if self._withdrawn:
            await self._give_up(campaign)
            return None
        record = lease.record
        pod = holder_pod(record, self._site.name, pods, self.key.namespace)
        if pod is None or why_not(pod, self.resource.selector):
            if chosen is not None:
                return await self._hand_over(campaign, record, chosen)
            if not await self._confirmed_without_candidates():
                self._wake_in(0.05)
                return None
            await self._give_up(campaign)
            return None
        strays = [p for p in labelled(pods.values(), self.resource) if p.uid != pod.uid]
        if self._sweep:
            strays = [p for p in await self._labels.carriers() if p.uid != pod.uid]
        if strays and not await self._correct(campaign, strays):
            return None
        self._sweep = False
        if not campaign.leads(clock.now()):
            return None
        if shows(pod, self.resource, record.term):
            self._labelled_term = record.term
            return pod
        return await self._label(campaign, pod)

    async def _stand_by(self, campaign: Campaign, pods: Mapping[str, Pod]) -> Pod | None:
        """As a standby: watch whether the steward does its work."""
        record = campaign.record
        if record is None:
            return None
        pod = holder_pod(record, self._site.name, pods, self.key.namespace)
        undone = (
            pod is None
            or bool(why_not(pod, self.resource.selector))
            or (record.promoted and not shows(pod, self.resource, record.term))
            or any(p.uid != pod.uid for p in labelled(pods.values(), self.resource))
            or self._withdrawn
        )
        now = clock.now()
        if not undone:
            self._undone_since = NEVER
            return pod
        if self._undone_since == NEVER:
            self._undone_since = now
        left = self._undone_since + UNDONE_AFTER - now
        if left > 0:
            self._wake_in(left)
            return None
        self._undone_since = NEVER
        campaign.urge()
        self._stirred.set()
        return None

    async def _stand_down(self, campaign: Campaign, pods: Mapping[str, Pod]) -> None:
        """While no pod of this site leads: no pod carries the label."""
        carriers = labelled(pods.values(), self.resource)
        if carriers and self._lapsed(campaign) and await self._relieved_by_status():
            return
        self._labelled_term = 0
        await self._strip_all(carriers, CANDIDATE)

    async def _relieved_by_status(self) -> bool:
        """Whether the status shows that another replica of this site has renewed the record."""
        election = await self._cluster.get_election(self.key.namespace, self.key.name)
        steward = ((election or {}).get("status") or {}).get("steward") or {}
        held = self._last_held
        return (
            held is not None
            and steward.get("replica") not in {None, self._replica.name}
            and steward.get("revision", 0) > held.revision
        )

    async def _take_office(self, campaign: Campaign, pod: Pod) -> Pod | None:
        """Create the record for a pod, after everything that could carry the label is fenced."""
        since = self._due_at
        held = self._last_held
        if held is not None and held.pod_uid != pod.uid:
            await self._strip_all([self._pod_of(held)], CANDIDATE)
        if campaign.nominee is None or campaign.nominee.pod_uid != pod.uid:
            return None
        async with self._writing:
            write = campaign.begin_create(clock.now())
            # The pod was read before this write, as the warrant of a label has to be.
            if write is None or not await self._write(campaign, write):
                return None
        labelled_pod = await self._label(campaign, pod, stored=True)
        if labelled_pod is not None:
            self._observer.failover(clock.now() - since)
        return labelled_pod

    async def _hand_over(self, campaign: Campaign, record: Record, to: Pod) -> Pod | None:
        """Move the record from a pod that cannot lead any more to another."""
        since = self._due_at
        async with self._writing:
            if not await self._renew(campaign):
                return None  # not our business any more, perhaps
        old = self._pod_of(record)
        await self._strip(old, until=self._deadline(campaign))
        async with self._writing:
            nominee = Nominee(identity(self._site.name, to), to.uid)
            write = campaign.begin_transfer(nominee, clock.now())
            if write is None or not await self._write(campaign, write):
                return None
        pod = await self._label(campaign, to, stored=True)
        if pod is not None:
            self._observer.handover(clock.now() - since)
        return pod

    async def _label(self, campaign: Campaign, pod: Pod, *, stored: bool = False) -> Pod | None:
        """Label the holder of our record; `stored`: a write was stored after `pod` was read."""
        fresh = stored

        async def warrant() -> int | None:
            nonlocal fresh
            if not fresh:
                async with self._writing:
                    if not await self._renew(campaign):
                        return None
            fresh = False
            lease = campaign.lease
            if lease is None or lease.record.pod_uid != pod.uid or campaign.unanswered:
                return None
            return lease.record.term if campaign.leads(clock.now()) else None

        started = clock.now()
        lease = campaign.lease
        first = lease is None or lease.record.term != self._labelled_term
        done = await self._labels.add(
            pod, warrant=warrant, until=lambda: self._deadline(campaign), first=first
        )
        if done is None:
            self._sweep = True
            if campaign.leads(clock.now()):
                self._wake_in(0.1)
            return None
        if campaign.lease is not None:
            self._labelled_term = campaign.lease.record.term
        self._observer.label_write(clock.now() - started)
        self._log.info("leader.labelled", pod=pod.name, token=self._labelled_term)
        return done

    async def _correct(self, campaign: Campaign, strays: list[Pod]) -> bool:
        """Strip pods that carry the label without right, if we still are who may say so."""
        async with self._writing:
            if not await self._renew(campaign):
                return False
        await self._strip_all(strays, CANDIDATE)
        for stray in strays:
            self.counts.corrections += 1
            self._log.warning("label.corrected", pod=stray.name)
            note = f"pod {stray.name} carried the leader label without leading; it was removed"
            await self._emit("Warning", "LabelCorrected", "Strip", note)
        return True

    async def _give_up(self, campaign: Campaign) -> None:
        """Strip, confirmed, then release."""
        until = self._deadline(campaign)
        pods = self._pods.pods or {}
        carriers = {pod.uid: pod for pod in labelled(pods.values(), self.resource)}
        for pod in await self._labels.carriers():
            carriers[pod.uid] = pod
        if campaign.lease is not None and campaign.lease.record.pod_uid not in carriers:
            held = self._pod_of(campaign.lease.record)
            carriers[held.uid] = held
        for pod in carriers.values():
            await self._strip(pod, until=until)
        async with self._writing:
            write = campaign.begin_release(clock.now())
            if write is not None:
                await self._write(campaign, write)

    async def _confirmed_without_candidates(self) -> bool:
        selector = self.resource.selector
        pods = await self._cluster.list_pods(self.key.namespace, str(selector))
        return not candidates(pods, selector)

    async def _strip_all(self, pods: list[Pod], value: str | None) -> None:
        until = clock.now() + STRIP_WITHIN
        await asyncio.gather(*(self._strip(pod, until=until, value=value) for pod in pods))

    async def _strip(self, pod: Pod, *, until: float, value: str | None = CANDIDATE) -> None:
        started = clock.now()
        if self.resource.deleting or why_not(pod, self.resource.selector):
            value = None
        await self._labels.strip(pod, value, until=until)
        self._observer.label_write(clock.now() - started)

    def _deadline(self, campaign: Campaign) -> float:
        return campaign.lease.deadline if campaign.lease is not None else clock.now()

    def _pod_of(self, record: Record) -> Pod:
        """Return the pod that a record names, as last seen, or enough of it to be read."""
        name = record.holder.rpartition("/")[2]
        pod = (self._pods.pods or {}).get(name)
        if pod is not None and pod.uid == record.pod_uid:
            return pod
        return Pod(self.key.namespace, name, record.pod_uid, resource_version="")

    # The status

    async def _write_status(
        self, pods: Mapping[str, Pod], able: list[Pod], leader: Pod | None
    ) -> None:
        if self._retire_by < NEVER or self._resting():
            return
        body, situation = self._body, self._situation(pods, able, leader)
        for _ in range(5):
            before = body.get("status") or {}
            if not situation.seen and not self._may_speak_blind(before, situation):
                return
            status = status_from(situation, before, _timestamp())
            if status == before:
                return
            try:
                self._body = await self._cluster.replace_status(
                    self.key.namespace,
                    self.key.name,
                    resource_version=body["metadata"]["resourceVersion"],
                    status=status,
                )
            except Conflict:
                fresh = await self._cluster.get_election(self.key.namespace, self.key.name)
                if fresh is None or fresh["metadata"]["uid"] != self.resource.uid:
                    return
                body = fresh
                continue
            self._changed()
            for event in events_from(before, status):
                await self._emit(event.kind, event.reason, event.action, event.note)
            return
        self._wake_in(0.5)

    def _may_speak_blind(self, before: Mapping[str, Any], situation: Situation) -> bool:
        """Whether to write a status before the key and the pods have been seen.

        Not over a status that tells more, nor over what another replica, which sees, has written.
        """
        if before.get("observedGeneration", -1) < 0:
            return True
        steward = (before.get("steward") or {}).get("replica", self._replica.name)
        return situation.problem is not None and bool(steward == self._replica.name)

    def _situation(self, pods: Mapping[str, Pod], able: list[Pod], leader: Pod | None) -> Situation:
        campaign = self.campaign
        record = campaign.record if campaign is not None else None
        ours = record is not None and campaign is not None and campaign.ours(record)
        selected = [p for p in pods.values() if self.resource.selector.matches(p.labels)]
        problem = self._blocked or self._invalid or self._failure
        if problem is None and self._bucket.problem is not None:
            problem = problem_from(self._bucket.problem)
        return Situation(
            resource=self.resource,
            site=self._site.name,
            state=campaign.state(clock.now()) if campaign is not None else State.UNKNOWN,
            seen=campaign is not None
            and campaign.latest is not None
            and self._pods.pods is not None,
            record=record,
            ours=ours,
            leader=leader,
            total=len(selected),
            ready=len(able),
            steward=self._replica.name if ours else "",
            bucket=self._settings,
            problem=problem,
            unlabelled=self._unlabelled,
        )

    async def _emit(self, kind: str, reason: str, action: str, note: str) -> None:
        try:
            await self._cluster.emit_event(
                self._body, kind=kind, reason=reason, action=action, note=note
            )
        except ClusterError as error:
            self._log.info("event.lost", reason=reason, problem=str(error))


def _known(campaign: Campaign) -> object:
    """Return what of a campaign's knowledge a pass depends on: not the revision of a renewal."""
    record, lease = campaign.record, campaign.lease
    reign = None
    if record is not None:
        term = 0 if record.stranger else record.term
        reign = (record.holder, record.pod_uid, term, record.replica, record.promoted)
    vacant = None if record is not None else campaign.latest
    return reign, vacant, lease is not None, campaign.unanswered


def _newer(known: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the known object is newer: our own write's answer can be faster than the watch."""
    versions = [body["metadata"].get("resourceVersion", "") for body in (known, other)]
    return all(v.isdecimal() for v in versions) and int(versions[0]) > int(versions[1])


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
