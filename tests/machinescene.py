"""A scene for the pure machine: one member, the clock, and the key as the server has it."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Lost
from incumbent.campaign.machine import NEVER, Campaign, Create, Look, Member, Renew, Wait
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import (
    Cause,
    Marker,
    Nominee,
    Nothing,
    Profile,
    Record,
)
from incumbent.campaign.timing import timing_for
from incumbent.campaign.wire import entry_from

TTL = 30.0
INTERVAL = TTL / 3
CHORIA_INTERVAL = 0.75 * TTL
DEADLINE = 27.0
"""Seconds from sending a write until it no longer counts."""

POD = Nominee("site/shop/a", "uid-a")
OTHER_POD = Nominee("site/shop/b", "uid-b")

# What others write. The scene gives each its revision.
STRANGER = Record(0, "choria.example.net", term=0)
MEMBER = Record(0, "other/shop/x", term=0, replica="other-1", site="other")
SIBLING = Record(0, POD.identity, 0, replica="sibling-1", site="site", pod_uid=POD.pod_uid)
EVICTED = Marker(0, Cause.EVICTED)
EXPIRED = Marker(0, Cause.EXPIRED)
RELEASED = Marker(0, Cause.RELEASED)
NOTHING = Nothing()


class Scene:
    """One member, the clock, and the key as the server has it."""

    def __init__(
        self,
        key=NOTHING,
        *,
        site="site",
        nominee=POD,
        profile=Profile.PROMPT,
        jitter=0.0,
        revision=100,
        **settings,
    ):
        self.now = 1000.0
        self.revision = revision
        timing = timing_for(settings.pop("ttl", TTL), profile=profile, **settings)
        member = Member("me-1", site)
        self.campaign = Campaign(member, timing, self.now, random=lambda: jitter)
        self.campaign.nominate(nominee)
        if key is not None:
            self.watch(key, live=False)

    # Time

    @property
    def step(self):
        """What the machine wants now."""
        return self.campaign.poll(self.now)

    def after(self, seconds):
        """Let time pass."""
        self.now += seconds
        return self

    def until_due(self):
        """Let time pass until the machine wants something; return that."""
        while isinstance(step := self.step, Wait):
            assert self.now < step.until < NEVER
            self.now = step.until
        return step

    # The bucket

    def watch(self, entry, *, age=0.0, live=True, unseen_for=NEVER):
        """Let the watch show an entry; without a revision it is a new one."""
        entry = self._numbered(entry)
        self.campaign.observe(Sighting(entry, age, live, unseen_for), self.now)
        return entry

    def look(self, entry, *, age=0.0, unseen_for=NEVER):
        """Answer the look that the machine wants."""
        look = self.until_due()
        assert isinstance(look, Look)
        entry = self._numbered(entry)
        self.campaign.observe(Sighting(entry, age, unseen_for=unseen_for), self.now, look=look)
        return entry

    def begin(self):
        """Begin the write that the machine wants; a look before it shows nothing new."""
        step = self.until_due()
        if isinstance(step, Look) and step.known == self.campaign.latest.revision:
            self.look(self.campaign.latest)
        match self.until_due():
            case Create():
                return self.campaign.begin_create(self.now)
            case Renew():
                return self.campaign.begin_renewal(self.now)
            case step:
                pytest.fail(f"it wants to {step}")

    def store(self, write):
        """Let a write be stored and answered."""
        self.revision += 1
        self.campaign.answered(write, Answer(Outcome.STORED, self.revision), self.now)
        return self.entry_of(write)

    def store_unanswered(self, write):
        """Let a write be stored, and its answer be lost; return what the key shows now."""
        self.revision += 1
        self.lose(write)
        return self.entry_of(write)

    def refuse(self, write):
        """Let a write be refused."""
        self.campaign.answered(write, Answer(Outcome.REFUSED), self.now)

    def lose(self, write):
        """Let there be no answer to a write."""
        self.campaign.answered(write, Answer(Outcome.UNKNOWN), self.now)

    def entry_of(self, write, revision=None):
        """Return what the key shows after a write."""
        value = write.record.holder.encode() if write.record else b""
        return entry_from(value, write.headers, revision or self.revision)

    def _numbered(self, entry):
        if entry.revision or isinstance(entry, Nothing):
            self.revision = max(self.revision, entry.revision)
            return entry
        self.revision += 1
        if isinstance(entry, Record) and not entry.term:
            return replace(entry, revision=self.revision, term=self.revision)
        return replace(entry, revision=self.revision)

    # Short cuts

    def lead(self):
        """Come to lead; return our record."""
        record = self.store(self.begin())
        while not self.leads:
            record = self.store(self.begin())
        self.events()
        return record

    @property
    def leads(self):
        """Whether the holder may act now."""
        return self.campaign.leads(self.now)

    @property
    def state(self):
        """What the member is."""
        return self.campaign.state(self.now)

    def events(self):
        """Return what happened since the last call, time included."""
        self.campaign.poll(self.now)
        assert self.campaign.has_events == bool(self.campaign._events)
        return self.campaign.events()

    def lost(self):
        """Return why leadership was lost since the last call, oldest first."""
        return [event.loss for event in self.events() if isinstance(event, Lost)]


def prompt(key=NOTHING, **settings):
    return Scene(key, **settings)


def choria(key=NOTHING, **settings):
    return Scene(key, profile=Profile.CHORIA, site="", **{"splay": 0.0, **settings})


def library(key=NOTHING, **settings):
    return Scene(key, site="", nominee=Nominee("me"), **settings)
