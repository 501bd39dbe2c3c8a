"""Who could lead, and who leads."""

from __future__ import annotations

import pytest

from incumbent.campaign.driver import Driver

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


async def test_nobody_leads_while_the_holder_may_not_act(stage, monkeypatch):
    """A label that is still there makes no leader of a pod whose lease has run out."""
    await stage.lead()
    reconciler = stage.first._reconciler
    assert reconciler.leader.name == "a"
    monkeypatch.setattr(Driver, "leads", False)
    assert reconciler.leader is None


async def test_nobody_leads_without_a_record_of_our_own(stage, monkeypatch):
    """Whatever label there is."""
    await stage.lead()
    monkeypatch.setattr(Driver, "lease", None)
    assert stage.first._reconciler.leader is None
