"""How many files and connections the process may have open, and for what they are kept."""

from __future__ import annotations

import contextlib
import resource

ENOUGH = 65_536
"""The limit that is asked for, at most. Children such as exec plugins inherit it, and some of them
look at every number below it when they start."""

RESERVED = 192
"""Open files that watches leave alone: 128 requests to the API server (`turns.REQUESTS`), the
sockets of the HTTP server, the watches of kopf, NATS, logs, an exec plugin, and slack."""


def raise_limit() -> int:
    """Raise the soft limit of open files up to the hard limit, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a system may have a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def watches_for(limit: int, *, others: int = 0) -> int:
    """Return how many namespaces can be watched; at least one.

    Args:
        limit: how many files may be open.
        others: how many watches there are beside those of pods.
    """
    return max(1, limit - RESERVED - others)
