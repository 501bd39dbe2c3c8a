"""The JSON of the events about elections. Pure, but for the random part of their names."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from incumbent.display import shown

CONTROLLER = "incumbent.dev/operator"
"""The controller name in the events."""
NOTE_BYTES = 1024
INSTANCE_BYTES = 128
"""Limits of an event's fields in the API server's validation."""


def event_about(
    election: Mapping[str, Any],
    *,
    kind: str,
    reason: str,
    action: str,
    note: str,
    replica: str,
    time: datetime,
) -> dict[str, Any]:
    """Return the JSON of an event, with texts cut to the API server's limits."""
    metadata = election["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{uuid.uuid4().hex}",
            "namespace": metadata["namespace"],
        },
        "regarding": {
            "apiVersion": election["apiVersion"],
            "kind": election["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": kind,
        "reason": reason,
        "action": action,
        "note": cut(shown(note, NOTE_BYTES), NOTE_BYTES),
        "reportingController": CONTROLLER,
        "reportingInstance": cut(replica, INSTANCE_BYTES),
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def cut(text: str, limit: int) -> str:
    """Return the beginning of a text, at most `limit` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")
