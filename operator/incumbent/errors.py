"""The errors that callers are meant to tell apart.

::

    IncumbentError
    ├── ConfigurationError       what was asked for cannot work; a person has to change it
    ├── BucketError              about the key-value bucket
    │   ├── BucketNotFound       there is no such bucket
    │   ├── BucketInvalid        the bucket's settings break a limit
    │   ├── BucketUnreachable    NATS did not answer
    │   └── BucketDenied         NATS refused the permission
    └── ClusterError             about the Kubernetes API
        ├── Conflict             409: the object changed after it was read
        ├── NotFound             404: no such object, or no such kind
        ├── Refused              the API server will never accept this request
        │   └── Forbidden        403: the service account lacks a right
        └── ClusterUnreachable   no answer, 429 or 5xx: *the request may have been carried out*
            └── Unsent           it was certainly not
                └── Unconnected  for there is no connection

Libraries' errors are translated at the adapters (`bucket`, `cluster`) and nowhere else. Every
message is one sentence for the person who operates the software.
"""


class IncumbentError(Exception):
    """Anything this package raises on purpose."""


class ConfigurationError(IncumbentError):
    """What was asked for cannot work, and a person has to change it."""


class BucketError(IncumbentError):
    """Something about the key-value bucket."""


class BucketNotFound(BucketError):
    """There is no such bucket."""


class BucketInvalid(BucketError):
    """The settings of the bucket break a limit."""


class BucketUnreachable(BucketError):
    """NATS did not answer in time; a write may or may not have been stored."""


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
    """The API server will never accept this request as it is (4xx)."""


class Forbidden(Refused):
    """The user lacks a right (401, 403)."""


class ClusterUnreachable(ClusterError):
    """No answer, 429 or 5xx. The request may have been carried out."""


class Unsent(ClusterUnreachable):
    """The request was certainly not carried out: its time was over before its turn came."""


class Unconnected(Unsent):
    """There is no connection."""
