"""Which objects changed after a version, for readers who ask now and then. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

MOST_GONE = 100
"""Objects that are gone and still remembered, besides as many as there are."""

KeyT = TypeVar("KeyT", bound=Hashable)


class ChangeLog(Generic[KeyT]):
    """Remembers the version of the last change of each object, gone or not.

    Of objects that are gone it forgets the changes once there are many. Then it says of an earlier
    version that nobody knows what changed after it, and a reader has to ask for all objects.
    """

    def __init__(self) -> None:
        self._changed_at: dict[KeyT, int] = {}
        """In the order of the changes."""
        self._complete_since = 0
        """The version since which this has every change."""

    def note(self, key: KeyT, version: int) -> None:
        """Note that an object changed, began or ended; versions never decrease."""
        self._changed_at.pop(key, None)
        self._changed_at[key] = version

    def since(self, version: int) -> list[KeyT] | None:
        """Return what changed after a version, the latest first; None: nobody knows."""
        if version < self._complete_since:
            return None
        found = []
        for key in reversed(self._changed_at):
            if self._changed_at[key] <= version:
                break
            found.append(key)
        return found

    def trim(self, present: Collection[KeyT], version: int) -> None:
        """Forget what is gone if that is much; `version` is the present one."""
        if len(self._changed_at) > 2 * len(present) + MOST_GONE:
            self.forget_gone(present, version)

    def forget_gone(self, present: Collection[KeyT], version: int) -> None:
        """Forget what is gone; `version` is the present one."""
        for key in [key for key in self._changed_at if key not in present]:
            del self._changed_at[key]
        self._complete_since = version
