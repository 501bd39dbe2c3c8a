"""Incumbent keeps exactly one pod of a set in office, with the lock in NATS JetStream.

For programs that do not run in Kubernetes there is `Election`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incumbent.access import NatsAccess
    from incumbent.election import Election, HolderChanged, StoppedError
    from incumbent.errors import ConfigurationError, IncumbentError
    from incumbent.events import Lost, Won
    from incumbent.model import Profile, Promotion, State

__all__ = [
    "ConfigurationError",
    "Election",
    "HolderChanged",
    "IncumbentError",
    "Lost",
    "NatsAccess",
    "Profile",
    "Promotion",
    "State",
    "StoppedError",
    "Won",
]

_MODULES = {
    "ConfigurationError": "errors",
    "Election": "election",
    "HolderChanged": "election",
    "IncumbentError": "errors",
    "Lost": "events",
    "NatsAccess": "access",
    "Profile": "model",
    "Promotion": "model",
    "State": "model",
    "StoppedError": "election",
    "Won": "events",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not before: `incumbent --help` has no use for a NATS client."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
