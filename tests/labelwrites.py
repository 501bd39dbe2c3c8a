"""What the tests of label writes share."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import Operation

APP = {"app": "billing"}
LABEL = "incumbent.dev/billing"
TOKEN = "incumbent.dev/billing.token"
LEADS = {"labels": APP | {LABEL: "leader"}, "annotations": {TOKEN: "5"}}
FOREVER = 1e9


def label_of(pod):
    return pod.labels.get(LABEL), pod.annotations.get(TOKEN)


def answer(error):
    """Return an action that answers with an error."""

    def action():
        raise error

    return action


class Bucket:
    """Gives warrants; its writes are found among the calls of the cluster."""

    def __init__(self, cluster, *tokens, delay=0.0):
        self.cluster = cluster
        self.tokens = list(tokens)
        self.delay = delay

    async def warrant(self):
        """Store a write; return the first token that is left, the last one again and again."""
        self.cluster.calls.append(Operation("bucket"))
        await asyncio.sleep(self.delay)
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


# Strip

SHOWN = (
    pytest.param({}, id="nothing"),
    pytest.param({"labels": APP | {LABEL: "candidate"}}, id="candidate"),
    pytest.param({"annotations": {TOKEN: "0"}}, id="a fence"),
    pytest.param(LEADS, id="leader"),
    pytest.param({"labels": {LABEL: "leader"}}, id="leader without token, outside the selector"),
)
