"""Planted faults: what the simulation has to find, or it finds nothing.

Each is one mistake that a driver or a machine could make, made through public methods and values
only, so that the machine can change behind them.
"""

# ruff: noqa: D102 - what a method does wrong, its class says

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from incumbent.campaign.machine import NEVER, Campaign, Look, Write
from incumbent.campaign.machine import Member as Who
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Cause, Marker, Nominee, Record
from incumbent.campaign.timing import Timing
from incumbent.campaign.wire import headers_of, release_headers
from simulation.members import Member


def _change(write: Write, **values: object) -> None:
    """Change a write in place: the machine knows it by its identity."""
    for name, value in values.items():
        object.__setattr__(write, name, value)


class NoDeadline(Campaign):
    """A lease ends only when somebody says so."""

    def answered(self, write: Write, answer: Answer, now: float) -> None:
        super().answered(write, answer, now)
        if self.lease is not None:
            self.lease = replace(self.lease, deadline=NEVER)


class DeadlineFromAnswer(Campaign):
    """The lease is counted from the answer."""

    def answered(self, write: Write, answer: Answer, now: float) -> None:
        if answer.outcome is Outcome.STORED:
            _change(write, sent_at=now)
        super().answered(write, answer, now)


class DeadlineFromOldRevision(Campaign):
    """Any sight of an own record moves the deadline, however old it is."""

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        entry, lease = sighting.entry, self.lease
        own = isinstance(entry, Record) and self.ours(entry)
        if lease is not None and own and entry.revision <= lease.record.revision:
            self.lease = replace(lease, sent_at=now, deadline=now + self.timing.lease)
        super().observe(sighting, now, look=look)


class _HastyTiming(Timing):
    """A stranger has learned after TTL/3 that it lost."""

    @property
    def stranger_after(self) -> float:
        return self.ttl / 3


class HastyAfterStranger(Campaign):
    """Promotion TTL/3 after a stranger."""

    def __init__(
        self, member: Who, timing: Timing, now: float, *, random: Callable[[], float]
    ) -> None:
        values = {field.name: getattr(timing, field.name) for field in fields(timing)}
        super().__init__(member, _HastyTiming(**values), now, random=random)


class HastyRelay(Campaign):
    """Who relays a record that is not promoted does not wait for whom its steward waited."""

    def begin_renewal(self, now: float, *, leaving: bool = False) -> Write | None:
        relay = self.lease is None
        write = super().begin_renewal(now, leaving=leaving)
        if relay and write is not None and write.record is not None:
            record = replace(write.record, promoted=True)
            _change(write, record=record, headers=headers_of(record), promotable_at=now)
        return write


class EmptyRelease(Campaign):
    """The release of a record that was not promoted counts as a release."""

    def begin_release(self, now: float, *, tenure: int | None = None) -> Write | None:
        write = super().begin_release(now, tenure=tenure)
        if write is not None:
            _change(write, headers=release_headers(self.member.replica))
        return write


class TrustedWatch(Campaign):
    """A watch is believed to leave nothing out."""

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        super().observe(replace(sighting, live=look is None), now, look=look)


class AgesBelieved(Campaign):
    """A renewal counts from when the server says that it was stored."""

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        super().observe(sighting, now - sighting.age, look=look)


class ExpiryBelieved(Campaign):
    """A record that the server removed for its age was a TTL old, by whatever clock."""

    def begin_create(self, now: float) -> Write | None:
        write = super().begin_create(now)
        latest = self.latest
        expired = isinstance(latest, Marker) and latest.cause is Cause.EXPIRED
        if expired and write is not None and write.record is not None:
            record = replace(write.record, promoted=True, wait=0.0)
            _change(write, record=record, headers=headers_of(record), promotable_at=now)
        return write


class LongGaps(Campaign):
    """However long a gap in the watch lasts, nobody unseen can have come and expired in it."""

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        unseen_for = min(sighting.unseen_for, 1e-6)
        super().observe(replace(sighting, unseen_for=unseen_for), now, look=look)


class GapsOfOthers(Campaign):
    """A gap in the watch is never on the key that the marker after it is on."""

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        super().observe(replace(sighting, unseen_for=0.0), now, look=look)


