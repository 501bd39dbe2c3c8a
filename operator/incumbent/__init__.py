"""Incumbent elects one leader among the pods of a set, with the lock in NATS JetStream.

Programs that do not run in Kubernetes use `Election`. They can import everything that they need
from this package. The other packages, from the lowest layer up:

* `campaign`: one member's part in an election; how it creates, renews and gives up the record
* `replicas`: how the operator's replicas of one site recognise each other
* `nats`, `kubernetes`: the adapters to NATS and to the API server
* `pods`: which pods may lead, and which pod has the label
* `routing`, `status`, `history`: the other places that say which pod leads
* `election`: the library, without Kubernetes; `server`: the operator's HTTP server
* `reconciler`: one pass over an election; `campaigner`: all that the operator does for one election
* `controller`: the operator process
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
    """Import a name when it is first used, because `incumbent --help` needs no NATS client."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
