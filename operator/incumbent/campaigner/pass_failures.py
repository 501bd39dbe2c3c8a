"""The failures of one election's passes, for the log and the status."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from incumbent.errors import AdmissionUnavailable, ClusterError, Conflict, NotWatched, Refused
from incumbent.status.situation import Problem, problem_from

LOGGED_FAILURES = frozenset({1, 10, 100})
"""Which failures in a row are worth a line in the log."""


class PassFailures:
    """The passes of one election that failed in a row.

    Args:
        log: of the election.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        self.in_a_row = 0
        """How many passes in a row were not done, for any reason."""
        self.undone = ""
        """Why a pass was not done, for the status; empty if the last pass was done."""
        self.problem: Problem | None = None
        """That the API server refused what a pass asked for; None if it did not."""
        self._log = log

    def completed(self) -> None:
        """Note that a pass came to its end without an error."""
        self.undone, self.problem = "", None

    def failed(self, error: ClusterError) -> None:
        """Note the error that ended a pass."""
        failures = self.in_a_row + 1
        # A first conflict is not worth a line: somebody else wrote, and the next pass reads it. One
        # line of the log is enough for all elections whose namespace is not watched.
        untold = isinstance(error, NotWatched) or (failures == 1 and isinstance(error, Conflict))
        if failures in LOGGED_FAILURES and not untold:
            self._log.warning("pass.failed", problem=str(error))
        refused = isinstance(error, Refused | AdmissionUnavailable)
        if refused:
            self.problem = problem_from(error)
        if refused or failures > 1:
            self.undone = str(error)

    def count(self, *, done: bool) -> None:
        """Count a pass that has ended."""
        self.in_a_row = 0 if done else self.in_a_row + 1
