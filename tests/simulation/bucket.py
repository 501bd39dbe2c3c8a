"""A model of the bucket, and of what lies between a process and it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Cause, Entry, Marker, Nothing, Record
from simulation.world import Process, World

INFO_EVERY = 10.0
"""Seconds between looks of a process at the bucket, which tell the server's time."""

T = TypeVar("T")


class Observer(Protocol):
    """Who is told what happens in the bucket."""

    def stored(self, writer: Process | None, before: Entry, entry: Entry) -> None:
        """A message was stored; the writer is None for an operator's."""

    def removed(self, before: Entry) -> None:
        """The server removed an entry for its age."""

    def lost(self) -> None:
        """The bucket came back without what it had."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How one bucket behaves."""

    ttl: float
    markers: bool
    """Whether an expired record, or an expired delete marker, leaves a marker."""
    late: float
    """Seconds by which an expired entry is removed late, at most: 0.4 in a single server."""
    very_late: float
    """How often it is up to 2 s instead, as where the removal is replicated."""
    marker_ttl: float
    """Seconds until the marker of an expiry is removed itself."""
    rate: float
    """Seconds on the server's clock for each second of the world."""
    glitch: float
    """How often a write is refused, or its fate left open, for no reason of ours."""
    apart: float = 0.0
    """Seconds by which the clock of each server may differ from that of the first."""


class Message(NamedTuple):
    """An entry on its way to a process."""

    entry: Entry
    stored_at: float
    """By the clock of the server that stored it."""
    number: int
    """How many messages the key had got by then, with this one."""
    epoch: int
    live: bool = False
    """Whether a watch shows it, with nothing left out before it."""


