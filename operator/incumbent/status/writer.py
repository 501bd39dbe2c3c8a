"""Writes the status of one election, and an event for each change of it.

This has a loop of its own, so that no change of leader waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from incumbent import clock
from incumbent.backoff import JitteredBackoff, jittered
from incumbent.errors import ClusterError, Conflict, NotFound, Refused
from incumbent.flag import Flag
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.turns import urgent
from incumbent.kubernetes.versions import newer
from incumbent.replicas.confirmation import Steward
from incumbent.replicas.site import steward_of
from incumbent.status.events import KubernetesEvent, events_from
from incumbent.status.fields import ready, status_from, with_candidates, without_proofs
from incumbent.status.situation import Situation

log = structlog.get_logger(__name__)

BACKOFF = JitteredBackoff(first=0.1, longest=5.0)
"""Pauses between attempts to write a status."""
QUARREL = JitteredBackoff(first=0.1, longest=30.0)
"""Pauses while somebody else writes another status again and again."""
FORGIVEN_AFTER = 60.0
"""Seconds without such a quarrel after which a change of somebody else is corrected at once."""
HEARS_WITHIN = 2.0
"""Seconds within which a replica sees a record that the status tells of; its watch may lag."""
NEVER = math.inf
AFTER_CONFLICT = 0.1
"""Seconds to wait before another try, at most, when somebody else wrote the status."""
LOGGED_FAILURES = frozenset({1, 10, 100})
"""Which failures in a row are worth a line in the log."""
MOST_EVENTS = 20
"""Events that wait for the API server, at most; of more, the oldest are not told."""


class StatusWriter:
    """Writes the status of one election.

    Whoever sees both bucket and pods corrects whatever the status says. Who does not says once
    what is wrong, and leaves the status alone if another replica, which sees, corrects that.

    Args:
        body: the resource as last seen.
        replica: the name of this replica.
        cluster: where it is.
        changed: is called when `body` has changed.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        *,
        replica: str,
        cluster: Cluster,
        changed: Callable[[], None],
    ) -> None:
        self.body = body
        self._replica = replica
        self._cluster = cluster
        self._changed = changed
        self._stirred = Flag()
        self._situation: Situation | None = None
        self._evicted = False
        self._said: object = None
        self._written = 0
        self._written_at = 0.0
        self._newcomer = ""
        self.introduced_at = NEVER
        """When `introduce` was carried out last."""
        self.drops_proofs = False
        """Whether the API server drops the fields of a proof (see `site`)."""
        self._repeats = 0
        """How often in a row we have written what somebody else had changed since."""
        self._ahead: tuple[int, float] = 0, 0.0
        """A revision that the status told of before this replica saw it, and since when."""
        self._events: list[KubernetesEvent] = []
        metadata = body["metadata"]
        self._log = log.bind(namespace=metadata["namespace"], election=metadata["name"])

    @property
    def status(self) -> Mapping[str, Any]:
        """The present status as last seen."""
        return self.body.get("status") or {}

    def take(self, body: Mapping[str, Any], *, listed: bool = False) -> bool:
        """Take in the resource; return whether it is not older than what is known.

        One that was `listed` after an interruption counts in any case: where etcd was restored, the
        API server's versions went back. If it is older than our own write, the watch will show it.
        """
        if not listed and _newer(self.body, body):
            return False
        self.body = body
        return True

    def question(self) -> float | None:
        """See `incumbent.replicas.confirmation.Inquiry`."""
        asked = self.status.get("unconfirmed")
        if asked is None:
            return None
        age = clock.today() - datetime.fromisoformat(asked["renewedTime"])
        return clock.now() - max(0.0, age.total_seconds())

    def steward(self) -> Steward | None:
        """See `incumbent.replicas.confirmation.Inquiry`."""
        process, bucket = steward_of(self.status), self.status.get("bucket") or {}
        if not process or "createdTime" not in bucket or not ready(self.status):
            return None
        return Steward(process, bucket["name"], bucket["createdTime"])

    async def ask(self, renewed_at: float) -> bool:
        """See `incumbent.replicas.confirmation.Inquiry`."""
        renewed = clock.today() - timedelta(seconds=max(0.0, clock.now() - renewed_at))
        question = {"replica": self._replica, "renewedTime": _timestamp(renewed)}
        metadata = self.body["metadata"]
        try:
            with urgent(Rank.CHANGE):  # without an answer in time, leaders are stripped
                await self._replace({**self.status, "unconfirmed": question})
        except Conflict:
            fresh = await self._cluster.get_election(metadata["namespace"], metadata["name"])
            if fresh is not None and fresh["metadata"]["uid"] == metadata["uid"]:
                self.body = fresh
            raise
        self._changed()
        return "unconfirmed" in self.status

    def tell(self, situation: Situation, *, evicted: bool = False) -> None:
        """Have a situation written to the status; one that comes later replaces it.

        Args:
            situation: what is the case.
            evicted: whether a leader was evicted since the last one.
        """
        self._situation, self._evicted = situation, self._evicted or evicted
        self._stirred.set()

    def announce(self, event: KubernetesEvent) -> None:
        """Emit an event that does not follow from a change of the status."""
        self._keep(event)
        self._stirred.set()

    def introduce(self, replica: str) -> None:
        """Have the status ask its steward whether it sees what we write."""
        self._newcomer = replica
        self._stirred.set()

    async def run(self) -> None:
        """Write, for as long as this is not cancelled."""
        failures = 0
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            try:
                await self._emit()
                await self._introduce()
                await self._write()
                await self._emit()
            except NotFound:
                continue  # the resource is gone, or soon will be
            except ClusterError as error:
                failures += 1
                self._failed(error, failures)
            except Exception:
                failures += 1
                log.exception("status.broke", election=self.body["metadata"]["name"])
            else:
                failures = 0
                continue
            self._stirred.set()
            await asyncio.sleep(BACKOFF.pause(failures))

    def _failed(self, error: ClusterError, failures: int) -> None:
        if failures in LOGGED_FAILURES:
            self._log.warning("status.not_written", problem=str(error))

    async def _introduce(self) -> None:
        """Put our question into the status, beside everything that is there."""
        while newcomer := self._newcomer:
            self._newcomer = ""
            try:
                with urgent(Rank.CHANGE):  # without an answer in time, nobody of this site leads
                    await self._replace({**self.status, "newcomer": newcomer})
            except Conflict:
                if not await self._read_again():
                    return
                self._newcomer = newcomer
                continue
            except Refused as error:
                # Then only what the replica labels can prove it.
                self._log.warning("replica.not_asked", problem=str(error))
                self.introduced_at = clock.now()
                return
            except ClusterError:
                self._newcomer = newcomer
                raise
            self.drops_proofs = "newcomer" not in self.status
            self.introduced_at = clock.now()
            self._changed()

    async def _replace(self, status: Mapping[str, Any]) -> None:
        """Write a status if nobody has changed the resource since it was seen.

        Raises:
            Conflict: somebody has.
        """
        metadata = self.body["metadata"]
        self.body = await self._cluster.replace_status(
            metadata["namespace"],
            metadata["name"],
            resource_version=metadata["resourceVersion"],
            status=status,
        )

    async def _read_again(self) -> bool:
        """Read the resource; return whether it still is the same one."""
        metadata = self.body["metadata"]
        fresh = await self._cluster.get_election(metadata["namespace"], metadata["name"])
        if fresh is None or fresh["metadata"]["uid"] != metadata["uid"]:
            return False
        self.body = fresh
        return True

    async def _write(self) -> None:
        waited = False
        while (situation := self._situation) is not None:
            before = self.status
            if _knows_less(situation, before):
                return
            if (left := self._may_know_less(situation, before)) > 0:
                await self._stirs_within(left)
                continue
            status: Mapping[str, Any] = status_from(situation, before, _timestamp())
            if self._leaves_it(situation, before):
                status = with_candidates(situation, before, _timestamp())
            if self.drops_proofs:
                status = without_proofs(status)
            if status == before:
                return
            said = _said_by(status)
            answers = "unconfirmed" in before and "unconfirmed" not in status
            repeated = said == self._written and not answers
            if repeated and not waited:
                await self._let_others_learn()
                waited = True
                continue
            try:
                with urgent(Rank.CHANGE) if _answers(before, status) else contextlib.nullcontext():
                    await self._replace(status)
            except Conflict:
                if not await self._read_again():
                    return
                # Whoever changed it may know more than we do; so may we, in a moment.
                await asyncio.sleep(jittered(AFTER_CONFLICT))
                continue
            if (status.get("steward") or {}).get("process"):
                self.drops_proofs = "process" not in (self.status.get("steward") or {})
            self._said = _gist(situation)
            self._repeats = self._repeats + 1 if repeated else 0
            self._written, self._written_at = said, clock.now()
            self._changed()
            evicted = self._evicted and _reign(before) != _reign(status)
            self._evicted = self._evicted and not evicted
            self._keep(*events_from(before, status, evicted=evicted))
            return

    def _may_know_less(self, situation: Situation, before: Mapping[str, Any]) -> float:
        """Return for how many seconds another replica may still be ahead of our watch."""
        revision = _steward_revision(situation, before)
        mine = (before.get("steward") or {}).get("replica") == self._replica
        if mine or not situation.seen or revision <= situation.revision:
            return 0.0
        if revision != self._ahead[0]:
            self._ahead = revision, clock.now()
        return self._ahead[1] + HEARS_WITHIN - clock.now()

    async def _stirs_within(self, seconds: float) -> bool:
        """Wait for another situation, with a limit in seconds; return whether there is one."""
        stirs = await self._stirred.wait_within(seconds)
        if stirs:
            self._stirred.clear()
        return stirs

    async def _let_others_learn(self) -> None:
        """Wait before the same is written again, but not once there is something else to say.

        A replica whose view lags, or that looks at a Service at another time, says something else.
        Without a leader here none of the two is the steward, and each would correct the other.
        """
        if clock.now() - self._written_at > FORGIVEN_AFTER:
            self._repeats = 0
        if not self._repeats:
            return
        end = clock.now() + QUARREL.pause(self._repeats)
        while self._repeats_itself():
            if not await self._stirs_within(end - clock.now()):
                return

    def _repeats_itself(self) -> bool:
        """Whether we wrote the same last, so that somebody has changed it since."""
        if self._situation is None:
            return False
        status = status_from(self._situation, self.status, "")
        answers = "unconfirmed" in self.status and "unconfirmed" not in status
        return _said_by(status) == self._written and not answers

    def _leaves_it(self, situation: Situation, before: Mapping[str, Any]) -> bool:
        """Whether the status is better left as it is, for another replica sees more."""
        problem = situation.problem
        if situation.barred:
            return False  # what another replica sees is not to be shown
        if situation.seen and (problem is None or problem.reason != "BucketUnreachable"):
            return False
        if before.get("observedGeneration", -1) < 0:
            return False
        return problem is None or self._said == _gist(situation)

    def _keep(self, *events: KubernetesEvent) -> None:
        """Have events emitted; of too many the latest."""
        self._events = [*self._events, *events][-MOST_EVENTS:]

    async def _emit(self) -> None:
        """Emit what waits; an event that is refused is not worth another try."""
        while self._events:
            event = self._events.pop(0)
            try:
                await self._cluster.emit_event(
                    self.body,
                    kind=event.kind,
                    reason=event.reason,
                    action=event.action,
                    note=event.note,
                )
            except ClusterError as error:
                self._log.warning("event.lost", reason=event.reason, problem=str(error))


