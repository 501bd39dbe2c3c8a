"""What is known about an election when its status is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.campaign.records import BucketInfo, Record, State
from incumbent.campaign.succession import Settlement
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    CampaignInvalid,
    ClusterError,
    ConfigurationError,
    Forbidden,
    NotWatched,
)
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource
from incumbent.routing.endpoint_slices import Obstacle


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an election cannot work as asked."""

    reason: str
    """The reason of the conditions that say so."""
    message: str
    of_bucket: bool = True
    """Whether it is about the bucket, and not about the resource or the cluster."""
    bars: bool = False
    """Whether the election is not served: nothing of its lock is read, shown or written."""
    owns_label: bool = True
    """Whether the labels by its label key are its own, and not another election's."""

    @property
    def stalls(self) -> bool:
        """Whether a person has to act; an unreachable bucket comes back by itself."""
        return self.reason != "BucketUnreachable"


def problem_from(error: BucketError | ConfigurationError | ClusterError) -> Problem:
    """Name the condition reason of an error."""
    match error:
        case BucketNotFound():
            return Problem("BucketNotFound", str(error))
        case BucketDenied():
            return Problem("PermissionDenied", str(error))
        case CampaignInvalid():
            return Problem("CampaignInvalid", str(error), of_bucket=False)
        case BucketInvalid() | ConfigurationError():
            return Problem("BucketInvalid", str(error))
        case BucketSilent():
            return Problem("BucketSilent", str(error))
        case BucketError():
            return Problem("BucketUnreachable", str(error))
        case Forbidden():
            return Problem("PermissionDenied", str(error), of_bucket=False)
        case NotWatched():
            return Problem("NotWatched", str(error), of_bucket=False)
    return Problem("AdmissionDenied", str(error), of_bucket=False)


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a status is made of."""

    resource: Resource
    site: str
    state: State
    seen: bool
    """Whether the key and the pods have been seen since the start."""
    record: Record | None
    """The live record, whoever wrote it."""
    ours: bool
    """Whether that is a record of this site."""
    leader: Pod | None
    """The pod that carries the leader label by right."""
    total: int
    """Pods that the selector matches."""
    ready: int
    """Candidates among them."""
    steward: str
    """The replica that renewed last, if this site holds the record."""
    bucket: BucketInfo | None
    problem: Problem | None
    unlabelled: str
    """Why the labels are not as they should be; empty if they are."""
    unrecognised: str = ""
    """In the mode `Observed`, why the holder means none of our pods; empty if it means one."""
    patch_seconds: float = 0.0
    """Seconds that the API server took for the last patches of pods."""
    strip_late: bool = False
    """Whether a label cannot be taken away between the deadline and the TTL because of that."""
    routed: str = ""
    """The Service that may have slices of this election; empty for none."""
    obstacle: Obstacle | None = None
    """Why that Service cannot be used."""
    unrouted: str = ""
    """Why its slices are not as they should be; empty if they are."""
    pods_seen: bool = True
    """Whether the pods have been seen since the start, whatever is known of the key."""
    stripped: bool = False
    """Whether the label was taken away although the key was not seen."""
    answers: Mapping[str, Any] | None = None
    """The question in the status that this replica has answered, see `confirmation`."""
    process: str = ""
    """What tells the steward from an earlier process of its name."""
    revision: int = 0
    """The latest revision of the key that was seen; 0 if the key was empty then."""
    contested: str = ""
    """Why the labels do not stay as they should be; empty if they do."""
    waits: Settlement | None = None
    """What the holder of our record, or the next candidate, waits for."""
    waits_until: str = ""
    """The end of that wait, RFC 3339."""

    @property
    def barred(self) -> bool:
        """Whether the election is not served."""
        return self.problem is not None and self.problem.bars
