"""The functions that are called when something happens in a bucket."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from incumbent.campaign.ports import Sighting

Follow = Callable[[str, Sighting], None]
"""A function that receives a key and a sighting of it. Must not block."""

log = structlog.get_logger(__name__)


class Subscribers:
    """The subscribers of one bucket: watchers of a key, followers of all keys, and listeners.

    Listeners are told of changes of the bucket itself. Each method that adds a subscriber returns a
    function that removes it, which may be called more than once.
    """

    def __init__(self) -> None:
        self._watchers: dict[str, dict[object, Callable[[Sighting], None]]] = {}
        self._followers: dict[object, Follow] = {}
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that have a watcher. Followers of all keys do not count."""
        return tuple(self._watchers)

    @property
    def followers(self) -> tuple[Follow, ...]:
        """The functions that follow all keys."""
        return tuple(self._followers.values())

    @property
    def idle(self) -> bool:
        """Whether there are no subscribers."""
        return not (self._watchers or self._followers or self._listeners)

    def watches(self, key: str) -> bool:
        """Return whether somebody watches a key."""
        return key in self._watchers

    def wants(self, key: str) -> bool:
        """Return whether somebody watches a key, or follows all keys."""
        return bool(self._followers) or key in self._watchers

    def add_watcher(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Add a watcher of a key."""
        token = object()
        self._watchers.setdefault(key, {})[token] = seen

        def remove() -> None:
            watchers = self._watchers.get(key, {})
            watchers.pop(token, None)
            if not watchers:
                self._watchers.pop(key, None)

        return remove

    def add_follower(self, seen: Follow) -> Callable[[], None]:
        """Add a follower of all keys."""
        token = object()
        self._followers[token] = seen

        def remove() -> None:
            self._followers.pop(token, None)

        return remove

    def add_listener(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Add a listener for changes of the bucket's settings and problems."""
        token = object()
        self._listeners[token] = changed

        def remove() -> None:
            self._listeners.pop(token, None)

        return remove

    def show(self, key: str, sighting: Sighting) -> None:
        """Show a sighting to the watchers of its key and to all followers."""
        self.show_watchers(key, sighting)
        for seen in self.followers:
            call(seen, key, sighting)

    def show_watchers(self, key: str, sighting: Sighting) -> None:
        """Show a sighting to the watchers of its key."""
        watchers = self._watchers.get(key, {})
        for token, seen in tuple(watchers.items()):
            if token in watchers:
                call(seen, sighting)

    def notify(self) -> None:
        """Call all listeners, because something has changed."""
        for changed in tuple(self._listeners.values()):
            call(changed)


def call(function: Callable[..., None], *arguments: object) -> None:
    """Call a subscriber's function. An error in it is logged and does not reach the caller."""
    try:
        function(*arguments)
    except Exception:
        log.exception("bucket.watcher_failed")
