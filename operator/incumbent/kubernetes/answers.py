"""The meaning of an API server's answers, and of failures on the way to it and back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterError,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Overloaded,
    Refused,
    Unconnected,
)

CLIENT_ERRORS = range(400, 500)
UNAUTHORIZED = 401

LACKS_RIGHT = re.compile(r'(\S+ ("[^"]*" )?is )?forbidden: User "')
"""How the message of an API server's 403 begins if an authorizer (RBAC, a cloud's IAM) refused.
The other fields of `Status` equal those of a 403 of an admission plugin (`forbiddenMessage` in
apiserver/pkg/endpoints/handlers/responsewriters/errors.go)."""

DENIED = re.compile(
    r'admission webhook "[^"]*" denied the request'
    r'|\S+ ("[^"]*" )?is forbidden: (?!User ")'
)
"""How the message begins if an admission plugin refused. Policies and webhooks choose the status
code themselves (401, 404, 409, 429 or 500, for example), so the code says nothing (`ToStatusErr` in
apiserver/pkg/admission/plugin/webhook/errors/statuserror.go)."""

UNASKED = re.compile(r'Internal error occurred: failed calling webhook "')
"""How the message of a 500 begins if a webhook with `failurePolicy: Fail` did not answer. Admission
comes before the write, so nothing was written (`errCallingWebhook` in the same package)."""


class Expired(ClusterUnreachable):
    """The API server no longer has the resourceVersion to continue from (410): list again."""


class Interrupted(ClusterUnreachable):
    """A watch broke off. Another API server may answer the next request: list again."""


class UnknownKind(NotFound):
    """The API server serves nothing at this path: the kind is not installed."""


@contextlib.contextmanager
def translated(request: str) -> Iterator[None]:
    """Turn each failure on the way to the API server and back into `ClusterUnreachable`."""
    try:
        yield
    except TimeoutError as error:
        msg = f"The API server did not answer in time: {request}"
        raise ClusterUnreachable(msg) from error
    except aiohttp.ClientConnectorError as error:
        msg = f"The API server cannot be reached: {request}: {error}"
        raise Unconnected(msg) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        msg = f"The API server gave no answer that counts: {request}: {error}"
        raise ClusterUnreachable(msg) from error


def retry_after_in(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds an answer asks the client to wait; None if it does not ask."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def status_from(content: bytes) -> dict[str, Any]:
    """Return the `Status` that explains a refusal, or other content's beginning as a message."""
    with contextlib.suppress(ValueError):
        status = json.loads(content)
        if isinstance(status, dict):
            return status
    return {"message": content[:200].decode(errors="replace").strip()}


def error_for(
    code: int, status: Mapping[str, Any], *, request: str, retry_after: float | None = None
) -> ClusterError:
    """Return the error for an answer's HTTP status code.

    The text of the message decides only whether admission refused, because no other field of a
    `Status` tells this.
    """
    text = str(status.get("message") or "no reason given")
    message = f"{text} ({code}, {request})"
    explained = status.get("kind") == "Status"  # by an API server, not by a proxy
    if explained and (error := _admission_error(code, text, message)) is not None:
        return error
    match code:
        case 401:
            return Forbidden(f"The API server does not accept the credentials: {message}")
        case 403:
            return Forbidden(f"A right is missing: {message}")
        case 404 if "details" not in status:
            # The Status for a missing object has details, the Status for a missing kind has not.
            return UnknownKind(
                f"The API server serves no such path: {message}; is it the right one, and is the "
                "CustomResourceDefinition of LeaderElection installed?"
            )
        case 404:
            return NotFound(f"There is no such object: {message}")
        case 409:
            return Conflict(f"The object changed in the meantime: {message}")
        case 410:
            return Expired(f"The resourceVersion is too old: {message}")
        case _ if code in CLIENT_ERRORS and code not in {408, 429}:
            return Refused(f"The API server refuses this for good: {message}")
        case _ if retry_after is not None:
            return Overloaded(f"The API server asks to wait: {message}", retry_after)
        case _:
            return ClusterUnreachable(f"The API server failed: {message}")


def _admission_error(code: int, text: str, message: str) -> ClusterError | None:
    """Return the error if admission refused a request, or could not decide on it."""
    refused = AdmissionDenied(f"An admission policy, webhook or quota refuses this: {message}")
    if DENIED.match(text):
        return refused
    match code:
        case 403 if not LACKS_RIGHT.match(text):
            return refused
        case 500 if UNASKED.match(text):
            return AdmissionUnavailable(f"An admission webhook does not answer: {message}")
        case _:
            return None
