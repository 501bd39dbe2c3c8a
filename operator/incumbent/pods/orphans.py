"""Labels of elections that were deleted while no operator ran.

An election without a finalizer is gone as soon as somebody deletes it. If no operator sees that,
its label and token stay on the pods. An operator takes them away when it starts.

Other software may use label keys under the prefixes of an administrator, so a label with such a
prefix counts only on a pod that also has the token of an election that does not exist.
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
    """What is left on a pod: the keys of labels and of token annotations."""

    pod: Pod
    labels: tuple[str, ...]
    tokens: tuple[str, ...]


def orphans(
    pods: Collection[Pod], elections: Collection[Mapping[str, Any]], *, prefixes: tuple[str, ...]
) -> list[Orphan]:
    """Return what is left on pods of a namespace of elections that are not among these.

    Args:
        pods: as they were before `elections` were listed.
        elections: all of the namespace.
        prefixes: of label keys that elections may use besides `incumbent.dev`.
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
    """Take labels and tokens of elections that do not exist from the pods of a namespace.

    A pod that has changed since it was listed is left alone, and may be found again.

    Args:
        cluster: where the pods are.
        namespace: theirs.
        elections: lists all elections of the namespace. It is asked after the pods were listed, so
            that an election whose label a pod shows is among them, or gone.
        prefixes: as for `orphans`.

    Returns:
        What was found.

    Raises:
        ClusterError: the API server is away, or does not allow it.
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
