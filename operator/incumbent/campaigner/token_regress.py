"""Stop an election whose fencing tokens go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from incumbent import clock
from incumbent.campaign.driver import Driver
from incumbent.campaign.tokens import TokenGuard
from incumbent.kubernetes.resource import Resource
from incumbent.status.situation import Problem


class TokenRegress:
    """Keeps one election from going on with a lower token than was known.

    Args:
        log: of the election.
        wake: asks for a pass, which then gives the record up.
    """

    def __init__(self, log: FilteringBoundLogger, wake: Callable[[], None]) -> None:
        self.problem: Problem | None = None
        """Why our record counts for nobody; None if it counts."""
        self._guard = TokenGuard()
        self._log = log
        self._wake = wake

    def learn(self, status: Mapping[str, Any]) -> None:
        """Learn the highest token that a status tells of."""
        self._guard.learn(status.get("token", 0), clock.now())

    def resource_changed(self, resource: Resource) -> None:
        """Let the election go on if a lower token is accepted now."""
        if resource.accepts_lower_tokens:
            self.problem = None

    def check(self, driver: Driver, resource: Resource) -> None:
        """Learn the token of the record, and refuse that of our own record if it went back."""
        lease, record, now = driver.lease, driver.record, clock.now()
        if lease is not None and self._guard.refuses(lease):
            if resource.accepts_lower_tokens:
                self._guard.accept(lease)
            elif self.problem is None:
                message = (
                    f"token {lease.record.term} follows {self._guard.highest}: bucket"
                    f" {resource.bucket} was made anew or restored from an old copy. When"
                    " nothing relies on the higher token any more, set `onTokenRegress: Accept`"
                )
                self.problem = Problem("TokenRegressed", message)
                self._log.warning("token.regressed", problem=message)
                self._wake()
        if record is not None and not record.stranger:
            self._guard.learn(record.term, now)
