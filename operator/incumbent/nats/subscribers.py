"""Who is told of what happens in a bucket."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from incumbent.campaign.ports import Sighting

Follow = Callable[[str, Sighting], None]
"""Takes a key and a sighting of it. Must not block."""

log = structlog.get_logger(__name__)


class Subscribers:
    """Those that watch keys of one bucket, follow all its keys, or listen for other changes.

    Each method that adds one returns what removes it, which may be called more than once.
    """

    def __init__(self) -> None:
        self._watchers: dict[str, dict[object, Callable[[Sighting], None]]] = {}
        self._followers: dict[object, Follow] = {}
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that somebody watches, not those that are only followed."""
        return tuple(self._watchers)

    @property
    def followers(self) -> tuple[Follow, ...]:
        """Those that follow all keys."""
        return tuple(self._followers.values())

    @property
    def idle(self) -> bool:
        """Whether there is nobody."""
        return not (self._watchers or self._followers or self._listeners)

    def watches(self, key: str) -> bool:
        """Return whether somebody watches a key."""
        return key in self._watchers

    def wants(self, key: str) -> bool:
        """Return whether somebody watches a key, or follows all of them."""
        return bool(self._followers) or key in self._watchers

    def add_watcher(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Add somebody who watches a key."""
        token = object()
        self._watchers.setdefault(key, {})[token] = seen

        def remove() -> None:
            watchers = self._watchers.get(key, {})
            watchers.pop(token, None)
            if not watchers:
                self._watchers.pop(key, None)

        return remove

    def add_follower(self, seen: Follow) -> Callable[[], None]:
        """Add somebody who follows all keys."""
        token = object()
        self._followers[token] = seen

        def remove() -> None:
            self._followers.pop(token, None)

        return remove

    def add_listener(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Add somebody who listens for changes of what is known about the bucket."""
        token = object()
        self._listeners[token] = changed

        def remove() -> None:
            self._listeners.pop(token, None)

        return remove

    def show(self, key: str, sighting: Sighting) -> None:
        """Show a sighting to all that want it."""
        self.show_watchers(key, sighting)
        for seen in self.followers:
            call(seen, key, sighting)

    def show_watchers(self, key: str, sighting: Sighting) -> None:
        """Show a sighting to those that watch its key."""
        watchers = self._watchers.get(key, {})
        for token, seen in tuple(watchers.items()):
            if token in watchers:
                call(seen, sighting)

    def notify(self) -> None:
        """Tell those that listen of a change."""
        for changed in tuple(self._listeners.values()):
            call(changed)


def call(function: Callable[..., None], *arguments: object) -> None:
    """Call a subscriber's function. An error in it is logged, and concerns nobody else."""
    try:
        function(*arguments)
    except Exception:
        log.exception("bucket.watcher_failed")
