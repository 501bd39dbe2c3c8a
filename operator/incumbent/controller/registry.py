"""Which elections there are, and who serves them.

Two elections must not share a key of the bucket, nor a label key in one namespace: the younger of
the two is blocked until the older is gone, whichever of them was seen first. Neither may they share
a Service in `routing`, but without it the younger goes on. Which pods they select
does not matter for a label key, for leader labels are looked for by the key alone.

An election may also be barred: it asks for a lock that its namespace may not use (`locks`), or its
namespace has too many elections (`quota`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from incumbent.campaigner.campaigner import Campaigner
from incumbent.controller.locks import Locks
from incumbent.controller.quota import Quota
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import FINALIZER, GROUP, Resource, resource_from
from incumbent.kubernetes.versions import number_of
from incumbent.reconciler.teardown import Ending
from incumbent.routing.endpoint_slices import Obstacle
from incumbent.server.changelog import ChangeLog
from incumbent.status.situation import Problem

HELD_WITHIN = 10.0
"""Seconds for which a new election waits for its finalizer, at most. If the API server refuses the
finalizer, the election is served without it after this time."""

Claim = tuple[str, str, str]
"""Something that only one election may have: its kind, its place, and its key."""


class Registry:
    """The elections of this process.

    Args:
        make: makes the campaigner of an election.
        default_bucket: for elections that name none.
        allowed_locks: rules for locks that elections may use besides their own, see `locks`.
        label_prefixes: under which a label key may be, beside `incumbent.dev`.
        most_per_namespace: elections of one namespace that are served; 0: all.
        gets_finalizer: says whether the elections of a namespace get our finalizer; None: none do.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any], Resource], Campaigner],
        *,
        default_bucket: str,
        allowed_locks: Iterable[str] = (),
        label_prefixes: tuple[str, ...] = (),
        most_per_namespace: int = 0,
        gets_finalizer: Callable[[str], bool] | None = None,
    ) -> None:
        self.campaigners: dict[ElectionKey, Campaigner] = {}
        self.version = 0
        """Grows with every change of what `elections` returns, but for the time that is left."""
        self.turnover = 0
        """How many elections have begun and ended so far."""
        self._awaited: set[ElectionKey] | None = None
        """Elections that exist and are not served yet; None: it is not known which exist."""
        self._unseen: set[ElectionKey] | None = None
        """Elections that existed at the start and were not seen yet; None: it is not known which
        exist."""
        self._all_seen = asyncio.Event()
        self._news = asyncio.Event()
        self._changes: ChangeLog[ElectionKey] = ChangeLog()
        self._unheld: dict[str, asyncio.Future[bool]] = {}
        """By UID, the elections that wait for their finalizer. The result says whether the election
        has its finalizer; if not, the election is gone."""
        self._make = make
        self._gets_finalizer = gets_finalizer
        self._locks = Locks(default_bucket, allowed_locks)
        self._quota = Quota(most_per_namespace)
        self._prefixes = (GROUP, *label_prefixes)
        self._resources: dict[ElectionKey, Resource] = {}
        self._ages: dict[ElectionKey, tuple[str, int]] = {}
        """When each was created, and in which version it was seen last."""
        self._claims: dict[Claim, set[ElectionKey]] = {}

    def elections(self) -> list[Mapping[str, Any]]:
        """Return what can be told about each election at this moment."""
        return [self.campaigners[key].view.row() for key in sorted(self.campaigners)]

    def names(self) -> Sequence[tuple[str, str]]:
        """Return namespace and name of each election that is served."""
        return [(key.namespace, key.name) for key in self.campaigners]

    def changes(self, since: int) -> Sequence[tuple[str, str]] | None:
        """Return which elections changed, began or ended after a version; None: nobody knows."""
        found = self._changes.since(since)
        return None if found is None else [(key.namespace, key.name) for key in found]

    def deadline(self, namespace: str, name: str) -> float | None:
        """Return when the lease of an election ends by now; None: it has none, or is not served."""
        campaigner = self.campaigners.get(ElectionKey(namespace, name))
        return campaigner.view.deadline if campaigner is not None else None

    def election(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return what can be told about one election; None if it is not served here."""
        campaigner = self.campaigners.get(ElectionKey(namespace, name))
        return campaigner.view.row() if campaigner is not None else None

    def pending(self, namespace: str = "", name: str = "") -> bool:
        """Whether nobody can say that there is no such election: the process starts, or ends.

        Without a name: whether `elections` may lack some.
        """
        if self._awaited is None:
            return True
        return ElectionKey(namespace, name) in self._awaited if name else bool(self._awaited)

    def expect(self, keys: Iterable[ElectionKey]) -> None:
        """Record which elections exist; one that is not served yet is served or gone later."""
        existing = set(keys)
        known = existing if self._awaited is None else self._awaited & existing
        self._awaited = known - self.campaigners.keys()
        unseen = existing if self._unseen is None else self._unseen & existing
        self._unseen = unseen - self._resources.keys()
        self._note_all_seen()
        self.touch()

    def close(self) -> None:
        """Say of no election any more that there is none: this process ends, and serves fewer."""
        self._awaited = None
        self.touch()

    async def history(self, namespace: str, name: str, *, limit: int) -> Mapping[str, Any] | None:
        """Return the latest terms of one election; None if it is not served here."""
        campaigner = self.campaigners.get(ElectionKey(namespace, name))
        return await campaigner.view.history(limit=limit) if campaigner is not None else None

    async def changed(self, since: int) -> None:
        """Return as soon as `version` is not `since`."""
        while self.version == since:
            await self._news.wait()

    def touch(self, key: ElectionKey | None = None) -> None:
        """Wake all who wait for a change of this election."""
        self.version += 1
        if key is not None:
            self._changes.note(key, self.version)
            self._changes.trim(self.campaigners, self.version)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def look(self, body: Mapping[str, Any], *, listed: bool = False) -> Resource:
        """Record a resource as it is now; an earlier resource of its name is gone.

        An older one is ignored, unless it was `listed` after an interruption.
        """
        resource = resource_from(body, default_bucket=self._locks.bucket)
        if not listed and self._outlived(body):
            return resource
        known = self._resources.get(resource.key)
        self._enter(resource.key, resource)
        if self._unseen:
            self._unseen.discard(resource.key)
            self._note_all_seen()
        self._ages[resource.key] = _age(body)
        if known is not None and known.uid != resource.uid:
            self._end(known.key, known.uid)
        campaigner = self._campaigner_of(resource)
        if campaigner is not None:
            campaigner.update(body, resource, listed=listed)
            self.touch(resource.key)
        if _is_held(body):
            self._end_wait(resource.uid, held=True)
        return resource

    def forget_body(self, body: Mapping[str, Any]) -> None:
        """Record that this resource is gone; a later resource of its name stays."""
        self._forget(_key(body), body["metadata"]["uid"])

    async def look_again(
        self, namespace: str | None, pages: AsyncIterable[Iterable[Mapping[str, Any]]]
    ) -> bool:
        """Take in which elections there are, after an interruption of the watch.

        What is not there is gone. What is there counts whatever its version: where etcd was
        restored from a backup, the versions went back.

        Args:
            namespace: of which all elections are listed; None: of all namespaces.
            pages: of a consistent list. It begins after this is called, and no watch goes on.

        Returns:
            Whether elections began, ended or are to be deleted, as far as was not known yet.
        """
        missing = {
            key: resource.uid
            for key, resource in self._resources.items()
            if namespace in {None, key.namespace}
        }
        news = False
        async for bodies in pages:
            for body in bodies:
                known = self._resources.get(_key(body))
                resource = self.look(body, listed=True)
                if known is None or (known.uid, known.deleting) != (
                    resource.uid,
                    resource.deleting,
                ):
                    news = True
                missing.pop(resource.key, None)
        for key, uid in missing.items():
            self._forget(key, uid)
        return news or bool(missing)

    async def serve(
        self,
        body: Mapping[str, Any],
        stopped: Awaitable[object],
        *,
        ending: Callable[[], Ending | None],
    ) -> None:
        """Serve one election until `stopped`, and then end it as `ending` says.

        If `ending` returns None, the work stops and nothing is taken back. An election that is gone
        without having been deleted in order, by hand or by a restored etcd, is retired.
        """
        stop = asyncio.ensure_future(stopped)
        try:
            campaigner = await self._begin(body, stop)
            del body  # it would stay in memory as it was at first
            if campaigner is not None:
                await self._serve(campaigner, stop, ending)
        finally:
            stop.cancel()

    async def _serve(
        self, campaigner: Campaigner, stop: asyncio.Future[Any], ending: Callable[[], Ending | None]
    ) -> None:
        work = asyncio.create_task(campaigner.run(), name=f"election {campaigner.key}")
        tasks: list[asyncio.Future[Any]] = [work, stop, campaigner.gone]
        try:
            await _first_of(tasks)
            how = Ending.RETIRE if campaigner.gone.done() else ending()
            if how is not None:
                end = {
                    Ending.RETIRE: campaigner.retire,
                    Ending.LEAVE: campaigner.leave,
                    Ending.RESIGN: campaigner.resign,
                }[how]
                tasks.append(asyncio.create_task(end(), name=f"end of election {campaigner.key}"))
                await _first_of([work, tasks[-1]])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.campaigners.get(campaigner.key) is campaigner:
                del self.campaigners[campaigner.key]
            self.turnover += 1
            self.touch(campaigner.key)

    async def _begin(self, body: Mapping[str, Any], stop: asyncio.Future[Any]) -> Campaigner | None:
        """Enlist an election as soon as an earlier one of its name has ended; None: too late.

        To NATS both would be one member, and each would take the records of the other for its own.
        """
        if not await self._until_held(body, stop):
            return None
        while True:
            latest = {name: body[name] for name in body}  # a view of kopf's goes on changing
            resource = self.look(latest)
            if self._outlived(latest) or stop.done():
                return None
            if self._may_be_too_many(resource):
                await self._until_all_seen(stop)
                continue
            earlier = self.campaigners.get(resource.key)
            if earlier is None or earlier.resource.uid == resource.uid:
                return self._enlist(latest, resource)
            change = asyncio.ensure_future(self.changed(self.version))
            try:
                await asyncio.wait({stop, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()

    async def _until_held(self, body: Mapping[str, Any], stop: asyncio.Future[Any]) -> bool:
        """Wait until a new election has its finalizer; return whether the election is still there.

        Without a finalizer, an election can be deleted as fast as it is created. kopf reports such
        a deletion only when the API server has answered kopf's request for the finalizer. Meanwhile
        the election would take memory and requests, which would delay that answer.
        """
        latest = {name: body[name] for name in body}
        resource = self.look(latest)
        wanted = self._gets_finalizer is not None and self._gets_finalizer(resource.key.namespace)
        if not wanted or resource.site or _is_held(latest):
            return True
        held = asyncio.get_running_loop().create_future()
        self._unheld[resource.uid] = held
        try:
            await asyncio.wait(
                {stop, held}, timeout=HELD_WITHIN, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            del self._unheld[resource.uid]
        return held.result() if held.done() else not stop.done()

    def _end_wait(self, uid: str, *, held: bool) -> None:
        """Let an election begin that waits for its finalizer, or give it up because it is gone."""
        wait = self._unheld.get(uid)
        if wait is not None and not wait.done():
            wait.set_result(held)

    def _may_be_too_many(self, resource: Resource) -> bool:
        """Whether it is not known yet if an election is within its quota.

        After a start the elections are seen one by one. One that was served before is not held up,
        because somebody may lead by it.
        """
        return bool(self._quota.most) and not (resource.site or self._all_seen.is_set())

    async def _until_all_seen(self, stop: asyncio.Future[Any]) -> None:
        """Wait until all elections are known that existed at the start."""
        seen = asyncio.ensure_future(self._all_seen.wait())
        try:
            await asyncio.wait({stop, seen}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            seen.cancel()

    def _note_all_seen(self) -> None:
        if self._unseen is not None and not self._unseen:
            self._all_seen.set()

    def _enlist(self, body: Mapping[str, Any], resource: Resource) -> Campaigner:
        campaigner = self._make(body, resource)
        self._judge(campaigner, resource)
        self.campaigners[resource.key] = campaigner
        if self._awaited is not None:
            self._awaited.discard(resource.key)
        self.turnover += 1
        self.touch(resource.key)
        return campaigner

    def _enter(self, key: ElectionKey, resource: Resource | None) -> None:
        """Replace the known resource of this name, and decide again."""
        before = self._resources.pop(key, None)
        old, new = (self._claimed(known) if known else () for known in (before, resource))
        for claim in old:
            self._claims[claim].remove(key)
        for claim in new:
            self._claims.setdefault(claim, set()).add(key)
        if resource is not None:
            self._resources[key] = resource
        rivals = {rival for claim in (*old, *new) for rival in self._claims[claim]}
        for claim in old:
            if not self._claims[claim]:
                del self._claims[claim]
        rivals |= self._quota.enter(key, resource)
        for rival in rivals:
            campaigner = self._campaigner_of(self._resources[rival])
            if campaigner is not None:
                self._judge(campaigner, self._resources[rival])

    def _outlived(self, body: Mapping[str, Any]) -> bool:
        """Whether a resource is gone, because a later resource of its name has been seen."""
        key = _key(body)
        known = self._resources.get(key)
        other = known is not None and known.uid != body["metadata"]["uid"]
        return other and self._ages[key] > _age(body)

    def _forget(self, key: ElectionKey, uid: str) -> None:
        """Record that a resource is gone; another resource of its name stays."""
        resource = self._resources.get(key)
        if resource is not None and resource.uid == uid:
            self._enter(key, None)
            del self._ages[key]
        self._end(key, uid)

    def _end(self, key: ElectionKey, uid: str) -> None:
        """Tell the campaigner of a resource that is gone to take everything back."""
        self._end_wait(uid, held=False)
        campaigner = self.campaigners.get(key)
        if campaigner is None or campaigner.resource.uid != uid or campaigner.gone.done():
            return
        campaigner.gone.set_result(None)

    def _judge(self, campaigner: Campaigner, resource: Resource) -> None:
        """Tell the campaigner of a resource what keeps it from working."""
        self._quota.begin(resource)
        campaigner.block(self._problem(resource))
        campaigner.refuse_service(self._obstacle(resource))

    def _campaigner_of(self, resource: Resource) -> Campaigner | None:
        """Return who serves this very resource, not an earlier one of its name."""
        campaigner = self.campaigners.get(resource.key)
        return campaigner if campaigner and campaigner.resource.uid == resource.uid else None

    def _problem(self, resource: Resource) -> Problem | None:
        """Say why an election may not go on, and whether it may touch the labels by its key."""
        label = self._label_problem(resource)
        owns_label = label is None
        if refusal := self._locks.refusal(
            resource.key.namespace, resource.bucket, resource.record_key
        ):
            return Problem(
                "LockNotAllowed", refusal, of_bucket=False, bars=True, owns_label=owns_label
            )
        if refusal := self._quota.refusal(resource):
            return Problem(
                "QuotaExceeded", refusal, of_bucket=False, bars=True, owns_label=owns_label
            )
        older = self._older(resource, _record_claim(resource))
        if older is not None:
            message = (
                f"election {older} already uses key {resource.record_key} of bucket"
                f" {resource.bucket}: delete one of the two, and give it another key"
            )
            return Problem("KeyInUse", message, of_bucket=False, owns_label=owns_label)
        return label

    def _label_problem(self, resource: Resource) -> Problem | None:
        """Say why an election may not use its label key."""
        prefix = resource.label_key.partition("/")[0]
        if prefix not in self._prefixes:
            message = (
                f"label key {resource.label_key} is not under {GROUP}/; to allow it, start the"
                f" operator with --label-prefix {prefix}"
            )
            return Problem("PermissionDenied", message, of_bucket=False, owns_label=False)
        older = self._older(resource, _label_claim(resource))
        if older is not None:
            message = (
                f"election {older} already uses label key {resource.label_key}: delete one of the"
                " two, and give it another label key"
            )
            return Problem("LabelKeyInUse", message, of_bucket=False, owns_label=False)
        return None

    def _obstacle(self, resource: Resource) -> Obstacle | None:
        """Say which other election has the Service; the labels do not depend on it."""
        older = self._older(resource, _service_claim(resource)) if resource.service else None
        if older is None:
            return None
        message = (
            f"election {older} already routes Service {resource.service}: give one of the two"
            " another Service"
        )
        return Obstacle("ServiceInUse", message)

    def _claimed(self, resource: Resource) -> list[Claim]:
        """Return what an election may have only for itself.

        That is no key which its namespace may not use: it would block the one that may.
        """
        claims = [_label_claim(resource)]
        if self._locks.allow(resource.key.namespace, resource.bucket, resource.record_key):
            claims.append(_record_claim(resource))
        if resource.service:
            claims.append(_service_claim(resource))
        return claims

    def _older(self, resource: Resource, claim: Claim) -> ElectionKey | None:
        """Return the oldest election with this claim, if that is not the given one."""
        rivals = (self._resources[key] for key in self._claims[claim])
        oldest = min(rivals, key=lambda rival: (rival.created, rival.uid))
        return oldest.key if oldest.key != resource.key else None


def _is_held(body: Mapping[str, Any]) -> bool:
    """Whether an election stays until the operator removes its finalizer."""
    return FINALIZER in (body["metadata"].get("finalizers") or ())


def _key(body: Mapping[str, Any]) -> ElectionKey:
    return ElectionKey(body["metadata"]["namespace"], body["metadata"]["name"])


def _age(body: Mapping[str, Any]) -> tuple[str, int]:
    """Return what is greater of the later one of two resources of the same name.

    Versions can be compared, but not across a restored etcd; times of creation are whole seconds.
    """
    version = body["metadata"].get("resourceVersion", "")
    created = body["metadata"].get("creationTimestamp", "")
    return created, number_of(version)


def _record_claim(resource: Resource) -> Claim:
    return "record", resource.bucket, resource.record_key


def _label_claim(resource: Resource) -> Claim:
    return "label", resource.key.namespace, resource.label_key


def _service_claim(resource: Resource) -> Claim:
    return "service", resource.key.namespace, resource.service


async def _first_of(tasks: list[asyncio.Future[Any]]) -> None:
    """Wait until one of these has ended, and raise if one has failed."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
