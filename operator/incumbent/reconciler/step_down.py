"""A person's request that the present leader steps down: an annotation on the resource.

`incumbent.dev/step-down` names the pod that is to lead next, or is empty. It is about the leader of
the moment: the steward notes that term beside it before it acts, so that the request is carried out
once, whichever replica begins and whichever goes on. A request of a term that has ended is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import STEP_DOWN, STEP_DOWN_TERM, Resource


class StepDown:
    """The request of one election.

    Every method raises a `ClusterError`, also a `Conflict`: then the next pass looks again.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def wanted(self, resource: Resource, term: int) -> str | None:
        """Return who is to lead instead of the leader of this term; empty: anybody; None: nobody.

        A request that has been carried out is removed.
        """
        if resource.step_down is None:
            return None
        # Read, for a watch that lags shows requests that have come to their end.
        body = await self._read(resource)
        annotations = _annotations(body)
        if body is None or STEP_DOWN not in annotations:
            return None
        noted = annotations.get(STEP_DOWN_TERM)
        if noted is None:
            await self._annotate(resource, body, {STEP_DOWN_TERM: str(term)})
        elif noted != str(term):
            await self._remove(resource, body)
            return None
        return annotations[STEP_DOWN]

    async def clear(self, resource: Resource) -> None:
        """Remove the request: it has been carried out, or cannot be."""
        body = await self._read(resource)
        if body is not None and STEP_DOWN in _annotations(body):
            await self._remove(resource, body)

    async def _read(self, resource: Resource) -> Mapping[str, Any] | None:
        body = await self._cluster.get_election(resource.key.namespace, resource.key.name)
        return body if body is not None and body["metadata"]["uid"] == resource.uid else None

    async def _remove(self, resource: Resource, body: Mapping[str, Any]) -> None:
        await self._annotate(resource, body, {STEP_DOWN: None, STEP_DOWN_TERM: None})

    async def _annotate(
        self, resource: Resource, body: Mapping[str, Any], annotations: Mapping[str, str | None]
    ) -> None:
        await self._cluster.annotate_election(
            resource.key.namespace,
            resource.key.name,
            resource_version=body["metadata"]["resourceVersion"],
            annotations=annotations,
        )


def _annotations(body: Mapping[str, Any] | None) -> Mapping[str, str]:
    found: Mapping[str, str] = (body or {}).get("metadata", {}).get("annotations") or {}
    return found
