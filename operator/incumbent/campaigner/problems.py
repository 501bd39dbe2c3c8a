"""The first problem that keeps one election from working as its spec asks."""

from __future__ import annotations

from incumbent import clock
from incumbent.campaigner.bucket_trouble import BucketTrouble
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.expiry import Expiry
from incumbent.campaigner.pass_failures import PassFailures
from incumbent.campaigner.permission import Permission
from incumbent.campaigner.recognition import Recognition
from incumbent.campaigner.token_regress import TokenRegress
from incumbent.kubernetes.resource import Resource
from incumbent.status.situation import Problem


class Problems:
    """The problems of one election. Each part knows its own; this one knows their order."""

    def __init__(
        self,
        *,
        permission: Permission,
        configuration: Configuration,
        recognition: Recognition,
        tokens: TokenRegress,
        failures: PassFailures,
        bucket: BucketTrouble,
        expiry: Expiry,
    ) -> None:
        self._permission = permission
        self._configuration = configuration
        self._recognition = recognition
        self._tokens = tokens
        self._failures = failures
        self._bucket = bucket
        self._expiry = expiry

    def withdraw(self, resource: Resource) -> bool:
        """Whether, by problems or by what is asked for, nobody of this site is to lead."""
        configuration = self._configuration
        return (
            resource.suspend
            or resource.deleting
            or (configuration.invalid is not None and not configuration.goes_on)
            or self._tokens.problem is not None
            or self._recognition.in_use is not None
            or (self._bucket_gone and not resource.holds)
        )

    def first(self, resource: Resource, trouble: Problem | None) -> Problem | None:
        """Return the problem to tell, beside the trouble with the bucket; None: there is none."""
        return (
            self._permission.problem
            or self._configuration.invalid
            or self._recognition.in_use
            or self._tokens.problem
            or self._failures.problem
            or trouble
            or self._expiry.problem(resource)
        )

    @property
    def _bucket_gone(self) -> bool:
        """Whether there has been no bucket for so long that nobody leads any more."""
        return self._bucket.missing_for(clock.now()) >= self._configuration.known_ttl
