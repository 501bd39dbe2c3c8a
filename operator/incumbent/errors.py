"""The errors of this package. There is one class for each case that callers distinguish.

::

    IncumbentError
    ├── ConfigurationError       a setting cannot work; a person must change it
    ├── BucketError              about the key-value bucket
    │   ├── BucketNotFound       there is no such bucket
    │   ├── BucketInvalid        the bucket's settings break a limit
    │   ├── BucketUnreachable    NATS did not answer
    │   ├── BucketSilent         NATS answers, but a watch delivers nothing or no write is stored
    │   └── BucketDenied         NATS refused the permission
    └── ClusterError             about the Kubernetes API
        ├── Conflict             409: the object changed after it was read
        ├── NotFound             404: no such object, or no such kind
        ├── Refused              the API server does not accept this request
        │   ├── Forbidden        401, 403: the service account lacks a right
        │   ├── NotWatched       too few files may be open to watch the namespace
        │   └── AdmissionDenied  a policy, a webhook or a quota refuses it
        └── ClusterUnreachable   no answer, 429 or 5xx: *the request may have been carried out*
            ├── Overloaded       the API server asks for a pause
            └── Unsent           the request was certainly not carried out
                ├── Unconnected  because there is no connection
                └── AdmissionUnavailable  because an admission webhook does not answer

The adapters (`nats`, `kubernetes`) translate the errors of libraries into these errors. No other
code does that. Every message is one sentence for the person who operates the software.
"""


class IncumbentError(Exception):
    """The base of all errors that this package raises on purpose."""


class ConfigurationError(IncumbentError):
    """A setting cannot work, and a person must change it."""


class CampaignInvalid(ConfigurationError):
    """The bucket can hold elections, but not with the interval or splay that this one asks for."""


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
    """NATS refused the request, because our user lacks the permission."""


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
    """The operator cannot watch the namespace's pods, because it may open too few files."""


class AdmissionDenied(Refused):
    """An admission policy, an admission webhook or a quota refuses the request.

    The user has the right to send it. The API server may accept it later, or for another object.
    """


class ClusterUnreachable(ClusterError):
    """There was no answer, or 429 or 5xx. The request may have been carried out."""


class Overloaded(ClusterUnreachable):
    """The API server asks us to wait for `retry_after` seconds (429 or 5xx with Retry-After)."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unsent(ClusterUnreachable):
    """The request was certainly not carried out, for example because it timed out in our queue."""


class Unconnected(Unsent):
    """There is no connection to the API server, so the request was not sent."""


class AdmissionUnavailable(Unsent):
    """The API server could not ask an admission webhook, so it wrote nothing (500)."""