class Words:
    """An entry, for a timeline: put into words only if somebody reads it."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __str__(self) -> str:
        """Return the words."""
        match self.entry:
            case Marker(revision, cause):
                return f"a marker ({revision}, {cause.value})"
            case Record() as record:
                words = [f"{record.holder!r} ({record.revision}, term {record.term}"]
                words += [f"by {record.replica or 'a stranger'}"]
                words += ["not promoted"] * (not record.promoted) + ["leaving"] * record.leaving
                return ", ".join(words) + ")"
            case _:
                return "nothing"


class Server:
    """One key of a bucket with history 1. Other keys only make its revisions leap."""

    def __init__(self, world: World, habits: Habits, observer: Observer) -> None:
        self.world = world
        self.habits = habits
        self.observer = observer
        self.up = True
        self.epoch = 0
        """How often the bucket lost everything."""
        self.entry: Entry = Nothing()
        self.count = 0
        """Messages on the key so far, as a watch sees them."""
        self.links: list[Link] = []
        self.incarnation = 0
        """How often it was restarted."""
        self.ahead = 0.0
        """Seconds by which the clock of the server that leads is ahead of the first one's."""
        self.log: list[float] = []
        """When each of these messages was stored, in the world's time."""
        self._sequence = 0
        self._stored_at = self._expires_at = 0.0
        self._leaders = 0
        self._before = Message(self.entry, 0.0, 0, 0)
        self._overdue = False

    @property
    def revision(self) -> int:
        """The revision that a write has to expect."""
        return self.entry.revision

    def read(self) -> Message:
        """Return what a read of the stream's leader shows."""
        return Message(self.entry, self._stored_at, self.count, self.epoch)

    def read_old(self) -> Message:
        """Return what a server that lags would show."""
        return self._before

    def write(
        self, writer: Process | None, value: str, headers: Mapping[str, str], expected: int | None
    ) -> Answer:
        """Store a message, if the last revision is the expected one; None: in any case."""
        glitch = expected is not None and self.world.chance(self.habits.glitch)
        if glitch and self.world.chance(0.7):
            outcome = Outcome.REFUSED if self.world.chance(0.5) else Outcome.UNKNOWN
            self._note(writer, "%s for no reason", outcome.value)
            return Answer(outcome)
        if expected not in {None, self.revision}:
            self._note(writer, "refused: expected %s, it is %s", expected, self.revision)
            return Answer(Outcome.REFUSED)
        self._sequence += 1 if self.world.chance(0.7) else 3
        entry = wire.entry_from(value.encode(), headers, self._sequence)
        before = self.entry
        self._set(entry, self.habits.ttl)
        self._note(writer, "stored %s", Words(entry))
        self.observer.stored(writer, before, entry)
        return Answer(Outcome.UNKNOWN if glitch else Outcome.STORED, self._sequence)

    def move(self) -> None:
        """Let another server lead, whose clock shows another time."""
        self.incarnation += 1
        self._leaders += 1
        self.ahead = self.world.between(-self.habits.apart, self.habits.apart)
        self.world.note("bucket", "another server leads, %.3f s ahead", self.ahead)
        if not isinstance(self.entry, Nothing):
            self._expire_when_due()

    def stop(self, seconds: float, *, keep: bool) -> None:
        """Restart the server, with its store or without."""
        self.up = False
        self.incarnation += 1
        for link in self.links:
            link.break_off()
        self.world.note("bucket", "stopped")
        self.world.at(self.world.now + seconds, self._start, keep)

    def _start(self, keep: bool) -> None:  # noqa: FBT001
        self.up = True
        self.world.note("bucket", "started %s its store", "with" if keep else "without")
        if not keep:
            self.epoch += 1
            self._sequence = self.count = 0
            self.log = []
            self.entry = Nothing()
            self._before = self.read()
            self._overdue = False
            self.observer.lost()
        elif self._overdue:
            self._overdue = False
            self._expire_when_due()
        for link in self.links:
            link.reconnect()

    def _set(self, entry: Entry, ttl: float) -> None:
        self._before = self.read()
        self.entry, self._stored_at = entry, self.world.now + self.ahead
        self.count += 1
        self.log.append(self.world.now)
        self._expires_at = self._stored_at + ttl / self.habits.rate
        self._expire_when_due()
        for link in self.links:
            link.notify()

    def _expire_when_due(self) -> None:
        """Remove the entry when it is old enough by the clock of the server that leads."""
        habits = self.habits
        late = self.world.between(0, 2.0 if self.world.chance(habits.very_late) else habits.late)
        at = max(self.world.now, self._expires_at - self.ahead) + late
        self.world.at(at, self._expire, self.revision, self.epoch, self._leaders)

    def _expire(self, revision: int, epoch: int, leaders: int) -> None:
        if self._leaders != leaders:
            return
        before = self.entry
        if before.revision != revision or self.epoch != epoch:
            return
        if not self.up:
            self._overdue = True
            return
        expiry = isinstance(before, Marker) and before.cause is Cause.EXPIRED
        if self.habits.markers and not expiry:
            self._sequence += 1
            marker = wire.entry_from(b"", {wire.MARKER_REASON: "MaxAge"}, self._sequence)
            self._set(marker, self.habits.marker_ttl)
        else:
            self._before, self.entry = self.read(), Nothing()
        self.world.note("bucket", "removed %s for its age", Words(before))
        self.observer.removed(before)

    def _note(self, writer: Process | None, what: str, *values: object) -> None:
        if self.world.timeline is not None:
            who = "an operator" if writer is None else writer.name
            self.world.note("bucket", f"{who}: {what}", *values)


class Weather(enum.Enum):
    """What is wrong with a link."""

    FAIR = "fair"
    CUT = "cut"
    """Everything is lost, and both ends know it."""
    HOLE = "black-holed"
    """Everything is held, or lost, and no end knows it."""
    MUTE = "mute"
    """What the process sends is held or lost."""
    DEAF = "deaf"
    """What the bucket sends is held or lost."""
    SLOW = "slow"
    """Everything takes its time, each message its own."""


_NO_WAY_OUT = (Weather.CUT, Weather.HOLE, Weather.MUTE)
_NO_WAY_IN = (Weather.CUT, Weather.HOLE, Weather.DEAF)


@dataclass(frozen=True, slots=True)
class Nature:
    """What the links of one run are like on a fair day."""

    latency: float
    loss: float
    """How often one message is lost."""
    slow: float
    """How often one message takes up to `slowest`, so that a later one overtakes it."""
    slowest: float
    """Seconds; also in slow weather."""
    lag: float
    """Seconds by which a watch is behind everything else, at most."""
    skipping: float
    """How often a watch falls behind, and leaves out what is no longer there."""


