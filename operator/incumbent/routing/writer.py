"""The only writes to EndpointSlices, and all preconditions of a write.

The two preconditions of label writes hold here, too (see `labels`). *Fence*: every write carries
the UID and the resourceVersion of the slice that the decision was based on, and changes the slice.
Therefore the API server refuses the second of two writes. *Warrant*: a replica writes an address
only to a slice that it read before the server stored one of this replica's bucket writes. Old and
new leader are in one object, so the write that adds one removes the other, and the slice never
holds both.

Slices are not watched. A watch would cost a connection for each namespace and the right to list the
slices of all Services, and would mostly report our own writes. The slices are read when another
replica may have written them, when a write is refused, and from time to time with the Service.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from incumbent import clock
from incumbent.campaign.ports import Observer
from incumbent.errors import (
    ClusterError,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
    Unsent,
)
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import urgent
from incumbent.pods.election_labels import STRIP_WITHIN, together
from incumbent.pods.labels import LEAST, RESEND_AFTER, TRIES, insist, pause_after, time_left
from incumbent.routing.endpoint_slices import (
    FAMILIES,
    WRITE,
    Obstacle,
    Service,
    Slice,
    emptied,
    filled,
    holds,
    name_of,
    obstacle_from,
    of_another_service,
    others_from,
    service_from,
    shows,
    unknown_ports,
)

log = structlog.get_logger(__name__)

LOOK_EVERY = 30.0
"""Seconds after which the Service and the slices are read again. Changed ports of the Service, or a
slice that somebody else changed, can go unnoticed for that long."""
LOOK_SOON = 5.0
"""Seconds after which they are read again while the Service cannot be used or read."""


class SliceWriter:
    """The EndpointSlices of one election's Service.

    The writer sends no request for an election that names no Service. A Service that cannot be
    used is an `obstacle` and not an error, because the labels do not depend on it.

    Args:
        cluster: the cluster of the Service.
        resource: the election; may be replaced when it changes.
        wake: asks for another pass after the given number of seconds.
        observer: is told how long each write took.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        wake: Callable[[float], None],
        observer: Observer,
    ) -> None:
        self._cluster = cluster
        self._resource = resource
        self._wake = wake
        self._observer = observer
        self._claimed: Obstacle | None = None
        self._found: Obstacle | None = None
        self._service: Service | None = None
        self._known: dict[str, Slice | None] = {}
        """Slices as last read or written, by family; None: no slice. A missing family is unread."""
        self._doubtful: set[str] = set()
        """Families with an unanswered write, which may arrive until a later write is answered."""
        self._look_at = 0.0
        self._tenure = 0
        self._taken_back = False
        self.undone = ""
        """Why the slices do not have the wanted content; empty if they have it."""

    @property
    def resource(self) -> Resource:
        """The election, as last seen."""
        return self._resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        if resource.service != self._resource.service:
            self._taken_back, self._found, self._service = False, None, None
            self.forget()
        self._resource = resource

    @property
    def routed(self) -> str:
        """The Service that may have slices of this election; empty if there is no such Service."""
        former = "" if self._taken_back else self._resource.routed
        return self._resource.service or former

    @property
    def asked_for(self) -> bool:
        """Whether the election names a Service that can be used."""
        return bool(self._resource.service) and self.obstacle is None

    @property
    def obstacle(self) -> Obstacle | None:
        """Why the Service cannot be used; None if it can, or if the election names no Service."""
        if not self._resource.service:
            return None
        return self._claimed or self._found

    def claim(self, obstacle: Obstacle | None) -> None:
        """Record why another election has the Service; None: no other election has it."""
        if obstacle != self._claimed:
            self._claimed = obstacle
            self._look_at = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether a write had no answer, and may still arrive."""
        return bool(self._doubtful)

    @property
    def may_reach(self) -> bool:
        """Whether a slice holds a pod as last seen, or may hold one after an unanswered write."""
        return self.doubtful or any(map(holds, self._known.values()))

    def forget(self) -> None:
        """Forget the slices that were read, because somebody else may have written since."""
        self._known.clear()
        self._look_at = 0.0

    # Point the Service to the leader

    async def prepare(self, tenure: int) -> None:
        """Read the Service and the slices before a bucket write, unless they are known already.

        Raises:
            ClusterUnreachable: they could not be read.
        """
        if tenure != self._tenure:
            self._tenure = tenure
            self.forget()
        if self._resource.service and (self._look_at == 0.0 or len(self._known) < len(FAMILIES)):
            await self._look()

    async def look(self) -> None:
        """Read the Service and the slices again, if the next look is due.

        Raises:
            ClusterUnreachable: they could not be read.
        """
        if not self._resource.service:
            return
        left = self._look_at - clock.now()
        if left > 0:
            self._wake(left)
        else:
            await self._look()

    async def point(
        self,
        pod: Pod,
        *,
        token: int,
        warrant: Callable[[], Awaitable[int | None]],
        until: Callable[[], float],
    ) -> bool:
        """Let the Service lead to a pod, and to no other pod.

        Args:
            pod: the leader, as last seen.
            token: the token of its term.
            warrant: stores a bucket write and returns the token; None if it was not stored.
            until: returns the time after which nothing may be sent.

        Returns:
            Whether another try is unnecessary. This is also true if there is an obstacle.

        Raises:
            ClusterUnreachable: there was no answer. A slice may be written already, or later.
        """
        with urgent(Rank.CHANGE):
            return await self._point(pod, token=token, warrant=warrant, until=until)

    async def _point(
        self,
        pod: Pod,
        *,
        token: int,
        warrant: Callable[[], Awaitable[int | None]],
        until: Callable[[], float],
    ) -> bool:
        for _ in range(TRIES):
            service = self._service
            if not self.asked_for or service is None:
                return True
            await self._read_missing()
            wanted = {
                family: filled(self._resource, service, family, pod=pod, token=token)
                for family in service.families
            }
            changes = [family for family in FAMILIES if self._differs(family, wanted.get(family))]
            missing = unknown_ports(service, pod)
            if missing:
                ports = ", ".join(missing)
                self.undone = f"pod {pod.name} has no port named {ports}, as the Service wants it"
            elif not any(wanted.values()):
                self.undone = f"pod {pod.name} has no address of the Service's families"
            else:
                self.undone = ""
            if not changes:
                return True
            if await warrant() != token:
                return False
            left = until() - clock.now()
            if left <= 0:
                return False
            try:
                await together(
                    *(self._write(family, wanted.get(family), left) for family in changes)
                )
            except (Conflict, NotFound):
                continue
            except Refused as error:
                self._refused(error)
                return True
            except ClusterError as error:
                self.undone = str(error)
                raise
            log.info("service.routed", namespace=pod.namespace, service=service.name, pod=pod.name)
            return True
        return False

    # Let the Service lead to no pod

    async def may_reach_somebody(self) -> bool:
        """Look, if a look is due, and return whether the Service may lead to a pod.

        Call it while no pod of this site leads.

        Raises:
            ClusterUnreachable: the Service or the slices could not be read.
        """
        await self.look()
        return self.may_reach

    async def empty(self, *, until: float | None = None) -> None:
        """Empty the slices, and return when the API server has confirmed it.

        An empty slice is written, too, so that the API server refuses writes that are still on
        their way. A replica without the right to write slices has nothing to empty.

        Args:
            until: time until which to try. There is always at least one try.

        Raises:
            ClusterUnreachable: it was not confirmed in time. The Service may still lead to a pod.
            Refused: the API server does not allow it, and the Service may lead to a pod.
        """
        if not self.routed:
            return
        until = clock.now() + STRIP_WITHIN if until is None else until
        try:
            with urgent(Rank.STRIP, due=until):
                await together(*(self._empty(family, until) for family in FAMILIES))
        except Refused as error:
            self._refused(error)
            if self.may_reach:
                raise
        except ClusterError as error:
            self.undone = str(error)
            raise

    async def take_back(self) -> None:
        """Delete the slices.

        Raises:
            ClusterUnreachable: the API server did not confirm it.
        """
        if not self.routed:
            return
        if self._doubtful:
            await self.empty()  # otherwise a late write could create a slice again
        try:
            await self._delete_all()
        except Refused as error:
            self._refused(error)
        self._taken_back = not self._resource.service

    # Implementation

    async def _look(self) -> None:
        """Read the Service and the slices again; delete the slices if there is an obstacle."""
        key = self._resource.key
        before, known = self.obstacle, dict(self._known)
        pause = LOOK_EVERY
        self._known.clear()
        try:
            body = await self._cluster.get_service(key.namespace, self._resource.service)
            obstacle = obstacle_from(self._resource, body)
            if obstacle is None:
                others = await self._cluster.list_slices(key.namespace, self._resource.service)
                obstacle = others_from(self._resource, others)
            self._found = obstacle
            self._service = service_from(body) if body and not self._found else None
            await self._read_missing()
            if self.obstacle is not None:
                await self._delete_all()
        except Refused as error:
            self._refused(error)
        except ClusterUnreachable:
            # Keep the last known slices, because an outage of the API server changes no leader.
            self._known = known
            if self._look_at == 0.0 or len(known) < len(FAMILIES):
                raise
            pause = LOOK_SOON
        if self.obstacle not in {None, before}:
            log.warning("service.unusable", namespace=key.namespace, problem=self.obstacle.message)
        pause = LOOK_SOON if self.obstacle is not None else pause
        self._look_at = clock.now() + pause * random.uniform(0.8, 1.0)  # noqa: S311
        self._wake(self._look_at - clock.now())

    def _refused(self, error: Refused) -> None:
        hint = "the chart gives the right with `rbac.endpointSlices`"
        if isinstance(error, Forbidden):
            self._found = Obstacle("PermissionDenied", f"{error}; {hint}")
        else:
            self._found = Obstacle("AdmissionDenied", str(error))
        self.undone = ""

    def _differs(self, family: str, wanted: dict[str, Any] | None) -> bool:
        """Whether a slice must be written to have the wanted content."""
        current = self._known[family]
        if family in self._doubtful:
            return True
        if current is None or wanted is None:
            return wanted is not None or holds(current)
        return not shows(current, wanted)

    async def _empty(self, family: str, until: float) -> None:
        while True:
            try:
                if family not in self._known:
                    await self._read(family, timeout=time_left(until))
                if self._known[family] is None and family not in self._doubtful:
                    return
                await self._write(family, None, time_left(until))
            except (Conflict, NotFound, ClusterUnreachable) as error:
                if clock.now() >= until:
                    name = name_of(self._resource, family)
                    why = str(error) or "no answer"
                    msg = f"EndpointSlice {name} may still lead to the old leader: {why}"
                    raise ClusterUnreachable(msg) from error
                await pause_after(error, until)
            else:
                return

    async def _write(self, family: str, wanted: dict[str, Any] | None, within: float) -> None:
        """Write a slice, if it still is as last seen. If `wanted` is None, empty it.

        Nothing is sent after `within` seconds.

        Raises:
            Conflict: the slice changed, and must be read again.
            NotFound: the slice is gone.
        """
        if family not in self._known:
            msg = "what was read of the slices does not count any more"  # another Service is named
            raise Conflict(msg)
        current, resource, started = self._known.pop(family), self._resource, clock.now()
        until = started + within
        body = emptied(resource, self._service, family) if wanted is None else wanted
        annotations: dict[str, Any] = body["metadata"]["annotations"]
        doubtful = family in self._doubtful
        self._doubtful.add(family)  # stays if this call is cancelled
        try:
            if current is not None and wanted and of_another_service(current, resource):
                await self._cluster.delete_slice(current)
                current = None
            annotations[WRITE] = uuid.uuid4().hex
            change = body
            if wanted is None:
                annotations[resource.token_key] = None
                change = {"metadata": {"annotations": annotations}, "endpoints": []}

            async def send(limit: float) -> dict[str, Any]:
                if current is None:
                    return await self._cluster.create_slice(body, timeout=limit, within=limit)
                return await self._cluster.patch_slice(current, change, timeout=limit, within=limit)

            # The deletion above has used some of the time.
            written = await insist(send, within=until - clock.now())
        except (Conflict, NotFound):
            # If it was sent twice, the first request may have caused the conflict of the second.
            if not doubtful and clock.now() - started < RESEND_AFTER:
                self._doubtful.discard(family)
            raise
        except (Refused, Unsent):
            if not doubtful:
                self._doubtful.discard(family)
            raise
        self._observer.slice_write(clock.now() - started)
        self._known[family] = written
        self._doubtful.discard(family)
        self.undone = ""

    async def _delete_all(self) -> None:
        for _ in range(TRIES):
            await self._read_missing()
            try:
                for family, current in list(self._known.items()):
                    if current is not None:
                        self._known.pop(family, None)
                        await self._cluster.delete_slice(current)
                        self._known[family] = None
            except (Conflict, NotFound):
                continue
            return
        self._wake(LEAST)

    async def _read_missing(self) -> None:
        missing = [family for family in FAMILIES if family not in self._known]
        await together(*map(self._read, missing))

    async def _read(self, family: str, *, timeout: float | None = None) -> None:
        namespace = self._resource.key.namespace
        try:
            async with asyncio.timeout(timeout):
                found = await self._cluster.get_slice(namespace, name_of(self._resource, family))
        except TimeoutError as error:
            msg = "The API server did not answer in time"
            raise ClusterUnreachable(msg) from error
        self._known[family] = found
