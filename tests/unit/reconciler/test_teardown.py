"""How the work for an election ends."""

from __future__ import annotations

import pytest

from incumbent.routing.writer import SliceWriter

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


@pytest.mark.parametrize(
    ("answers", "doubtful", "times"), ((True, False, 1), (False, True, 1), (False, False, 0))
)
async def test_slices_are_emptied_that_may_lead_to_a_pod_because_of_us(
    stage, monkeypatch, answers, doubtful, times
):
    """A write of them may be on its way after another replica has relieved us."""
    await stage.lead()
    reconciler, emptied = stage.first._reconciler, []

    async def empty(self, **_):
        emptied.append(self)

    reconciler._standing.answers = answers
    monkeypatch.setattr(SliceWriter, "doubtful", doubtful)
    monkeypatch.setattr(SliceWriter, "empty", empty)
    await reconciler.vacate()
    assert len(emptied) == times