class TrustsHeaders(Campaign):
    """Who writes our site into a record is taken for one of us, also in a copy of our cluster."""

    def ours(self, record: Record) -> bool:
        return record.replica == self.member.replica or record.site == self.member.site != ""


class TimeoutIsSuccess(Member):
    """No answer is taken for a good one."""

    def answer(self, write: Write, answer: Answer) -> None:
        if answer.outcome is Outcome.UNKNOWN:
            known = self.campaign.latest.revision if self.campaign.latest is not None else 0
            answer = Answer(Outcome.STORED, max(known, write.expected) + 1)
        super().answer(write, answer)


class _Marked(Campaign):
    """Remembers which write is a transfer, and which a relay."""

    transfer: Write | None = None
    relay: Write | None = None

    def begin_transfer(
        self, nominee: Nominee, now: float, *, tenure: int | None = None
    ) -> Write | None:
        self.transfer = super().begin_transfer(nominee, now, tenure=tenure)
        return self.transfer

    def begin_renewal(self, now: float, *, leaving: bool = False) -> Write | None:
        relay = self.lease is None
        write = super().begin_renewal(now, leaving=leaving)
        self.relay = write if relay else None
        return write


class BlindTransfer(Member):
    """A transfer expects no revision."""

    machine = _Marked

    def publish(self, write: Write) -> Answer:
        campaign = self.campaign
        if isinstance(campaign, _Marked) and write is campaign.transfer:
            return self.put(write, None)
        return super().publish(write)


class BlindRelay(Member):
    """A relay expects no revision."""

    machine = _Marked

    def publish(self, write: Write) -> Answer:
        campaign = self.campaign
        if isinstance(campaign, _Marked) and write is campaign.relay:
            return self.put(write, None)
        return super().publish(write)


class BlindCreate(Member):
    """A create that is refused for a marker nobody has seen is published over that marker."""

    def publish(self, write: Write) -> Answer:
        entry = self.server.entry
        if write.record is not None and not write.record.term and isinstance(entry, Marker):
            return self.put(write, entry.revision)
        return super().publish(write)


@dataclass(frozen=True, slots=True)
class Fault:
    """A planted fault, and how it shows."""

    cause: type[Member | Campaign]
    shows: str
    """Part of what the referee says then."""
    focus: tuple[str, ...]
    """The misfortunes of `Scenario` under which it shows most often."""

    @property
    def member(self) -> type[Member]:
        """The driver that makes the mistake, or drives the machine that does."""
        return self.cause if issubclass(self.cause, Member) else Member

    @property
    def campaign(self) -> type[Campaign]:
        """The machine that makes the mistake, or is driven by the driver that does."""
        return self.cause.machine if issubclass(self.cause, Member) else self.cause


TWO = "two act at once"
OVER = "wrote over the record"
CHORIA = "still believes in its term"

FAULTS = (
    Fault(NoDeadline, TWO, ("_bad_link",)),
    Fault(DeadlineFromAnswer, TWO, ("_die_slowly",)),
    Fault(DeadlineFromOldRevision, TWO, ("_die_slowly",)),
    Fault(TimeoutIsSuccess, TWO, ("_bad_link",)),
    Fault(BlindTransfer, OVER, ("_hand_over",)),
    Fault(HastyAfterStranger, CHORIA, ("_cut_choria",)),
    Fault(BlindCreate, TWO, ("_stall_watches",)),
    Fault(BlindRelay, OVER, ("_ambush", "_urge")),
    Fault(HastyRelay, TWO, ("_evict_unnoticed", "_leave", "_urge")),
    Fault(EmptyRelease, TWO, ("_evict_unnoticed", "_stop_member")),
    Fault(TrustedWatch, TWO, ("_stall_watches",)),
    Fault(TrustsHeaders, OVER, ("_kill", "_leave", "_urge")),
    Fault(AgesBelieved, TWO, ("_evict_unnoticed", "_move_stream", "_stall_watches")),
    Fault(ExpiryBelieved, TWO, ("_bad_link", "_move_stream")),
    Fault(LongGaps, CHORIA, ("_outlast_choria",)),
    Fault(GapsOfOthers, TWO, ("_evict_unnoticed", "_stall_watches")),
)
