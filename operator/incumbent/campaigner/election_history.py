"""The part of one election's history that this replica keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from incumbent import clock
from incumbent.campaigner.context import ElectionContext
from incumbent.history.terms import LabelTracker
from incumbent.history.writer import OFF, HistoryWriter
from incumbent.pods.eligibility import shown_tokens


class ElectionHistory:
    """Notes who led one election, and which pods had the label.

    Args:
        context: of the election.
        writer: keeps histories; None if nobody does.
        key: of the election, in the bucket.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        writer: HistoryWriter | None,
        key: str,
    ) -> None:
        self._writer = writer
        self._bucket = context.bucket
        self._key = key
        self._site = context.site
        self._pods = context.pods
        self._reconciler = context.reconciler
        self._labels = LabelTracker()
        self._end: Callable[[], None] | None = None

    def follow(self) -> None:
        """Keep the history from now on."""
        if self._writer is not None and self._end is None:
            self._end = self._writer.follow(self._bucket, self._key)
            self._pods.seen = self._note_labels
            self._note_labels()

    def stop(self) -> None:
        """Keep it no more."""
        self._pods.seen = lambda: None
        if self._end is not None:
            self._end()
            self._end = None

    async def terms(self, *, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Return the latest terms, newest first, and why there may be none or not all."""
        if self._writer is None:
            return [], OFF
        found = await self._writer.terms(self._bucket.name, self._key, limit=limit)
        return found, self._writer.problem or None

    def _note_labels(self) -> None:
        """Have it written down which pods got or lost the leader label."""
        if self._writer is None or self._pods.all is None:
            return
        pods, resource = self._pods.known, self._reconciler.resource
        changes = self._labels.observe(pods, shown_tokens(pods, resource), clock.now())
        if changes:
            where = self._bucket.name, resource.record_key
            self._writer.note_labels(*where, changes, site=self._site)
