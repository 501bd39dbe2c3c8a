"""The errors that callers are meant to tell apart.

::

    IncumbentError
    ├── ConfigurationError       what was asked for cannot work; a person has to change it
    ├── BucketError              about the key-value bucket
    │   ├── BucketNotFound       there is no such bucket
    │   ├── BucketInvalid        the bucket's settings break a limit
    │   ├── BucketUnreachable    NATS did not answer
    │   ├── BucketSilent         it answers, but the watch delivers nothing or no write is stored
    │   └── BucketDenied         NATS refused the permission
    └── ClusterError             about the Kubernetes API
        ├── Conflict             409: the object changed after it was read
        ├── NotFound             404: no such object, or no such kind
        ├── Refused              the API server does not accept this request
        │   ├── Forbidden        401, 403: the service account lacks a right
        │   ├── NotWatched       too few files may be open to watch the namespace
        │   └── AdmissionDenied  a policy, a webhook or a quota refuses it
        └── ClusterUnreachable   no answer, 429 or 5xx: *the request may have been carried out*
            ├── Overloaded       it asks for a pause
            └── Unsent           it was certainly not
                ├── Unconnected  because there is no connection
                └── AdmissionUnavailable  because an admission webhook does not answer

Libraries' errors are translated at the adapters (`nats`, `kubernetes`) and nowhere else. Every
message is one sentence for the person who operates the software.
"""


class IncumbentError(Exception):
    """Anything this package raises on purpose."""


class ConfigurationError(IncumbentError):
    """What was asked for cannot work, and a person has to change it."""


class CampaignInvalid(ConfigurationError):
    """The bucket could hold an election, but not one with the interval that was asked for."""


class BucketError(IncumbentError):
    """Something about the key-value bucket."""


class BucketNotFound(BucketError):
    """There is no such bucket."""


class BucketInvalid(BucketError):
    """The settings of the bucket break a limit."""


class BucketUnreachable(BucketError):
    """NATS did not answer in time; a write may or may not have been stored."""


class BucketSilent(BucketError):
    """NATS answers, but the watch delivers nothing, or no write is stored."""


class NotSent(BucketUnreachable):
    """There is no connection, so the request was certainly not carried out."""


class BucketDenied(BucketError):
    """NATS refused for want of a permission."""


class ClusterError(IncumbentError):
    """Something about the Kubernetes API."""


class Conflict(ClusterError):
    """The object changed after it was read (409)."""


class NotFound(ClusterError):
    """There is no such object, or the API server does not know its kind (404)."""


class Refused(ClusterError):
    """The API server does not accept this request as it is (4xx). Nothing was written."""


class Forbidden(Refused):
    """The user lacks a right (401, 403)."""


class NotWatched(Refused):
    """The pods of the namespace are not watched, because too few files may be open."""


class AdmissionDenied(Refused):
    """An admission policy, an admission webhook or a quota refuses the request.

    The user has the right to make it, and it may be accepted later or for another object.
    """


class ClusterUnreachable(ClusterError):
    """No answer, 429 or 5xx. The request may have been carried out."""


class Overloaded(ClusterUnreachable):
    """The API server asks to wait for `retry_after` seconds (429 or 5xx with Retry-After)."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unsent(ClusterUnreachable):
    """The request was certainly not carried out, for example because its time was over first."""


class Unconnected(Unsent):
    """There is no connection."""


class AdmissionUnavailable(Unsent):
    """The API server could not ask an admission webhook, and so it wrote nothing (500)."""