class Link:
    """The connection of one process to the bucket, with a watch of the key if it wants one."""

    def __init__(
        self,
        server: Server,
        process: Process,
        nature: Nature,
        seen: Callable[[Sighting], None] | None = None,
        renewed: Callable[[], None] | None = None,
    ) -> None:
        self.server = server
        self.process = process
        self.nature = nature
        self.weather = Weather.FAIR
        self.disturbed_at = server.world.now
        """When something went wrong last; in the future while it still does."""
        self._world = server.world
        self._age_error = nature.latency * 2 * server.world.random.random()
        self._seen = seen
        self._renewed = renewed
        self._until = 0.0
        self._epoch = server.epoch
        self._connection = 0
        self._watch = 0
        self._watching = False
        self._shown = 0
        self._arrives = 0.0
        self._taken: int | None = None
        """How many messages the key had when the process was shown it last; None if it was not."""
        self._taken_epoch = 0
        self._watched_at = self._learnt_at = server.world.now
        self._ahead = server.ahead
        server.links.append(self)
        self._resync(self._watch)

    @property
    def fair(self) -> bool:
        """Whether requests and the watch work at this moment."""
        fair = self.weather is Weather.FAIR and self._watching and self.server.up
        return fair and self.disturbed_at <= self._world.now

    def ask(self, work: Callable[[], T], answer: Callable[[T], None]) -> None:
        """Have the server do some work, and the process receive its result. Either may fail."""
        delay = self._delay(_NO_WAY_OUT)
        if delay is not None:
            at = self._world.now + delay
            self._world.at(
                at, self._arrive, work, answer, self._connection, self.server.incarnation
            )

    def sighting(self, message: Message) -> Sighting:
        """Return what a process makes of a message that it takes in at this moment.

        Its age may be said too small, for the server's clock was learnt from an answer that took
        its time. It is said too great only if another server led in the meantime.
        """
        now, rate = self._world.now, self.process.rate
        if now > self._learnt_at + INFO_EVERY:
            self._learn()
        age = max(0.0, (now + self._ahead - message.stored_at) * rate - self._age_error)
        age = 0.0 if isinstance(message.entry, Nothing) else age
        return Sighting(message.entry, age, message.live, self._unseen_for(message))

    def _learn(self) -> None:
        """Learn the time of the server's clock."""
        self._learnt_at, self._ahead = self._world.now, self.server.ahead

    def _unseen_for(self, message: Message) -> float:
        """Return for how long the watch may have left something out, at least as it has.

        What is missing may also be on another key, and then the watch is in doubt for longer.
        """
        taken, now = self._taken, self._world.now
        if taken is None or message.epoch != self._taken_epoch:
            return math.inf
        last = message.number - (not isinstance(message.entry, Nothing))
        log = self.server.log
        missing = log[taken:last]
        if not missing and self._world.chance(0.5):
            return 0.0
        earliest = log[taken - 1] if 0 < taken <= len(log) else self._watched_at
        since = self._world.between(earliest, max(earliest, missing[0] if missing else now))
        # It was stamped by one server, and is compared with the clock of another.
        since = min(now, since + self.server.ahead - self._ahead)
        return max(1e-6, (now - since) * self.process.rate)

    def suffer(self, weather: Weather, seconds: float) -> None:
        """Have bad weather for so long."""
        self._world.note(self.process.name, "link %s for %.2f s", weather.value, seconds)
        self.weather = weather
        self._until = self._world.now + seconds
        self._disturb(seconds)
        if weather is Weather.CUT:
            self.break_off()
        self._world.at(self._until, self._clear_up, self._until)

    def stall(self, seconds: float) -> None:
        """Have the watch fall silent for so long, unnoticed; everything else works."""
        self._world.note(self.process.name, "watch silent for %.2f s", seconds)
        self._end_watch()
        self._disturb(seconds)
        self._later(seconds, self._resync)

    def break_off(self) -> None:
        """Lose the connection, and every message that is under way to the process."""
        self._connection += 1
        self._end_watch()

    def reconnect(self) -> None:
        """Have a new connection soon."""
        self._disturb(0)
        if not self._watching:
            self._watch += 1
            self._later(self._world.between(0, 1), self._resync)

    def close(self) -> None:
        """End with the process."""
        self._end_watch()
        self.server.links.remove(self)

    def notify(self) -> None:
        """Take in that there is a new message on the key."""
        if not self._watching:
            return
        if self._world.chance(self.nature.skipping):
            self._later(self._world.between(0, 0.5), self._pump)
        else:
            self._pump(self._watch)

    def _arrive(
        self,
        work: Callable[[], object],
        answer: Callable[[object], None],
        connection: int,
        incarnation: int,
    ) -> None:
        if not self.server.up or self.server.incarnation != incarnation:
            self._disturb(0)
            return
        result = work()
        delay = self._delay(_NO_WAY_IN)
        if delay is not None:
            at = self._world.now + delay
            self._world.at(at, self._return, answer, result, connection)

    def _return(self, answer: Callable[[object], None], result: object, connection: int) -> None:
        if connection == self._connection:
            self.process.receive(answer, result)

    def _delay(self, blocked: tuple[Weather, ...]) -> float | None:
        """Return how long a message is under way; None if it does not come."""
        nature, dice = self.nature, self._world.random.random
        delay = nature.latency * (0.5 + dice())
        if self.weather in blocked:
            if self.weather is Weather.CUT or dice() < 0.5:
                return None
            delay += self._until - self._world.now
            self._disturb(delay)
            return delay
        if self.weather is Weather.SLOW and (blocked is _NO_WAY_IN or dice() < 0.5):
            delay += nature.slowest * dice()
            self._disturb(delay)
            return delay
        fate = dice()
        if fate < nature.loss:
            self._world.note(self.process.name, "a message is lost")
            self._disturb(0)
            return None
        if fate < nature.loss + nature.slow:
            delay += nature.slowest * dice()
            self._world.note(self.process.name, "a message takes %.2f s", delay)
            self._disturb(delay)
        return delay

    def _disturb(self, seconds: float) -> None:
        self.disturbed_at = max(self.disturbed_at, self._world.now + seconds)

    def _clear_up(self, until: float) -> None:
        if until != self._until:
            return
        if self.weather is not Weather.CUT and self._world.chance(0.5):
            self.break_off()  # a ping found no answer
        self.weather = Weather.FAIR
        self._world.note(self.process.name, "link fair")
        self.reconnect()

    # The watch

    def _later(self, seconds: float, action: Callable[[int], None]) -> None:
        self._world.at(self._world.now + seconds, action, self._watch)

    def _end_watch(self) -> None:
        self._watch += 1
        self._watching = False
        self._disturb(0)

    def _resync(self, watch: int) -> None:
        if watch != self._watch or self._seen is None:
            return
        if self.weather is not Weather.FAIR or not self.server.up:
            self._later(0.5 + self._world.random.random(), self._resync)
            return
        self._later(self._delay(_NO_WAY_OUT) or 2.0, self._subscribe)

    def _subscribe(self, watch: int) -> None:
        if watch != self._watch:
            return
        if not self.server.up:
            self._later(1.0, self._resync)
            return
        server = self.server
        self._watching = True
        self._learn()
        self._shown = server.count
        delay = self._delay(_NO_WAY_IN)
        if delay is None:
            self._lose_watch()
            return
        self._disturb(delay)
        if server.epoch != self._epoch:
            self._epoch = server.epoch
            self._show(None, delay)
        elif server.count and self._world.chance(0.1):
            # The consumer is on a server that lags: what came since follows.
            self._shown -= 1
            self._show(server.read_old(), delay)
            self._later(self._world.between(0, 0.5), self._pump)
            self._disturb(delay + 0.5)
            return
        self._show(server.read(), delay)

    def _pump(self, watch: int) -> None:
        server = self.server
        if watch != self._watch or server.count == self._shown:
            return
        live = server.count == self._shown + 1
        self._shown = server.count
        delay = self._delay(_NO_WAY_IN)
        if delay is None:
            self._lose_watch()
            return
        # Without a marker, what expired meanwhile is not there to be shown.
        if not isinstance(server.entry, Nothing):
            self._show(server.read()._replace(live=live), delay)

    def _lose_watch(self) -> None:
        self._end_watch()
        self._later(self._world.between(0, 4), self._resync)

    def _show(self, message: Message | None, delay: float) -> None:
        delay += self.nature.lag * self._world.random.random()
        self._arrives = max(self._arrives, self._world.now + delay)
        self._world.at(self._arrives, self._bring, message, self._watch)

    def _bring(self, message: Message | None, watch: int) -> None:
        if watch == self._watch:
            self.process.receive(self._take, message)

    def _take(self, message: Message | None) -> None:
        if message is not None and self._seen is not None:
            sighting = self.sighting(message)
            if self._taken is None:
                self._watched_at = self._world.now
            self._taken, self._taken_epoch = message.number, message.epoch
            self._seen(sighting)
        elif message is None and self._renewed is not None:
            self._taken = None
            self._renewed()
