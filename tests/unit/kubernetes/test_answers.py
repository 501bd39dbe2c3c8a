"""What the answers of an API server mean."""

from __future__ import annotations

import pytest

from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
)
from incumbent.kubernetes.answers import (
    Expired,
    UnknownKind,
    error_for,
    retry_after_in,
    status_from,
)


@pytest.mark.parametrize(
    ("code", "kind"),
    (
        (0, ClusterUnreachable),
        (302, ClusterUnreachable),
        (400, Refused),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (408, ClusterUnreachable),
        (409, Conflict),
        (410, Expired),
        (413, Refused),
        (415, Refused),
        (422, Refused),
        (429, ClusterUnreachable),
        (500, ClusterUnreachable),
        (503, ClusterUnreachable),
    ),
)
@pytest.mark.parametrize("message", ("pods is forbidden", "not found", "Timeout"))
def test_the_status_code_decides_which_error_it_is(code, kind, message):
    """The text of the answer is handed on, and decides nothing."""
    status = {"message": message, "details": {"name": "a"}}
    error = error_for(code, status, request="GET /x")
    assert type(error) is kind
    assert message in str(error)
    assert "GET /x" in str(error)


POLICY = (
    "pods \"one\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
)
WEBHOOK = 'admission webhook "hook.example.com" denied the request: no'
QUOTA = 'endpointslices "x" is forbidden: exceeded quota: q'
OUTAGE = 'Internal error occurred: failed calling webhook "hook.example.com": connection refused'
RIGHT = 'User "u" cannot patch resource "pods" in API group "" in the namespace "shop"'


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    (
        (422, POLICY, AdmissionDenied),
        (403, POLICY, AdmissionDenied),
        (401, POLICY, AdmissionDenied),
        (400, WEBHOOK, AdmissionDenied),
        (403, WEBHOOK, AdmissionDenied),
        (404, WEBHOOK, AdmissionDenied),
        (409, WEBHOOK, AdmissionDenied),
        (500, WEBHOOK, AdmissionDenied),
        (403, QUOTA, AdmissionDenied),
        (403, "endpoint address 10.0.0.1 is not allowed", AdmissionDenied),
        (403, f'pods "one" is forbidden: {RIGHT}', Forbidden),
        (403, f"pods is forbidden: {RIGHT}", Forbidden),
        (403, 'forbidden: User "u" cannot get path "/version"', Forbidden),
        (422, 'Pod "one" is invalid: metadata.labels: no', Refused),
        (500, OUTAGE, AdmissionUnavailable),
        (500, "Internal error occurred: etcdserver: request timed out", ClusterUnreachable),
        (500, f"etcdserver: something about {OUTAGE}", ClusterUnreachable),
    ),
)
def test_admission_is_told_from_a_missing_right(code, message, kind):
    """The API server tells them apart by the text alone; its own words come first in it."""
    status = {"kind": "Status", "message": message, "details": {"name": "one"}}
    error = error_for(code, status, request="PATCH /x")
    assert type(error) is kind
    assert message in str(error)
    assert ("A right is missing" in str(error)) is (kind is Forbidden)


@pytest.mark.parametrize("message", (POLICY, WEBHOOK, OUTAGE))
def test_only_an_api_server_tells_of_admission(message):
    """A proxy in front of it may say anything after a write was carried out."""
    error = error_for(500, {"message": message}, request="PATCH /x")
    assert type(error) is ClusterUnreachable


def test_a_path_that_is_not_served_is_an_unknown_kind():
    """A 404 without details of an object says that the kind is not installed."""
    status = status_from(b"404 page not found\n")
    error = error_for(404, status, request="GET /x")
    assert type(error) is UnknownKind
    assert "CustomResourceDefinition" in str(error)


@pytest.mark.parametrize(
    ("code", "retry_after", "wait"), ((429, "3", 3.0), (503, "1", 1.0), (429, "soon", None))
)
def test_a_wish_to_wait_is_kept(code, retry_after, wait):
    """Retry-After in seconds is kept; a date, or nonsense, is not."""
    asked = retry_after_in({"Retry-After": retry_after})
    error = error_for(code, {}, request="GET /x", retry_after=asked)
    assert isinstance(error, ClusterUnreachable)
    assert getattr(error, "retry_after", None) == wait


@pytest.mark.parametrize(
    ("content", "status"),
    (
        (b'{"message": "m"}', {"message": "m"}),
        (b"<html>", {"message": "<html>"}),
        (b"[1]", {"message": "[1]"}),
        (b"\xff", {"message": "\N{REPLACEMENT CHARACTER}"}),
        (b"", {"message": ""}),
    ),
)
def test_any_answer_explains_itself_as_well_as_it_can(content, status):
    """What is no `Status` becomes a message."""
    assert status_from(content) == status
