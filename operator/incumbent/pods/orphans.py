"""Labels of elections that were deleted while no operator ran.

An election without a finalizer is gone as soon as somebody deletes it. If no operator sees that,
its label and token stay on the pods. An operator removes them when it starts.

Other software may also use the label prefixes that an administrator allows. Therefore a label with
such a prefix is removed only from a pod that also has the token of an election that does not exist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.errors import Conflict, NotFound
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import GROUP, resource_from
from incumbent.pods.eligibility import LEADER
from incumbent.pods.labels import LONGEST_WRITE

CANDIDATE = "candidate"
TOKEN = ".token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Orphan:
    """A pod with the keys of the labels and token annotations that a deleted election left."""

    pod: Pod
    labels: tuple[str, ...]
    tokens: tuple[str, ...]


def orphans(
    pods: Collection[Pod], elections: Collection[Mapping[str, Any]], *, prefixes: tuple[str, ...]
) -> list[Orphan]:
    """Return the labels and tokens on pods that belong to none of these elections.

    Args:
        pods: the pods of a namespace, listed before `elections`.
        elections: all elections of the namespace.
        prefixes: the prefixes of label keys that elections may use besides `incumbent.dev`.
    """
    resources = [resource_from(body, default_bucket="") for body in elections]
    known = {resource.label_key for resource in resources}
    known |= {resource.token_key for resource in resources}
    found = []
    for pod in pods:
        tokens = tuple(key for key in pod.annotations if _is_token(key) and key not in known)
        ours = (GROUP, *prefixes) if tokens else (GROUP,)
        labels = tuple(
            key
            for key, value in pod.labels.items()
            if value in {LEADER, CANDIDATE} and key not in known and key.partition("/")[0] in ours
        )
        if labels or tokens:
            found.append(Orphan(pod, labels, tokens))
    return found


async def take_back(
    cluster: Cluster,
    namespace: str,
    *,
    elections: Callable[[], Awaitable[Collection[Mapping[str, Any]]]],
    prefixes: tuple[str, ...],
) -> list[Orphan]:
    """Remove labels and tokens of elections that do not exist from the pods of a namespace.

    A pod that has changed since it was listed is left alone. A later call may find it again.

    Args:
        cluster: the cluster of the pods.
        namespace: the namespace of the pods.
        elections: lists all elections of the namespace. It is called after the pods were listed, so
            an election whose label a pod shows is either in the list or gone.
        prefixes: see `orphans`.

    Returns:
        The labels and tokens that were found.

    Raises:
        ClusterError: the API server cannot be reached, or does not allow the change.
    """
    pods = await cluster.list_pods(namespace, "")
    found = orphans(pods, await elections(), prefixes=prefixes)
    for orphan in found:
        try:
            await cluster.patch_pod(
                orphan.pod,
                labels=dict.fromkeys(orphan.labels),
                annotations=dict.fromkeys(orphan.tokens),
                timeout=LONGEST_WRITE,
            )
        except (Conflict, NotFound):
            continue
    return found


def _is_token(key: str) -> bool:
    return key.startswith(f"{GROUP}/") and key.endswith(TOKEN)
