"""Whether the registry lets one election campaign, read and label. Pure."""

from __future__ import annotations

from incumbent.status.situation import Problem


class Permission:
    """Whether one election may campaign, be served at all, and touch its labels."""

    def __init__(self) -> None:
        self.problem: Problem | None = None
        """Why the election may not campaign; None if it may."""

    @property
    def barred(self) -> Problem | None:
        """Why the election is not served; None if it is."""
        problem = self.problem
        return problem if problem is not None and problem.bars else None

    @property
    def owns_label(self) -> bool:
        """Whether the labels by its label key are its own."""
        return self.problem is None or self.problem.owns_label
