"""What the steward does with the record and the labels."""

from __future__ import annotations

import pytest

from fakecluster import NAMESPACE
from stage import LABEL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


def suspend(stage):
    """Suspend the election, and let its replicas see that at once, before their next pass."""
    stage.change(suspend=True)
    for shown in stage.cluster.shown:
        shown(stage.cluster.elections[NAMESPACE, "billing"])


async def test_record_is_released_only_after_its_holder_is_fenced(stage):
    """Also if no list shows the holder's label: one may be on its way to it."""
    await stage.lead()
    stage.cluster.change("a", labels={"app": "billing"})
    suspend(stage)
    await stage.until(lambda: stage.record is None)
    assert stage.writes[:2] == ["a=candidate", "release"]


async def test_each_carrier_is_stripped_once_before_a_release(stage):
    """The holder is one of them, and so is a pod that somebody else labelled."""
    await stage.lead()
    stage.cluster.change("b", labels={"app": "billing", LABEL: "leader"})
    suspend(stage)
    await stage.until(lambda: stage.record is None)
    before = stage.writes[: stage.writes.index("release")]
    assert sorted(before) == ["a=candidate", "b=candidate"]
