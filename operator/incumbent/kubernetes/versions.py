"""The resourceVersions of the API server, which can be compared (Kubernetes, KEP-5504). Pure.

Those of one kind are integers that grow, unless etcd is restored from a backup.
"""

from __future__ import annotations


def number_of(version: str) -> int:
    """Return a resourceVersion as the number that it is; 0 if it is none."""
    return int(version) if version.isdecimal() else 0


def newer(version: str, other: str) -> bool:
    """Return whether a resourceVersion is newer than another one; false if that cannot be told."""
    both = version.isdecimal() and other.isdecimal()
    return both and int(version) > int(other)


def one_before(version: str) -> str:
    """Return the version from which to watch, if everything up to `version` is known.

    The API server sends bookmarks only if they are newer than the version that a watch started
    from (`cacheWatcher.process` in its watch cache). While no pod of the cluster changes, its
    newest version may be just that one; then nothing would be sent, and a watch that works could
    not be told from a dead one. A watch from the version before gets a bookmark every minute
    (observed with Kubernetes 1.32, 1.33 and 1.37), and the last known change at most once more.
    0 would mean "any".
    """
    return str(number_of(version) - 1) if number_of(version) > 1 else version
