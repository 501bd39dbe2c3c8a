"""One replica's work for one election.

Three loops, so that nothing slow delays what is urgent. The *renewals* (`driver`) do what the
campaign asks of the bucket. The *passes* (`reconciler`) move labels and terms to where they should
be. The *reports* (`status.writer`) tell people. This module runs them; `schedule` decides when a
pass is made, and `report` when there is something to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from incumbent.campaign.driver import Driver
from incumbent.campaign.machine import Member
from incumbent.campaign.ports import Observer, WatchedBucket
from incumbent.campaigner.answers import Answers
from incumbent.campaigner.bucket_trouble import BucketTrouble
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.election_events import ElectionEvents
from incumbent.campaigner.election_history import ElectionHistory
from incumbent.campaigner.expiry import Expiry
from incumbent.campaigner.pass_failures import PassFailures
from incumbent.campaigner.permission import Permission
from incumbent.campaigner.problems import Problems
from incumbent.campaigner.recognition import Recognition
from incumbent.campaigner.report import Report
from incumbent.campaigner.retirement import Retirement
from incumbent.campaigner.schedule import AGAIN, Schedule
from incumbent.campaigner.situations import Situations
from incumbent.campaigner.token_regress import TokenRegress
from incumbent.campaigner.view import View
from incumbent.errors import ClusterError
from incumbent.history.writer import HistoryWriter
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import Turns, working_for
from incumbent.pods.cache import ElectionPods, NamespacePods
from incumbent.pods.eligibility import identities
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.reconciler import Others, Reconciler
from incumbent.reconciler.steward import Notices
from incumbent.replicas.confirmation import Stewards
from incumbent.replicas.site import Kinship, Peers, Replica, Site
from incumbent.routing.endpoint_slices import Obstacle
from incumbent.status.situation import Problem
from incumbent.status.writer import StatusWriter

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that all campaigners of one process share."""

    site: Site
    replica: Replica
    cluster: Cluster
    observer: Observer
    """Is told how long things took."""
    turns: Turns
    """For changes of leader; they limit how many go on at the same time."""
    peers: Peers = field(default_factory=Peers)
    """The other processes of this site, as this process knows them."""
    stewards: Stewards = field(default_factory=Stewards)
    """The stewards of all elections of this process, as last seen."""
    history_writer: HistoryWriter | None = None
    """Keeps the histories; None if nobody does."""


