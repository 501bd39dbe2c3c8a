"""What a pass leaves to be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from incumbent.campaign.driver import Driver
from incumbent.kubernetes.ports import PodChanged
from stage import LABEL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


def mislabelled(stage):
    """Let the replica see the label on `b`, too, and return its reconciler before the next pass."""
    pods = stage.first._pods._namespace
    pods._take(PodChanged(replace(pods.pods["b"], labels={"app": "billing", LABEL: "leader"})))
    return stage.first._reconciler


def names(pods):
    """Return the names of pods."""
    return [pod.name for pod in pods]


async def test_only_the_leader_carries_its_label_by_right(stage):
    """The other pod is a stray, and the leader is none."""
    await stage.lead()
    assert names(mislabelled(stage).strays) == ["b"]


@pytest.mark.parametrize("nothing", ({"leads": False}, {"lease": None}))
async def test_without_a_leader_no_pod_is_a_stray(stage, monkeypatch, nothing):
    """Nobody here can say then which label is right."""
    await stage.lead()
    reconciler = mislabelled(stage)
    for name, value in nothing.items():
        monkeypatch.setattr(Driver, name, value)
    assert reconciler.strays == []
