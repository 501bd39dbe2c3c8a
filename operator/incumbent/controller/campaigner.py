"""One replica's work for one election.

Three loops, so that nothing slow delays what is urgent. The *renewals* (`driver`) do what the
campaign asks of the bucket. The *passes* (`reconciler`) move labels and terms to where they should
be. The *reports* (`status.writer`) tell people. This module decides when each of them has something
to do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from incumbent import clock
from incumbent.campaign import events
from incumbent.campaign.driver import Driver
from incumbent.campaign.events import Loss
from incumbent.campaign.machine import NEVER, Campaign, Member
from incumbent.campaign.ports import Observer, WatchedBucket
from incumbent.campaign.records import BucketInfo, Record, State
from incumbent.campaign.succession import Settlement
from incumbent.campaign.timing import MAXIMUM_TTL, Timing, allowing_for, timing_for
from incumbent.campaign.tokens import TokenGuard
from incumbent.controller.adapters import Adapters
from incumbent.controller.reconciler import Others, Reconciler
from incumbent.controller.steward import Notices
from incumbent.controller.teardown import Remainder
from incumbent.display import shown
from incumbent.errors import (
    AdmissionUnavailable,
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    BucketUnreachable,
    CampaignInvalid,
    ClusterError,
    ConfigurationError,
    Conflict,
    NotWatched,
    Refused,
)
from incumbent.flag import LEAST, Flag
from incumbent.history.terms import LabelTracker
from incumbent.history.writer import OFF, HistoryWriter
from incumbent.kubernetes.objects import ElectionKey, Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import Turns, working_for
from incumbent.pods.cache import ElectionPods, NamespacePods
from incumbent.pods.eligibility import identities, labelled, shown_tokens, why_not
from incumbent.replicas.confirmation import LOOK_AGAIN, Steward, Stewards
from incumbent.replicas.site import Doubt, Kinship, Peers, Replica, Site
from incumbent.routing.endpoint_slices import Obstacle
from incumbent.status.conditions import KubernetesEvent, Problem, Situation, problem_from
from incumbent.status.writer import StatusWriter

log = structlog.get_logger(__name__)

DELETE_WITHIN = 4.0
"""Seconds after which a deleted election no longer waits for NATS: its record will lapse."""
SHORT_PAUSE = 0.3
"""Seconds until the next pass at most, when those before have failed and there is news."""
LONGEST_PAUSE = 2.0
"""Seconds between passes that are not done, at least and at most."""
ANSWER_FIRST = 0.3
"""Seconds that a steward has to answer a replica that cannot see the key, before a standby does."""
MOST_DOUBLINGS = 6
"""How often this time doubles, each time when another replica takes over before we have answered.
Two replicas whose API server is slow would otherwise relieve each other without a pause."""
EXPIRES_WITHIN = 5.0
"""Seconds that a server has to remove what has expired. It takes 0.4, or 2 if replicated."""
PATIENCE = 1.0
"""Seconds for which NATS may be away, or nothing be known yet, before the status says so."""
PATIENCE_WITH_PEERS = 10.0
"""The same while another replica is the steward, which will say so if it is true for all."""
NOTICED = 0.1
"""Seconds by which a margin has to change before the deadline is moved."""
NOTED_CORRECTIONS = frozenset({1, 2, 3, 10, 100})
"""Which corrections in a row are worth an event and a line in the log."""
ACCOUNT_WITHIN = 10.0
"""Seconds in which a steward shows that it uses our API server, or is taken for another cluster's:
its watch and two writes of a status take less than one; its API server may be slow."""
ASK_AGAIN = 2.0
"""Seconds after which a steward that does not answer is asked again."""
QUIET_TTLS = 4
"""TTLs without a record of the other cluster after which we campaign again: the operator there may
only have been restarted."""
LOGGED_FAILURES = frozenset({1, 10, 100})
"""Which failures in a row are worth a line in the log."""


@dataclass(slots=True)
class Counts:
    """What only grows, for the metrics."""

    campaigns: Mapping[State, int] = field(default_factory=dict)
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
    conditions: list[tuple[str, str, str]]


class Campaigner:
    """Serves one election until it is told to stop.

    Args:
        body: the resource as the API server shows it.
        resource: the same as values.
        site: of this process.
        replica: this process.
        bucket: of the election.
        cluster: of the site.
        pods: of the election's namespace.
        observer: is told how long things took.
        changed: is called when `view` returns something else, but for the time that is left.
        turns: for changes of leader, of which only so many go on at a time.
        history_writer: keeps the history of the election; None if nobody does.
        peers: what this process knows about others; None: nothing.
        stewards: what this process knows about the stewards of all its elections; None: nothing.
    """

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
        turns: Turns,
        history_writer: HistoryWriter | None = None,
        peers: Peers | None = None,
        stewards: Stewards | None = None,
    ) -> None:
        self._site = site.for_election(name=resource.site, uid=resource.uid)
        self._replica = replica
        self._bucket = bucket
        self._watched_key = resource.record_key
        """The key that is campaigned for, whatever somebody writes into the status later."""
        self._pods = ElectionPods(pods, resource)
        self._changed = changed
        self._history_writer = history_writer
        self._label_tracker = LabelTracker()
        self._log = log.bind(namespace=resource.key.namespace, election=resource.key.name)
        self._status_writer = StatusWriter(
            body, replica=replica.name, cluster=cluster, changed=changed
        )
        self._kin = Kinship(
            self._site,
            str(replica),
            resource.key.namespace,
            Peers() if peers is None else peers,
            self._status_writer.status,
        )
        self._stewards = Stewards() if stewards is None else stewards
        self._cluster = cluster
        self._driver = Driver(
            # Who only follows has no part in the records of its site.
            Member(
                str(replica),
                "" if resource.observed else self._site.header,
                identities(self._site.name, resource.key.namespace),
                self._kin,
            ),
            bucket,
            self._watched_key,
            observer=observer,
            happened=self._happened,
            vacant=self._wake,
        )
        self._reconciler = Reconciler(
            Adapters(
                site=self._site.name,
                driver=self._driver,
                cluster=cluster,
                pods=self._pods,
                observer=observer,
                turns=turns,
                wake=self._wake_in,
            ),
            Others(self._kin, self._status_writer, self._stewards),
            Notices(corrected=self._corrected, refused=self._refuse),
            may_label=lambda: self._regressed is None,
            timing=self._known_timing,
        )
        self.counts = Counts(self._driver.attempts)
        self._due = Flag()
        self._urgent = Flag()
        """Set when a pass may not wait, whatever came of those before."""
        self._due_at = self._began_at = clock.now()
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.Timeout | None = None
        self._settings: BucketInfo | None = None
        self._settled_at = 0.0
        self._trouble = Trouble()
        self._running = False
        self._ends_of_attention: list[Callable[[], None]] = []
        """What ends the watches of the bucket and the history; empty while there are none."""
        self._blocked: Problem | None = None
        self._invalid: Problem | None = None
        self._timing_kept: Timing | None = None
        """The durations that count, also after a change of the spec to some that cannot."""
        self._tokens = TokenGuard()
        self._tokens.learn(self._status_writer.status.get("token", 0), clock.now())
        self._regressed: Problem | None = None
        self._refused: Problem | None = None
        self._doubt: Doubt | None = None
        self._in_use: Problem | None = None
        """That another cluster has the name of our site; see `_account`."""
        self._in_use_until = NEVER
        self._waits: tuple[Settlement | None, str] = None, ""
        """What was waited for last, and until when in words."""
        self._undone = ""
        self._known: object = None
        self._begun = 0
        self._evicted = False
        self._resigned = False
        self._question: Mapping[str, Any] | None = None
        """What a replica asks that cannot see the key, see `confirmation`."""
        self._questioned_at = NEVER
        self._late_since = -NEVER
        """When the record was last found not to be renewed in time."""
        self._answers_lost = 0
        """How often another replica has relieved us before our answer was written."""
        self._outlived = 0
        """The revision that was read although it should have expired."""
        self._answered: Mapping[str, Any] | None = None
        """The question for which the record was renewed."""
        self._retire_by = NEVER
        self._yields = 0
        """How often another replica has relieved us since the election was deleted."""
        self.gone = asyncio.get_running_loop().create_future()
        """Done when it is known that this election is gone, though nobody may have said so."""
        self._ended = Flag()
        self._over = False

    # From outside

    @property
    def key(self) -> ElectionKey:
        """Return the namespace and name."""
        return self.resource.key

    @property
    def resource(self) -> Resource:
        """The election as last seen."""
        return self._reconciler.resource

    async def run(self) -> None:
        """Serve the election until cancelled."""
        with working_for(self.resource.key.namespace, self.resource.key.name):
            await self._run()

    async def _run(self) -> None:
        ends = [
            self._pods.listen(self._wake),
            self._kin.peers.listen(self._reconsider),
            self._stewards.serve(self._due_by, self._note_late),
        ]
        self._running = True
        self._configure()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._driver.run(), name=f"renewals of {self.key}")
                tasks.create_task(self._passes(), name=f"passes of {self.key}")
                tasks.create_task(self._status_writer.run(), name=f"reports of {self.key}")
        finally:
            self._over = True
            self._disregard()
            for end in ends:
                end()
            if self._timer is not None:
                self._timer.cancel()
            await self._reconciler.close()

    def update(self, body: Mapping[str, Any], resource: Resource, *, listed: bool = False) -> None:
        """Take in a change of the resource; `listed` as for `StatusWriter.take`."""
        if not self._status_writer.take(body, listed=listed):
            return
        self._tokens.learn(self._status_writer.status.get("token", 0), clock.now())
        self._kin.hear(self._status_writer.status)
        if resource != self.resource:
            self._reconciler.resource = resource
            if resource.accepts_lower_tokens:
                self._regressed = None
            self._configure()
        self._wake()

    def block(self, problem: Problem | None) -> None:
        """Keep the election from campaigning: it is barred, or another one has its key or label."""
        if problem != self._blocked:
            self._blocked = problem
            if problem is not None:
                self._log.warning("election.blocked", problem=problem.message)
            self._configure()
            self._wake()

    def refuse_service(self, obstacle: Obstacle | None) -> None:
        """Keep the election from writing slices: another one has its Service."""
        self._reconciler.routing.claim(obstacle)
        self._wake()

    async def retire(self) -> None:
        """Take everything back: labels, annotations, the record. Bounded if NATS is away.

        Of a successor, an election of the same name, nothing is touched.
        """
        self._retire_by = clock.now() + DELETE_WITHIN
        self._reconciler.resource = replace(self.resource, deleting=True)
        self._interrupt()
        self._wake()
        await self._ended.wait()

    async def leave(self) -> None:
        """Renew once more, so that another replica takes over at once instead of by silence."""
        if self._driver.lease is not None:
            await self._driver.renew(leaving=True)

    async def resign(self) -> None:
        """Strip and release: for a single replica that ends for good. Bounded."""
        self._resigned = True
        self._wake()
        try:
            async with asyncio.timeout(DELETE_WITHIN):
                await self._ended.wait()
        except TimeoutError:
            self._log.warning("record.left", reason="it could not be released in time")

    def view(self) -> dict[str, Any]:
        """Return what can be told about the election at this moment, for people and programs."""
        status, record = self._status_writer.status, self._driver.record
        if (problem := self._barred) is not None:
            # Whoever wrote the status before may have put a record of others into it.
            told = any(one["reason"] == problem.reason for one in status.get("conditions", ()))
            kept = {"candidates", "transitions"} | ({"conditions"} if told else set())
            status = {name: status[name] for name in status if name in kept}
            record = None
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "state": (self._driver.state if problem is None else State.UNKNOWN).name.capitalize(),
            "holder": status.get("holder"),
            "leader": status.get("leader"),
            "token": status.get("token"),
            "site": record.site_name or None if record is not None else None,
            "steward": record.replica_name or None if record is not None else None,
            "candidates": status.get("candidates"),
            "transitions": status.get("transitions"),
            "remainingSeconds": self._remaining if problem is None else None,
            "conditions": status.get("conditions", []),
        }

    async def history(self, *, limit: int) -> dict[str, Any]:
        """Return the latest terms, newest first, and why there may be none or not all."""
        found: list[dict[str, Any]] = []
        if self._barred is not None:
            problem: str | None = self._barred.message
        elif self._history_writer is None:
            problem = OFF
        else:
            key = self._watched_key
            found = await self._history_writer.terms(self._bucket.name, key, limit=limit)
            problem = self._history_writer.problem or None
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "problem": problem,
            "terms": found,
        }

    @property
    def barred(self) -> bool:
        """Whether the election is not served, so that nothing of its lock may be told."""
        return self._barred is not None

    @property
    def bucket_trouble(self) -> str:
        """Why the bucket is of no use to this election until a person acts; empty if it is."""
        if self._barred is not None:
            return ""
        if self._settings is not None and (unfit := _unfit(self._settings)):
            return unfit
        error = self._bucket.problem or self._bucket.denied.get(self.resource.record_key)
        act = isinstance(error, BucketDenied | BucketInvalid | BucketSilent)
        return str(error) if act else ""

    @property
    def deadline(self) -> float | None:
        """The deadline of our lease, or by the last renewal seen of somebody else's; or None."""
        campaign, lease = self._driver.campaign, self._driver.lease
        if campaign is None or campaign.record is None:
            return None
        return campaign.latest_at + campaign.timing.lease if lease is None else lease.deadline

    @property
    def _remaining(self) -> float | None:
        """Seconds to the deadline."""
        deadline = self.deadline
        return None if deadline is None else round(max(0.0, deadline - clock.now()), 3)

    def reading(self) -> Reading:
        """Return what the gauges show at this moment."""
        campaign, record, lease = self._driver.campaign, self._driver.record, self._driver.lease
        pods = self._pods.known
        selector = self.resource.selector
        conditions = self._status_writer.status.get("conditions", ())
        return Reading(
            leads=self._driver.leads,
            interval=campaign.timing.interval if campaign is not None else 0.0,
            token=record.term if record is not None and not record.stranger else 0,
            candidates=sum(not why_not(pod, selector) for pod in pods),
            remaining=max(0.0, lease.deadline - clock.now()) if lease is not None else 0.0,
            labelled=len(labelled(pods, self.resource)),
            conditions=[(one["type"], one["status"], one["reason"]) for one in conditions],
        )

    # What moves it

    def _wake(self) -> None:
        if not self._due.is_set():
            self._due_at = clock.now()
            self._due.set()

    def _wake_in(self, seconds: float) -> None:
        """Wake then, at the latest; whoever still needs it later asks again in the next pass."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(LEAST, seconds)
        if self._timer is not None and self._timer.when() > when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(when, self._wake)

    def _interrupt(self) -> None:
        """End the pass that is under way, so that the next one need not wait for it."""
        self._urgent.set()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def _configure(self) -> None:
        """Bring the campaign in line with the bucket's settings."""
        if self._over or not self._running:
            return  # a timer was still on its way, or it has not begun
        if self._barred is not None:
            self._interrupt()  # what the pass under way would do must not be done any more
            self._wake()
            return
        self._attend()
        info = self._bucket.settings
        before, self._settings = self._settings, info
        if self._blocked is not None:
            self._driver.end()
            self._interrupt()
        elif info is not None:
            timing, invalid = self._timing(info, before)
            if invalid is not None and invalid != self._invalid:
                self._log.warning("election.invalid", problem=invalid.message)
            self._invalid, self._timing_kept = invalid, timing
            if before is not None and before.created != info.created:
                self._log.warning("bucket.recreated", bucket=info.name)
                if not self._renewed_in(info):
                    self._driver.forget()
            if timing is not None and self._driver.campaign is None:
                self._log.info("election.configured", bucket=info.name, ttl=timing.ttl)
                self._driver.begin(timing)
            elif timing is not None:
                self._driver.adjust(allowing_for(timing, self._reconciler.took))
        self._wake()

    @property
    def _barred(self) -> Problem | None:
        """Why the election is not served; None if it is."""
        problem = self._blocked
        return problem if problem is not None and problem.bars else None

    def _attend(self) -> None:
        """Watch the bucket, and keep the history."""
        if self._ends_of_attention:
            return
        self._ends_of_attention = [self._bucket.listen(self._configure)]
        if self._history_writer is not None:
            follow = self._history_writer.follow(self._bucket, self._watched_key)
            self._ends_of_attention.append(follow)
            self._pods.seen = self._note_labels
            self._note_labels()

    def _disregard(self) -> None:
        """Take in nothing of the bucket any more, and forget what is known of it."""
        self._driver.end()
        self._settings = self._invalid = None
        self._pods.seen = lambda: None
        for end in self._ends_of_attention:
            end()
        self._ends_of_attention = []

    def _renewed_in(self, info: BucketInfo) -> bool:
        """Whether our record is in this bucket for certain: it was written after its creation."""
        lease, age = self._driver.lease, info.server_time - _seconds(info.created)
        return lease is not None and lease.sent_at > clock.now() - age

    def _timing(
        self, info: BucketInfo, before: BucketInfo | None
    ) -> tuple[Timing | None, Problem | None]:
        now = clock.now()
        if unfit := _unfit(info):
            return None, Problem("BucketInvalid", unfit)
        if not info.takes(key := self.resource.record_key):
            msg = (
                f"the stream of bucket {info.name} does not take key {key}: its subjects are"
                f" {', '.join(info.subjects)}; add $KV.{info.name}.>"
            )
            return None, Problem("BucketInvalid", msg)
        if before is not None and info.ttl < before.ttl <= MAXIMUM_TTL:
            # A member elsewhere may still count on the old TTL, unless nobody could.
            self._settled_at = now + before.ttl
        invalid = None
        try:
            timing = self._timing_at(info.ttl)
        except ConfigurationError as error:
            invalid, instead = problem_from(error), self._timing_instead(info.ttl, error)
            if instead is None:
                return None, invalid
            timing = instead
            goes_on = f"the election goes on with an interval of {timing.interval:g} s until then"
            invalid = replace(invalid, message=f"{invalid.message}; {goes_on}")
        if now < self._settled_at:
            msg = (
                f"the TTL of bucket {info.name} was lowered to {info.ttl:g} s:"
                " no campaign until the old one has passed"
            )
            asyncio.get_running_loop().call_later(self._settled_at - now, self._configure)
            return timing, Problem("BucketInvalid", msg)
        return timing, invalid

    def _timing_instead(self, ttl: float, error: ConfigurationError) -> Timing | None:
        """Return the durations with which an election goes on whose spec asks for impossible ones.

        A leader is not changed for that: those that counted before still count. A process that has
        just started does not know them, and takes the default interval. None if nobody leads, or
        if the bucket's TTL is to blame: then no election begins.
        """
        kept = self._timing_kept
        if not isinstance(error, CampaignInvalid) or (kept is not None and kept.ttl != ttl):
            return None
        if kept is not None or "leader" not in self._status_writer.status:
            return kept
        resource = self.resource
        return timing_for(
            ttl,
            profile=resource.profile,
            promotion=resource.promotion,
            backoff=resource.backoff,
        )

    @property
    def _goes_on(self) -> bool:
        """Whether the election goes on although its spec asks for impossible durations."""
        invalid = self._invalid
        return invalid is not None and not invalid.of_bucket and self._timing_kept is not None

    def _timing_at(self, ttl: float) -> Timing:
        return timing_for(
            ttl,
            profile=self.resource.profile,
            interval=self.resource.interval,
            splay=self.resource.splay,
            promotion=self.resource.promotion,
            backoff=self.resource.backoff,
        )

    def _happened(self, news: list[events.CampaignEvent]) -> None:
        """After anything that the campaign was told."""
        for event in news:
            self._hear(event)
        lease, campaign = self._driver.lease, self._driver.campaign
        self._guard_tokens()
        self._reconciler.hear(self._driver.record)
        if lease is not None and lease.record.revision == lease.record.term != self._begun:
            self._begun = lease.record.term
            self.counts.transitions += 1
        known = _known(campaign) if campaign is not None else None
        if known != self._known:
            self._known = known
            if self.resource.observed:
                self._interrupt()  # a label may be on its way to a pod that holds it no more
            self._wake()
            self._changed()

    def _guard_tokens(self) -> None:
        """Take in the token of the record, and give up if that of our own went back."""
        lease, record, now = self._driver.lease, self._driver.record, clock.now()
        if lease is not None and self._tokens.refuses(lease):
            if self.resource.accepts_lower_tokens:
                self._tokens.accept(lease)
            elif self._regressed is None:
                message = (
                    f"token {lease.record.term} follows {self._tokens.highest}: bucket"
                    f" {self.resource.bucket} was made anew or restored from an old copy. When"
                    " nothing relies on the higher token any more, set `onTokenRegress: Accept`"
                )
                self._regressed = Problem("TokenRegressed", message)
                self._log.warning("token.regressed", problem=message)
                self._wake()
        if record is not None and not record.stranger:
            self._tokens.learn(record.term, now)

    def _hear(self, event: events.CampaignEvent) -> None:
        match event:
            case events.Won(record):
                self._log.info("election.won", holder=record.holder, token=record.term)
            case events.Lost(record, loss):
                self._log.info(
                    "election.lost", holder=record.holder, token=record.term, loss=loss.value
                )
                self._evicted |= loss is Loss.EVICTED
                if loss not in {Loss.RELEASED, Loss.HANDED_OVER}:
                    # Whatever the API server keeps a pass waiting for, the strip comes first.
                    self._interrupt()
            case events.Relieved(record):
                self._log.info("election.relieved", steward=record.replica)
                self._interrupt()  # what was begun as the steward may not go on
                self._yields += self._retire_by < NEVER
                self._answers_lost += 1
        self._wake()

    def _note_labels(self) -> None:
        """Have it written down which pods got or lost the leader label."""
        if self._history_writer is None or self._pods.all is None:
            return
        pods = self._pods.known
        tokens = shown_tokens(pods, self.resource)
        changes = self._label_tracker.observe(pods, tokens, clock.now())
        if changes:
            where = self._bucket.name, self.resource.record_key
            self._history_writer.note_labels(*where, changes, site=self._site.name)

    def _corrected(self, pod: Pod) -> None:
        self.counts.corrections += 1
        if self._reconciler.corrections_in_a_row not in NOTED_CORRECTIONS:
            return  # the condition says that it goes on
        self._log.warning("label.corrected", pod=pod.name)
        note = f"pod {pod.name} carried the leader label without leading; it was removed"
        self._status_writer.announce(KubernetesEvent("Warning", "LabelCorrected", "Strip", note))

    def _refuse(self, why: str) -> None:
        self._log.warning("step_down.refused", why=why)
        self._status_writer.announce(KubernetesEvent("Warning", "StepDownRefused", "StepDown", why))

    # The passes

    async def _passes(self) -> None:
        """Make one whenever there may be something to do, and again soon if it was not done."""
        failures = 0
        while True:
            await self._due.wait()
            if failures > 1:
                # Perhaps our own write has woken us, such as the strip of a hand-over that failed.
                await self._urgent.wait_within(min(SHORT_PAUSE, _pause(failures)))
            self._urgent.clear()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            try:
                async with asyncio.timeout(None) as self._limit:
                    done = await self._pass()
                self._undone, self._refused = "", None
            except TimeoutError:
                done = False
            except ClusterError as error:
                done = False
                self._failed(error, failures + 1)
            except Exception:
                done = False
                log.exception("pass.broke", election=str(self.key))
            finally:
                self._limit = None
            self._heed_slow_patches()
            failures = 0 if done else failures + 1
            if not done:
                self._wake_in(_pause(failures))
            self._report()

    def _heed_slow_patches(self) -> None:
        """Move the deadline so that a strip at it ends before the TTL."""
        campaign = self._driver.campaign
        if campaign is not None and not self.resource.observed:
            timing = allowing_for(campaign.timing, self._reconciler.took)
            if abs(timing.margin - campaign.timing.margin) > NOTICED:
                self._log.info("deadline.moved", patch=round(self._reconciler.took, 1))
                self._driver.adjust(timing)

    def _failed(self, error: ClusterError, failures: int) -> None:
        # A first conflict is no failure: somebody else wrote, and the next pass sees what.
        # And who is not watched is one of many, of whom one line tells.
        untold = isinstance(error, NotWatched) or (failures == 1 and isinstance(error, Conflict))
        if failures in LOGGED_FAILURES and not untold:
            self._log.warning("pass.failed", problem=str(error))
        refused = isinstance(error, Refused | AdmissionUnavailable)
        if refused:
            self._refused = problem_from(error)
        if refused or failures > 1:
            self._undone = str(error)

    async def _pass(self) -> bool:
        """Bring everything in line with what is known now; return whether that is done."""
        if self._retire_by < NEVER:
            await self._take_back()
            return True
        if self._pods.all is None and clock.now() >= self._began_at + PATIENCE:
            await self._pods.probe()
        if self._barred is not None:
            done = await self._stay_out()
        elif self._blocked is not None:
            await self._reconciler.vacate()
            return True
        else:
            self._reconciler.in_doubt = await self._account()
            done = await self._settle(withdrawn=self._withdrawn)
            await self._answer()
            await self._check_age()
        if self._resigned and done and self._driver.lease is None:
            self._ended.set()
        if self._reconciler.outlived and not self.gone.done():
            self.gone.set_result(None)
        return done

    async def _settle(self, *, withdrawn: bool) -> bool:
        blind = self._bucket.problem is not None
        return await self._reconciler.settle(withdrawn=withdrawn, blind=blind, since=self._due_at)

    async def _stay_out(self) -> bool:
        """Keep out of an election that is barred; return whether that is done."""
        # 1. What we led is given up in order, as in a suspension: it was ours by right until now.
        if self._driver.lease is not None:
            settled = await self._settle(withdrawn=True)
            if self._driver.lease is not None:
                return settled
        # 2. Nothing is read any more.
        self._disregard()
        # 3. No pod keeps the label. A replica with other rules may give it back; it is slowed down
        # by its brake, and ends with its record.
        if self._owns_label:
            await self._reconciler.abstain()
        else:
            await self._reconciler.vacate()
        return True

    @property
    def _owns_label(self) -> bool:
        return self._blocked is None or self._blocked.owns_label

    async def _answer(self) -> None:
        """Renew the record if another replica, which cannot see it, asks; the report answers.

        A standby leaves the steward a moment for that, and then takes over.
        """
        question, campaign, lease = self._asked, self._driver.campaign, self._driver.lease
        if question != self._question:
            self._question, self._questioned_at, self._answered = question, clock.now(), None
            self._answers_lost = 0
        blind = self._bucket.problem is not None
        if question is None or blind or campaign is None or campaign.latest is None:
            return
        if lease is not None:
            if lease.sent_at >= self._questioned_at or await self._driver.renew():
                self._answer_if_all_are_renewed(question)
        elif self.resource.observed:
            if question != self._answered and await self._driver.look():
                self._answered = question
        elif self._reconciler.rests:
            heard_at = max(self._questioned_at, campaign.latest_at)
            patience = ANSWER_FIRST * 2 ** min(self._answers_lost, MOST_DOUBLINGS)
            if clock.now() >= heard_at + patience:
                self._driver.urge()
            self._wake_in(patience)
        elif not self._reconciler.labelled:
            self._answer_if_all_are_renewed(question)  # nothing is in doubt here

    def _answer_if_all_are_renewed(self, question: Mapping[str, Any]) -> None:
        """Answer, because the answer counts for all elections that this process renews."""
        info = self._settings
        if info is None or self._answered == question:
            return
        me = Steward(str(self._replica), self._bucket.name, info.created)
        if self._stewards.vouch(me, self._questioned_at, clock.now()):
            self._answered = question
        else:
            self._wake_in(LOOK_AGAIN)

    def _note_late(self) -> None:
        """Note that the record was not renewed in time, so that the status says so."""
        self._late_since = clock.now()
        self._wake()

    @property
    def _late(self) -> bool:
        """Whether the record has not been renewed since that was noted."""
        lease = self._driver.lease
        return lease is None or lease.sent_at < self._late_since

    def _due_by(self, steward: Steward) -> float:
        """Return when the record has to be renewed, if the status names this steward."""
        campaign, record, lease = self._driver.campaign, self._driver.record, self._driver.lease
        if self.resource.deleting or self._status_writer.steward() != steward:
            return NEVER
        if campaign is None or record is None or not campaign.ours(record):
            return -NEVER
        return campaign.timing.interval + (campaign.latest_at if lease is None else lease.sent_at)

    async def _check_age(self) -> None:
        """Read a record that should have expired; without markers no watch tells that it has."""
        campaign, record = self._driver.campaign, self._driver.record
        if campaign is None or record is None or campaign.lease is not None:
            return
        revision, _, stored_at = campaign.stored
        if revision != record.revision or revision == self._outlived:
            return
        left = stored_at + campaign.timing.ttl + EXPIRES_WITHIN - clock.now()
        if left > 0:
            self._wake_in(left)
        elif self._bucket.problem is None and await self._driver.look():
            self._outlived = revision  # of no meaning if the record is gone

    @property
    def _asked(self) -> Mapping[str, Any] | None:
        asked: Mapping[str, Any] | None = self._status_writer.status.get("unconfirmed")
        return asked

    async def _account(self) -> bool:
        """Find out whether a record is of a replica of this site; return whether that is open.

        Labels are left alone meanwhile. A process that claims to be of our site and renews its
        record, but does not answer through our API server, is of another cluster: this one is a
        copy of it, or it is a copy of this one.
        """
        now, record = clock.now(), self._driver.record
        self._kin.unproven = self._status_writer.drops_proofs
        if record is None or not self._in_doubt:
            self._doubt = None
        elif await self._ask(record, now):
            self._note_use(record, now)
            return True
        self._note_use(record, now)
        return False

    @property
    def _in_doubt(self) -> bool:
        """Whether the live record may be of a replica of this site that is not known yet."""
        campaign, record = self._driver.campaign, self._driver.record
        return (
            campaign is not None
            and campaign.lease is None
            and record is not None
            and clock.now() < campaign.lapse_at
            and not self.resource.observed
            and self._kin.doubtful(record)
        )

    async def _ask(self, record: Record, now: float) -> bool:
        """Ask the steward for a sign of life, and judge; return whether we have to wait for it."""
        peers, status_writer = self._kin.peers, self._status_writer
        if self._doubt is None or self._doubt.replica != record.replica:
            self._doubt = Doubt(record.replica, since=now)
        doubt = self._doubt
        if doubt.asked_at == NEVER and doubt.since <= status_writer.introduced_at < NEVER:
            doubt.asked_at, doubt.revision = status_writer.introduced_at, record.revision
        if doubt.asked_at < NEVER:
            if self._kin.answered_without_proof(record, status_writer.status):
                peers.learn(record.replica)
                return False
            renewed = record.revision > doubt.revision
            if renewed and now >= doubt.asked_at + ACCOUNT_WITHIN:
                # Our watch may be late, so that only what was just read counts.
                body = await self._cluster.get_election(self.key.namespace, self.key.name)
                self._kin.hear((body or {}).get("status") or {})
                if self._kin.doubtful(record):
                    self._log.warning("replica.foreign", replica=record.replica, site=record.site)
                    peers.exclude(record.replica)
                return False
        if now >= peers.asked_at.get(record.replica, -NEVER) + ASK_AGAIN:
            peers.asked_at.add(record.replica, now)
            status_writer.introduce(str(self._replica))
        self._wake_in(ASK_AGAIN)
        return True

    def _note_use(self, record: Record | None, now: float) -> None:
        """Note whether another cluster has the name of our site; then we do not campaign."""
        if record is not None and self._kin.in_use(record):
            self._in_use_until = NEVER
            if self._in_use is None:
                message = (
                    f"another cluster uses the name {self._site.name} of this site: its replica"
                    f" {record.replica_name} keeps the record for {record.holder} and is unknown"
                    " to the API server here. One of the two clusters is a copy of the other. No"
                    " pod of this cluster leads. Start the operator of the copy with another"
                    " `--site` (chart: `site`), or with another bucket"
                )
                self._in_use = Problem("SiteInUse", message, of_bucket=False)
                self._log.warning("site.in_use", problem=message)
        elif self._in_use is not None:
            if self._in_use_until == NEVER:
                self._in_use_until = now + QUIET_TTLS * self._known_ttl
            settled = record is not None and self._doubt is None
            if settled or now >= self._in_use_until:
                self._in_use = None
                self._log.info("site.free")
            else:
                self._wake_in(self._in_use_until - now)

    def _reconsider(self, replica: str) -> None:
        """Look again at a record whose writer was recognised, or found to be a stranger."""
        record = self._driver.record
        if record is not None and record.replica == replica:
            self._driver.reconsider()
            self._wake()

    async def _take_back(self) -> None:
        """Take everything back, and end."""
        foreign = not self._owns_label
        if foreign:
            await self._reconciler.vacate()
        if self._yields:
            # Another replica takes back, too: if each relieved the other at once, none would end.
            await asyncio.sleep(_pause(self._yields))
        tries = 0
        while not foreign:
            if successor := await self._reconciler.successor():
                await self._reconciler.make_way(successor)
                break
            left = await self._reconciler.take_back()
            if left is Remainder.NOTHING:
                break
            time_left = self._retire_by - clock.now()
            if left is Remainder.RECORD and time_left <= 0:
                self._log.warning("record.left", reason="NATS does not answer; it will lapse")
                break
            # Not at once, whatever happens: a replica that has not heard of the deletion yet would
            # be quick to create the record again.
            tries += 1
            await asyncio.sleep(min(_pause(tries), time_left if time_left > 0 else LONGEST_PAUSE))
        self._ended.set()

    @property
    def _withdrawn(self) -> bool:
        """Whether nobody of this site is to lead, whoever could."""
        resource = self.resource
        return (
            resource.suspend
            or resource.deleting
            or self._resigned
            or (self._invalid is not None and not self._goes_on)
            or self._regressed is not None
            or self._in_use is not None
            or (self._bucket_gone and not self.resource.holds)
        )

    @property
    def _bucket_gone(self) -> bool:
        """Whether there has been no bucket for so long that nobody leads any more."""
        return self._trouble.lasts(BucketNotFound, clock.now()) >= self._known_ttl

    @property
    def _known_ttl(self) -> float:
        """The TTL of the bucket as last heard, perhaps by a replica before us."""
        if self._settings is not None:
            return self._settings.ttl
        shown = (self._status_writer.status.get("bucket") or {}).get("ttlSeconds", MAXIMUM_TTL)
        return float(shown)

    def _known_timing(self) -> Timing | None:
        """Return the durations as last known; None if the TTL is not."""
        if self._driver.campaign is not None:
            return self._driver.campaign.timing
        ttl = (self._status_writer.status.get("bucket") or {}).get("ttlSeconds")
        if self._settings is not None:
            ttl = self._settings.ttl
        if ttl is None:
            return None
        try:
            return self._timing_at(ttl)
        except ConfigurationError as error:
            return self._timing_instead(ttl, error)

    # The reports

    def _report(self) -> None:
        """Have the status written, unless that is another replica's work."""
        if self._barred is not None:
            if self._retire_by == NEVER:
                self._status_writer.tell(self._situation(self._barred, seen=False))
            return
        now, confirmation = clock.now(), self._reconciler.confirmation
        steward = (self._status_writer.status.get("steward") or {}).get(
            "replica", self._replica.name
        )
        alone = steward == self._replica.name or confirmation.stripped
        patience = PATIENCE if alone else PATIENCE_WITH_PEERS
        error = self._bucket.problem or self._bucket.denied.get(self.resource.record_key)
        trouble = self._trouble.look(error, now, patience=patience)
        blink = trouble is None and error is not None
        if blink:
            self._wake_in(patience)
        if 0 <= self._trouble.lasts(BucketNotFound, now) < self._known_ttl:
            self._wake_in(self._known_ttl - self._trouble.lasts(BucketNotFound, now))
        # Also of a record that came after the last pass had looked.
        rests, campaign = self._reconciler.rests or self._in_doubt, self._driver.campaign
        if self._retire_by < NEVER or blink or (rests and trouble is None):
            return
        if confirmation.answered and isinstance(error, BucketUnreachable):
            return  # the replica that answers sees the key, and writes the status
        doubtful_at = confirmation.doubtful_at
        if not alone and isinstance(error, BucketUnreachable) and now < doubtful_at + patience:
            self._wake_in(doubtful_at + patience - now)
            return  # perhaps another replica sees the key; thousands of statuses need not say this
        problem = self._blocked or self._invalid or self._in_use or self._regressed
        problem = problem or self._refused or trouble
        problem = problem or self._outdated
        refusal = self._reconciler.refusal
        if problem is None and refusal is not None and self._driver.record is None:
            problem = replace(problem_from(refusal.error), message=refusal.why)
        seen = campaign is not None and campaign.latest is not None
        seen = seen and self._pods.all is not None and not rests
        if not seen and problem is None and now < self._began_at + PATIENCE:
            self._wake_in(self._began_at + PATIENCE - now)
            return
        self._status_writer.tell(self._situation(problem, seen=seen), evicted=self._evicted)
        self._evicted = False

    def _situation(self, problem: Problem | None, *, seen: bool) -> Situation:
        campaign, record = self._driver.campaign, self._driver.record
        ours = campaign is not None and record is not None and campaign.ours(record)
        state, leader = self._driver.state, self._reconciler.leader
        steward = self._replica.name if ours and seen else ""
        if self.resource.observed and campaign is not None:
            ours = leader is not None
            state = State.LEADER if ours else State.CANDIDATE
        pods = self._pods.known
        undone = self._undone
        if not undone and problem is not None and problem.bars and problem.owns_label:
            carriers = labelled(pods, self.resource)
            undone = f"pod {carriers[0].name} still carries the leader label" if carriers else ""
        if not undone and (strays := self._reconciler.strays):
            undone = f"pod {strays[0].name} carries the leader label without leading"
        waits = campaign.waits(clock.now()) if campaign is not None and seen else None
        refusal = self._reconciler.refusal
        undone = undone or (refusal.why if refusal is not None else self._reconciler.unmarked)
        return Situation(
            waits=waits,
            waits_until=self._time_of(waits) if waits is not None else "",
            resource=self.resource,
            site=self._site.name,
            state=state,
            seen=seen,
            record=record,
            revision=campaign.latest.revision if campaign and campaign.latest else 0,
            ours=ours,
            leader=leader,
            total=sum(self.resource.selector.matches(pod.labels) for pod in pods),
            ready=len(self._reconciler.able),
            steward=steward,
            bucket=self._settings,
            problem=problem,
            unlabelled=undone,
            unrecognised=self._reconciler.unrecognised,
            patch_seconds=self._reconciler.took,
            strip_late=self._strips_late,
            routed=self._reconciler.routing.routed,
            obstacle=self._reconciler.routing.obstacle,
            unrouted=self._reconciler.routing.undone,
            pods_seen=self._pods.all is not None,
            stripped=self._reconciler.confirmation.stripped,
            answers=self._answered,
            process="" if self._late_since > -NEVER and self._late else self._replica.nonce,
            contested=self._reconciler.contested,
        )

    def _time_of(self, waits: Settlement) -> str:
        """Return the end of a wait, RFC 3339: the same text for as long as it lasts."""
        if self._waits[0] != waits:
            ends = clock.today() + timedelta(seconds=waits.at - clock.now() + 1)  # rounded up
            self._waits = waits, ends.strftime("%Y-%m-%dT%H:%M:%SZ")
            self._log.info(
                "election.waits",
                until=self._waits[1],
                awaited=waits.awaited.value,
                holder=waits.holder or None,
            )
        return self._waits[1]

    @property
    def _outdated(self) -> Problem | None:
        """What to say of a record that the server keeps for longer than the TTL."""
        campaign, record = self._driver.campaign, self._driver.record
        if campaign is None or record is None or campaign.lease is not None:
            return None
        revision, stored_at, _ = campaign.stored
        if revision != record.revision or revision != self._outlived or not stored_at:
            return None
        renewed = datetime.fromtimestamp(int(stored_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = (
            f"{shown(record.holder)} holds the record, but has not renewed it since {renewed}, and"
            f" records live {campaign.timing.ttl:g} s. Nobody leads by it, and NATS does not remove"
            f" it: `incumbent evict {self.resource.record_key} --bucket {self.resource.bucket}`"
        )
        return Problem("RecordOutdated", message, of_bucket=False)

    @property
    def _strips_late(self) -> bool:
        """Whether a strip at the deadline takes longer than is left until the TTL."""
        campaign = self._driver.campaign
        return campaign is not None and self._reconciler.took > campaign.timing.margin


class Trouble:
    """What is wrong with a bucket, as people are told: not every blink, and no wording twice.

    Otherwise each attempt to connect to one of several servers would change every status.
    """

    def __init__(self) -> None:
        self._since = NEVER
        self._kind: type[BucketError] | None = None
        self._told: Problem | None = None
        self._wordings: set[str] = set()

    def look(self, error: BucketError | None, now: float, *, patience: float) -> Problem | None:
        """Return what to tell; `patience` is for an absence of NATS, in seconds."""
        kind = None if error is None else type(error)
        if kind is not self._kind:
            self._kind, self._told = kind, None
            self._since = NEVER if error is None else now
            self._wordings.clear()
        if error is None:
            return None
        if isinstance(error, BucketUnreachable) and now < self._since + patience:
            return None
        if str(error) not in self._wordings:
            self._wordings.add(str(error))
            self._told = problem_from(error)
        return self._told

    def lasts(self, kind: type[BucketError], now: float) -> float:
        """Return for how many seconds there was this kind of trouble, by the last look; or -1."""
        return now - self._since if self._kind is kind else -1.0


def _unfit(info: BucketInfo) -> str:
    """Return why a bucket cannot hold any election; empty if it can."""
    if info.mirror:
        return f"bucket {info.name} is a mirror or an aggregate, which cannot hold an election"
    return f"bucket {info.name} cannot hold an election: {info.unfit}" if info.unfit else ""


def _seconds(created: str) -> float:
    """Return seconds since 1970 of an RFC 3339 time."""
    return datetime.fromisoformat(created).timestamp()


def _pause(failures: int) -> float:
    longest = min(LONGEST_PAUSE, 0.05 * 2.0 ** min(failures, 8))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


def _known(campaign: Campaign) -> object:
    """Return what of a campaign's knowledge a pass depends on: not the revision of a renewal."""
    record, lease = campaign.record, campaign.lease
    reign = None
    if record is not None:
        term = 0 if record.stranger else record.term
        reign = (record.holder, record.pod_uid, term, record.replica, record.promoted)
    vacant = None if record is not None else campaign.latest
    return reign, vacant, lease is not None, campaign.unanswered, campaign.sure
