"""Which elections there are, and who serves them.

Two elections must not share a key of the bucket, nor a label key in one namespace: the younger of
the two is blocked until the older is gone, whichever of them was seen first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from incumbent.campaigner import Campaigner
from incumbent.model import ElectionKey
from incumbent.resource import GROUP, Resource, resource_from
from incumbent.status import Problem


class Roster:
    """The elections of this process.

    Args:
        make: makes the campaigner of an election.
        default_bucket: for elections that name none.
        label_prefixes: under which a label key may be, beside `incumbent.dev`.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any], Resource], Campaigner],
        *,
        default_bucket: str,
        label_prefixes: tuple[str, ...] = (),
    ) -> None:
        self.campaigners: dict[ElectionKey, Campaigner] = {}
        self.version = 0
        """Grows with every change of what `elections` returns, but for the time that is left."""
        self._news = asyncio.Event()
        self._make = make
        self._default_bucket = default_bucket
        self._prefixes = (GROUP, *label_prefixes)
        self._resources: dict[ElectionKey, Resource] = {}
        self._claims: dict[tuple[str, ...], set[ElectionKey]] = {}

    def elections(self) -> list[Mapping[str, Any]]:
        """Return what can be told about each election at this moment."""
        return [self.campaigners[key].view() for key in sorted(self.campaigners)]

    def election(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return what can be told about one election; None if it is not served here."""
        campaigner = self.campaigners.get(ElectionKey(namespace, name))
        return campaigner.view() if campaigner is not None else None

    async def changed(self, since: int) -> None:
        """Return as soon as `version` is not `since`."""
        while self.version == since:
            await self._news.wait()

    def touch(self) -> None:
        """Tell whoever waits for a change."""
        self.version += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def look(self, body: Mapping[str, Any]) -> Resource:
        """Take in a resource as it is now."""
        resource = resource_from(body, default_bucket=self._default_bucket)
        before = self._resources.get(resource.key)
        if before is not None and before.uid != resource.uid:
            self.forget(resource.key)
        self._resources[resource.key] = resource
        for claim in _claims(resource):
            self._claims.setdefault(claim, set()).add(resource.key)
        campaigner = self.campaigners.get(resource.key)
        if campaigner is not None and campaigner.resource.uid == resource.uid:
            campaigner.update(body, resource)
        self._judge(resource)
        return resource

    def forget(self, key: ElectionKey) -> None:
        """Take in that a resource is gone."""
        resource = self._resources.pop(key, None)
        if resource is None:
            return
        for claim in _claims(resource):
            self._claims.get(claim, set()).discard(key)
            if not self._claims.get(claim):
                self._claims.pop(claim, None)
        self._judge(resource)

    def forget_body(self, body: Mapping[str, Any]) -> None:
        """Take in that this very resource is gone, not another one of its name."""
        key = ElectionKey(body["metadata"]["namespace"], body["metadata"]["name"])
        resource = self._resources.get(key)
        if resource is not None and resource.uid == body["metadata"]["uid"]:
            self.forget(key)

    async def serve(
        self, body: Mapping[str, Any], stopped: Awaitable[object], *, ending: Callable[[], str]
    ) -> None:
        """Serve one election until `stopped`, and then end it as `ending` says.

        `ending` returns `retire` (the resource was deleted: take everything back), `leave` (this
        process ends, others go on), `resign` (it ends, and nobody goes on) or nothing.
        """
        resource = self.look(body)
        campaigner = self._make(body, resource)
        campaigner.block(self._problem(resource))
        self.campaigners[resource.key] = campaigner
        self.touch()
        work = asyncio.create_task(campaigner.run(), name=f"election {resource.key}")
        stop = asyncio.ensure_future(stopped)
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            match ending():
                case "retire":
                    await campaigner.retire()
                case "leave":
                    await campaigner.leave()
                case "resign":
                    await campaigner.resign()
        finally:
            for task in (work, stop):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(work, stop, return_exceptions=True)
            if self.campaigners.get(resource.key) is campaigner:
                del self.campaigners[resource.key]
            self.touch()

    def _judge(self, resource: Resource) -> None:
        """Decide anew about everybody who claims what this resource claims."""
        for claim in _claims(resource):
            for key in self._claims.get(claim, ()):
                campaigner = self.campaigners.get(key)
                if campaigner is not None:
                    campaigner.block(self._problem(self._resources[key]))

    def _problem(self, resource: Resource) -> Problem | None:
        prefix = resource.label_key.partition("/")[0]
        if prefix not in self._prefixes:
            message = (
                f"label key {resource.label_key} is not under {GROUP}/; to allow it, start the"
                f" operator with --label-prefix {prefix}"
            )
            return Problem("PermissionDenied", message)
        record, label = _claims(resource)
        older = self._older(resource, record)
        if older is not None:
            message = f"election {older} already uses key {resource.record_key} of this bucket"
            return Problem("KeyInUse", message)
        older = self._older(resource, label)
        if older is not None:
            message = f"election {older} already uses label key {resource.label_key}"
            return Problem("LabelKeyInUse", message)
        return None

    def _older(self, resource: Resource, claim: tuple[str, ...]) -> ElectionKey | None:
        """Return the oldest election with this claim, if that is not the given one."""
        rivals = (self._resources[key] for key in self._claims.get(claim, ()))
        oldest = min(rivals, key=lambda r: (r.created, r.uid), default=resource)
        return oldest.key if oldest.key != resource.key else None


def _claims(resource: Resource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        ("record", resource.bucket, resource.record_key),
        ("label", resource.key.namespace, resource.label_key),
    )