class Campaigner:
    """Serves one election until it is told to stop.

    Args:
        body: the resource as the API server shows it.
        resource: the same as values.
        shared: with the other elections of this process.
        bucket: of the election.
        pods: of the election's namespace.
        changed: is called when `view` shows something else, but for the time that is left.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        resource: Resource,
        shared: Shared,
        *,
        bucket: WatchedBucket,
        pods: NamespacePods,
        changed: Callable[[], None],
    ) -> None:
        namespace, election = resource.key.namespace, resource.key.name
        site = shared.site.for_election(name=resource.site, uid=resource.uid)
        me = str(shared.replica)
        key = resource.record_key  # stays, even if somebody writes another key into the status
        self.gone = asyncio.get_running_loop().create_future()
        """Done when it is known that this election is gone, though nobody may have said so."""
        self._running = False
        self._bucket = bucket
        self._log = log.bind(namespace=namespace, election=election)
        self._schedule = Schedule()
        self._permission = Permission()
        self._failures = PassFailures(self._log)
        self._tokens = TokenRegress(self._log, self._schedule.wake)
        # 1. The parts that read and write: the resource, the pods, the record, the labels.
        self._status_writer = StatusWriter(
            body, replica=shared.replica.name, cluster=shared.cluster, changed=changed
        )
        status = self._status_writer.status
        self._tokens.learn(status)
        self._kin = Kinship(site, me, namespace, shared.peers, status)
        self._pods = ElectionPods(pods, resource)
        # An operator that only follows has no part in the records of its site.
        header = "" if resource.observed else site.header
        self._driver = Driver(
            Member(me, header, identities(site.name, namespace), self._kin),
            bucket,
            key,
            observer=shared.observer,
            happened=lambda events: self._events.of_campaign(events),  # noqa: PLW0108 - made below
            vacant=self._schedule.wake,
        )
        self._reconciler = Reconciler(
            Adapters(
                site=site.name,
                driver=self._driver,
                cluster=shared.cluster,
                pods=self._pods,
                observer=shared.observer,
                turns=shared.turns,
                wake=self._schedule.wake_in,
            ),
            Others(self._kin, self._status_writer, shared.stewards),
            Notices(
                corrected=lambda pod: self._events.label_corrected(pod),  # noqa: PLW0108 - made below
                refused=lambda why: self._events.step_down_refused(why),  # noqa: PLW0108 - made below
            ),
            may_label=lambda: self._tokens.problem is None,
            timing=lambda: self._configuration.known_timing(),  # noqa: PLW0108 - made below
        )
        context = ElectionContext(
            site=site.name,
            replica=shared.replica,
            bucket=bucket,
            driver=self._driver,
            reconciler=self._reconciler,
            status_writer=self._status_writer,
            pods=self._pods,
            schedule=self._schedule,
            log=self._log,
        )
        # 2. The parts of a pass, besides the reconciler.
        self._configuration = Configuration(context, self._permission)
        self._recognition = Recognition(
            context, configuration=self._configuration, kin=self._kin, cluster=shared.cluster
        )
        self._answers = Answers(
            context, configuration=self._configuration, stewards=shared.stewards
        )
        self._expiry = Expiry(context)
        self._retirement = Retirement(context, self._permission)
        # 3. The parts that tell people.
        trouble = BucketTrouble()
        self._problems = Problems(
            permission=self._permission,
            configuration=self._configuration,
            recognition=self._recognition,
            tokens=self._tokens,
            failures=self._failures,
            bucket=trouble,
            expiry=self._expiry,
        )
        self._report = Report(
            context,
            configuration=self._configuration,
            recognition=self._recognition,
            trouble=trouble,
            problems=self._problems,
            situations=Situations(
                context,
                configuration=self._configuration,
                answers=self._answers,
                failures=self._failures,
            ),
        )
        self._events = ElectionEvents(
            context,
            tokens=self._tokens,
            answers=self._answers,
            retirement=self._retirement,
            report=self._report,
            changed=changed,
        )
        self._history = ElectionHistory(context, writer=shared.history_writer, key=key)
        self.view = View(
            context,
            configuration=self._configuration,
            permission=self._permission,
            history=self._history,
            counts=self._events.counts,
        )

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
        with working_for(self.key.namespace, self.key.name):
            await self._run()

    def update(self, body: Mapping[str, Any], resource: Resource, *, listed: bool = False) -> None:
        """Observe a change of the resource; `listed` as for `StatusWriter.take`."""
        if not self._status_writer.take(body, listed=listed):
            return
        self._tokens.learn(self._status_writer.status)
        self._kin.hear(self._status_writer.status)
        if resource != self.resource:
            self._reconciler.resource = resource
            self._tokens.resource_changed(resource)
            self._configure()
        self._schedule.wake()

    def block(self, problem: Problem | None) -> None:
        """Keep the election from campaigning: it is barred, or another one has its key or label."""
        if problem != self._permission.problem:
            self._permission.problem = problem
            if problem is not None:
                self._log.warning("election.blocked", problem=problem.message)
            self._configure()
            self._schedule.wake()

    def refuse_service(self, obstacle: Obstacle | None) -> None:
        """Keep the election from writing slices: another one has its Service."""
        self._reconciler.routing.claim(obstacle)
        self._schedule.wake()

    async def retire(self) -> None:
        """Take everything back: labels, annotations, the record. Bounded if NATS is away.

        Nothing of a successor, an election of the same name, is touched.
        """
        await self._retirement.retire()

    async def leave(self) -> None:
        """Send a last renewal marked as leaving, so that a standby takes over at once."""
        if self._driver.lease is not None:
            await self._driver.renew(leaving=True)

    async def resign(self) -> None:
        """Strip and release: for a single replica that ends for good. Bounded."""
        await self._retirement.resign()

    # Inside

    async def _run(self) -> None:
        ends = [
            self._pods.listen(self._schedule.wake),
            self._recognition.listen(),
            self._answers.serve(),
        ]
        self._running = True
        self._configure()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._driver.run(), name=f"renewals of {self.key}")
                tasks.create_task(self._passes(), name=f"passes of {self.key}")
                tasks.create_task(self._status_writer.run(), name=f"reports of {self.key}")
        finally:
            self._running = False
            self._stop_watching()
            for end in ends:
                end()
            self._schedule.cancel()
            await self._reconciler.close()

    def _configure(self) -> None:
        """Watch the bucket, unless the election is barred, and bring the campaign in line."""
        if not self._running:
            return
        if self._permission.barred is None:
            self._configuration.listen()
            self._history.follow()
        self._configuration.apply()

    def _stop_watching(self) -> None:
        """End the campaign, and observe nothing of the bucket any more."""
        self._configuration.stop()
        self._history.stop()

    async def _passes(self) -> None:
        """Make one whenever there may be something to do, and again soon if it was not done."""
        failures = self._failures
        while True:
            # 1. Wait until a pass is due.
            await self._schedule.due(failures=failures.in_a_row)
            # 2. Make it. If it fails in any way, another pass follows.
            done = False
            try:
                async with self._schedule.interruptible():
                    done = await self._pass()
                failures.completed()
            except TimeoutError:
                done = False  # it was interrupted
            except ClusterError as error:
                failures.failed(error)
            except Exception:
                log.exception("pass.broke", election=str(self.key))
            # 3. Move the deadline if patches have become slow or fast.
            self._configuration.heed_slow_patches()
            # 4. Have the next one made soon if this one was not done.
            failures.count(done=done)
            if not done:
                self._schedule.wake_in(AGAIN.pause(failures.in_a_row))
            # 5. Tell what is the case now.
            self._tell()

    def _tell(self) -> None:
        """Have the status written, unless everything is taken back."""
        if self._retirement.retires:
            return
        if (problem := self._permission.barred) is not None:
            self._report.tell_barred(problem)
        else:
            self._report.tell()

    async def _pass(self) -> bool:
        """Bring everything in line with what is known now; return whether that is done."""
        if self._retirement.retires:
            await self._retirement.take_back()
            return True
        if self._pods.all is None and not self._report.begins:
            await self._pods.probe()
        if self._permission.barred is not None:
            done = await self._stay_out()
        elif self._permission.problem is not None:
            await self._reconciler.vacate()
            return True
        else:
            done = await self._take_part()
        if done and self._driver.lease is None:
            self._retirement.released()
        if self._reconciler.outlived and not self.gone.done():
            self.gone.set_result(None)
        return done

    async def _take_part(self) -> bool:
        """Take part in the election; return whether everything is in line."""
        # 1. Find out whether the record is of our site: labels depend on it.
        self._reconciler.in_doubt = await self._recognition.judge()
        # 2. Move record and labels.
        withdrawn = self._retirement.resigned or self._problems.withdraw(self.resource)
        done = await self._settle(withdrawn=withdrawn)
        # 3. Answer replicas that cannot see the key, and look at a record that does not expire.
        self._answers.read_question()
        if self._driver.campaign is not None:
            await self._answers.answer(self._driver.campaign)
        if self._driver.campaign is not None:
            await self._expiry.check(self._driver.campaign)
        return done

    async def _stay_out(self) -> bool:
        """Keep out of an election that is barred; return whether that is done."""
        # 1. What we led is given up in order, as in a suspension: it was ours by right until now.
        if self._driver.lease is not None:
            settled = await self._settle(withdrawn=True)
            if self._driver.lease is not None:
                return settled
        # 2. Nothing is read any more.
        self._stop_watching()
        # 3. No pod keeps the label. A replica with other rules may give it back; it is slowed down
        # by its brake, and ends with its record.
        if self._permission.owns_label:
            await self._reconciler.abstain()
        else:
            await self._reconciler.vacate()
        return True

    async def _settle(self, *, withdrawn: bool) -> bool:
        blind = self._bucket.problem is not None
        return await self._reconciler.settle(
            withdrawn=withdrawn, blind=blind, since=self._schedule.due_at
        )
