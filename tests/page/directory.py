"""Elections that a test makes up, as the operator would serve them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

OFF = "the history is off: start the operator with --history-stream"


class Health:
    """A process that waits for nothing."""

    def problems(self):
        """See `Health`."""
        return {}


class Elections:
    """Elections that a test changes; a `Directory`."""

    def __init__(self):
        self.version = 0
        self.stored = {}
        self.terms = {}
        self.problem = None
        self.remaining = 20.0
        self.asked = []
        self._news = asyncio.Event()

    def put(self, name, /, *, namespace="shop", **fields):
        """Add an election, or change it."""
        key = f"{namespace}/{name}"
        before = self.stored.get(key) or led(namespace, name)
        self.stored[key] = before | fields
        self.tell()

    def remove(self, name, *, namespace="shop"):
        """Delete an election."""
        del self.stored[f"{namespace}/{name}"]
        self.tell()

    def tell(self):
        """Say that something has changed."""
        self.version += 1
        self._news.set()
        self._news = asyncio.Event()

    def elections(self):
        """See `Directory`."""
        return [self._now(self.stored[key]) for key in sorted(self.stored)]

    def election(self, namespace, name):
        """See `Directory`."""
        found = self.stored.get(f"{namespace}/{name}")
        return found and self._now(found)

    def pending(self, namespace="", name=""):
        """See `Directory`."""
        return False

    def _now(self, found):
        left = self.remaining if found["state"] == "Leader" else None
        return found | {"remainingSeconds": left}

    async def history(self, namespace, name, *, limit):
        """See `Directory`."""
        key = f"{namespace}/{name}"
        self.asked.append(key)
        if key not in self.stored:
            return None
        terms = [] if self.problem else self.terms.get(key, [])
        return {"problem": self.problem, "terms": terms[:limit]}

    async def changed(self, since):
        """See `Directory`."""
        while self.version == since:
            await self._news.wait()


def led(namespace, name, **fields):
    """Return an election that a pod of this site leads."""
    pod = f"{name}-7f9c6d8b5-{abs(hash(name)) % 46656:05x}"
    return {
        "namespace": namespace,
        "name": name,
        "state": "Leader",
        "holder": f"042e7842/{namespace}/{pod}",
        "leader": {
            "podName": pod,
            "podUID": "0b7c",
            "nodeName": "node-a",
            "podIP": "10.244.0.7",
            "acquiredTime": ago(2400),
        },
        "token": 4711,
        "site": "042e7842",
        "steward": "incumbent-0",
        "candidates": {"total": 3, "ready": 3},
        "transitions": 4,
        "conditions": conditions("True", "Leading", f"pod {pod} leads"),
    } | fields


def unled(reason, message, *, status="False", state="Candidate", **fields):
    """Return the fields of an election that no pod of this site leads."""
    return {
        "state": state,
        "holder": None,
        "leader": None,
        "site": None,
        "steward": None,
        "conditions": conditions(status, reason, message),
    } | fields


def conditions(status, reason, message):
    """Return the conditions of an election."""
    ready = {"type": "Ready", "status": status, "reason": reason, "message": message}
    bucket = ("BucketReady", "True", "BucketFound", "records live 30 s")
    labels = ("LabelsInSync", "True", "LabelsWritten", "every pod's label is as it should be")
    stalled = ("Stalled", "False", "NotStalled", "nothing needs a person")
    others = [
        dict(zip(("type", "status", "reason", "message"), one, strict=True))
        for one in (bucket, labels, stalled)
    ]
    return [ready, *others]


def ago(seconds):
    """Return a time in the past, as it is served."""
    text = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def terms(*known, namespace="shop"):
    """Return terms as served, from (pod, began, ended or None, cause), in seconds ago."""
    found = []
    for number, (pod, began, ended, cause) in enumerate(known):
        found.append(
            {
                "token": 4000 + 37 * number,
                "holder": f"042e7842/{namespace}/{pod}",
                "site": "042e7842",
                "from": ago(began),
                "to": None if ended is None else ago(ended),
                "cause": cause,
                "how": "Elected",
                "exact": True,
            }
        )
    return found[::-1]