def _knows_less(situation: Situation, before: Mapping[str, Any]) -> bool:
    """Whether another replica of this site has renewed the record since, in the same bucket.

    So it is with one that stood still, and has not heard the news yet.
    """
    record = situation.record
    if record is None or not situation.ours:
        return False
    return _steward_revision(situation, before) > record.revision


def _steward_revision(situation: Situation, before: Mapping[str, Any]) -> int:
    """Return the revision at which the steward in a status began; 0 if in another bucket."""
    bucket, created = situation.bucket, (before.get("bucket") or {}).get("createdTime")
    if bucket is None or bucket.created != created:
        return 0
    return int((before.get("steward") or {}).get("revision", 0))


def _answers(before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether a status answers another replica, which waits for it."""
    return any(name in before and name not in status for name in ("unconfirmed", "newcomer"))


def _said_by(status: Mapping[str, Any]) -> int:
    """Return a number for what a status says, but for when it changed, and how often.

    The status itself, kept a second time, would be megabytes with thousands of elections.
    """
    times = {"lastTransitionTime", "acquiredTime"}
    parts = [status.get("leader") or {}, *status["conditions"]]
    plain = [{name: part[name] for name in part if name not in times} for part in parts]
    said = {**status, "transitions": 0, "leader": plain[0], "conditions": plain[1:]}
    return hash(json.dumps(said, sort_keys=True))


def _gist(situation: Situation) -> object:
    """Return what of a situation is worth saying again when it changes."""
    leader = situation.leader.uid if situation.leader is not None else ""
    return (
        situation.problem,
        situation.state,
        situation.seen,
        situation.stripped,
        leader,
        situation.resource.generation,
    )


def _reign(status: Mapping[str, Any]) -> object:
    return (status.get("leader") or {}).get("podUID"), status.get("token")


def _newer(known: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the known object is newer: our own write's answer can be faster than the watch."""
    versions = [body["metadata"].get("resourceVersion", "") for body in (known, other)]
    return newer(*versions)


def _timestamp(time: datetime | None = None) -> str:
    return (time or clock.today()).strftime("%Y-%m-%dT%H:%M:%SZ")
