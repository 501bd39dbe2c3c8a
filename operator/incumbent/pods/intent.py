"""The annotation of an observed election that names the pod which is about to be labelled.

If members campaign by themselves, the operator writes nothing to the bucket, so no bucket write can
prove that a replica is up to date. This annotation is used instead. A replica changes it only if
the election still has the resourceVersion that the replica read, so all replicas see its values in
one order. Before a replica sends a label:

1. It reads the pod. The label write will expect this resourceVersion.
2. It reads the annotation. If it names another pod, the replica strips that pod and waits until the
   API server confirms the strip.
3. It writes the annotation with a new value, even if the annotation names the pod already.

Therefore a label write that is still on its way to the previous pod is refused: either it expects
an older state of that pod, or its sender finds that the annotation has changed.
`tests/model/observed.py` searches all orders. If any of the steps is left out, it finds an order
that ends with two labelled pods.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from incumbent.errors import Conflict, NotFound
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import LABELLING, Resource

TRIES = 5
"""How often a write starts over because somebody else changed the resource."""


class Intent:
    """The annotation of one election.

    Every method raises a `ClusterError`.

    Args:
        cluster: the cluster of the election.
        strip: strips a pod and returns when the API server has confirmed it.
        strip_all_but: strips all selected pods but one, and returns when that is confirmed.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        strip: Callable[[Pod], Awaitable[None]],
        strip_all_but: Callable[[Pod], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        self._strip = strip
        self._strip_all_but = strip_all_but

    async def announce(self, resource: Resource, pod: Pod) -> None:
        """Make sure that no other pod may get the label, then name this pod in the annotation.

        Raises:
            Conflict: somebody else changed the resource again and again.
            NotFound: the election is gone.
        """
        key = resource.key
        for _ in range(TRIES):
            body = await self._cluster.get_election(key.namespace, key.name)
            if body is None or body["metadata"]["uid"] != resource.uid:
                msg = f"There is no election {key} any more"
                raise NotFound(msg)
            before = (body["metadata"].get("annotations") or {}).get(LABELLING)
            if before is None and _has_led(body):
                await self._strip_all_but(pod)  # somebody removed the annotation
            elif before is not None and before.split("/")[0] != pod.uid:
                uid, _, rest = before.partition("/")
                name = rest.partition("/")[0]
                await self._strip(Pod(key.namespace, name, uid, resource_version=""))
            try:
                await self._cluster.annotate_election(
                    key.namespace,
                    key.name,
                    resource_version=body["metadata"]["resourceVersion"],
                    annotations={LABELLING: f"{pod.uid}/{pod.name}/{uuid.uuid4().hex[:8]}"},
                )
            except Conflict:
                continue
            return
        msg = f"Election {key} changed each time that a label was announced"
        raise Conflict(msg)


def _has_led(body: Mapping[str, Any]) -> bool:
    """Whether a pod of an election may have had the label before."""
    return bool((body.get("status") or {}).get("transitions"))
