"""Elections that a test makes up, as the operator would serve them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fakedirectory import FakeProcess
from incumbent import clock

OFF = "the history is off: start the operator with --history-stream"


class Elections(FakeProcess):
    """Elections that a test changes."""

    def __init__(self):
        super().__init__()
        self.left = 20.0
        """What is left of each lease of this site."""
        self.terms_of = {}
        """By `namespace/name`."""

    def put(self, name, /, *, namespace="shop", **fields):
        """Add an election, or change it."""
        self.stored.setdefault((namespace, name), led(namespace, name))
        super().put(name, namespace=namespace, **fields)

    def election(self, namespace, name):
        """See `Directory`."""
        found = super().election(namespace, name)
        return found and found | {"remainingSeconds": self._left(found)}

    def deadline(self, namespace, name):
        """See `Directory`."""
        left = self._left(self.stored.get((namespace, name)))
        return None if left is None else clock.now() + left

    def _left(self, found):
        return self.left if found and found["state"] == "Leader" else None

    async def history(self, namespace, name, *, limit):
        """See `Directory`."""
        self.terms = [] if self.problem else self.terms_of.get(f"{namespace}/{name}", [])
        return await super().history(namespace, name, limit=limit)


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
