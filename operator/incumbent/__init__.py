"""Incumbent keeps exactly one pod of a set in office, with the lock in NATS JetStream.

For programs that do not run in Kubernetes there is `Election`. All that such a program needs can be
imported from here. Where to find the rest, from below:

* `campaign`: one member's part in an election; how its record is created, kept and given up
* `nats`, `kubernetes`: the adapters to NATS and to the API server
* `pods`: who may lead, and who carries the label
* `routing`, `status`, `history`: what else says who leads
* `replicas`: how the operator's replicas of one site know each other
* `election`: the library, without Kubernetes
* `controller`: the operator process; `server`: what it serves by HTTP
* `cli`, `kubectl`: the commands `incumbent` and `kubectl incumbent`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incumbent.campaign.events import Lost, Won
    from incumbent.campaign.records import Profile, Promotion, State
    from incumbent.election import Election, HolderChanged, StoppedError
    from incumbent.errors import ConfigurationError, IncumbentError
    from incumbent.nats.connection import NatsConnection
    from incumbent.nats.login import NatsAccess
    from incumbent.server.metrics import MemberCollector

__all__ = [
    "ConfigurationError",
    "Election",
    "HolderChanged",
    "IncumbentError",
    "Lost",
    "MemberCollector",
    "NatsAccess",
    "NatsConnection",
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
    "Lost": "campaign.events",
    "MemberCollector": "server.metrics",
    "NatsAccess": "nats.login",
    "NatsConnection": "nats.connection",
    "Profile": "campaign.records",
    "Promotion": "campaign.records",
    "State": "campaign.records",
    "StoppedError": "election",
    "Won": "campaign.events",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not before: `incumbent --help` has no use for a NATS client."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
