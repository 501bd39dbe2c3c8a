"""Comparison of the API server's resourceVersions (allowed by Kubernetes, KEP-5504). Pure.

The resourceVersions of one kind are integers that grow, unless etcd is restored from a backup.
"""

from __future__ import annotations


def number_of(version: str) -> int:
    """Return a resourceVersion as a number; 0 if it is not a number."""
    return int(version) if version.isdecimal() else 0


def newer(version: str, other: str) -> bool:
    """Return whether a resourceVersion is newer than another; False if they are not numbers."""
    both = version.isdecimal() and other.isdecimal()
    return both and int(version) > int(other)


def one_before(version: str) -> str:
    """Return the version from which to start a watch if everything up to `version` is known.

    The API server sends a bookmark only if it is newer than the start version of the watch
    (`cacheWatcher.process` in its watch cache). While no pod of the cluster changes, the newest
    version may equal `version`. Then a watch from `version` would get no bookmark, and would look
    like a dead watch. A watch from the version before gets a bookmark every minute (observed with
    Kubernetes 1.32, 1.33 and 1.37). It may get the last known change a second time. The
    version before 1 is not used, because 0 would mean "any version".
    """
    return str(number_of(version) - 1) if number_of(version) > 1 else version
