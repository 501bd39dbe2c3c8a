"""The members: processes of Incumbent, alone or as replicas of a site, and Choria's."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from incumbent.campaign.events import CampaignEvent, Lost
from incumbent.campaign.machine import Campaign, Create, Lease, Look, Renew, Wait, Write
from incumbent.campaign.machine import Member as Who
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Marker, Nominee, Profile, Record
from incumbent.campaign.steps import Step
from incumbent.campaign.timing import MAXIMUM_SPLAY, STAND_DOWN, Timing
from simulation.bucket import Link, Message, Nature, Server, Words
from simulation.world import Process, World


class Judge(Protocol):
    """Who is told what members do."""

    def reported(self, member: Member, event: CampaignEvent) -> None:
        """A campaign reported an event."""

    def announced(self, member: Member, record: Record) -> None:
        """A pod got the label."""

    def moved(self, member: Member) -> None:
        """Somebody may act now, or may not any more."""

    def begun(self, member: Member, write: Write) -> None:
        """A write was begun."""


class Goal(enum.Enum):
    """What a member is about."""

    LEAD = "lead"
    STOP = "stop"
    """Release what it holds, then end."""
    LEAVE = "leave"
    """Renew once more for its siblings' sake, then end."""
    ABSTAIN = "abstain"
    """Release what it holds, and stay."""


@dataclass(slots=True, eq=False)
class Party:
    """Those among whom leadership is one: a site with its replicas, or a member by itself.

    For a site this is also its cluster: its pods, the label, and the fence, a version of the pods
    that every strip counts up. The API server answers at once; what happens when it does not is
    the business of other tests.
    """

    name: str
    site: str = ""
    wanted: str | None = None
    """The identity that should lead, for a site; None: no pod is a candidate."""
    labelled: str | None = None
    fence: int = 0
    steward: str = ""
    steward_from: int = 0
    """The replica that made itself known as the steward last, and at which revision."""
    members: list[Member] = field(default_factory=list)
    """Its processes, the dead ones too while their lease counts."""
    processes: set[str] = field(default_factory=set)
    """The names of all its processes so far, which know each other by their API server."""

    def ours(self, record: Record) -> bool:
        """Whether one of its processes wrote a record: a copy of its cluster has the same site."""
        return record.replica in self.processes

    def doubtful(self, record: Record) -> bool:
        """Whether a record claims to be of this site, and is not."""
        return record.site == self.site and not self.ours(record)

    def inherited(self, record: Record) -> bool:
        """Whether a record is of a process that only a status names: all are known here."""
        return False

    def strip(self) -> None:
        """Take the leader label away, confirmed; the replicas' watches of the pods show it."""
        self.fence += 1
        if self.labelled is not None:
            for member in self.members:
                member.world.at(member.world.now, member.receive, member.wake)
        self.labelled = None

    def leader(self) -> Member | None:
        """Return the member by whose lease somebody acts at this moment."""
        if not self.site:
            return next((m for m in self.members if m.alive and m.leads), None)
        if self.labelled is None:
            return None
        return next((m for m in self.members if m.leads and m.holder == self.labelled), None)


class Member(Process):
    """A process of Incumbent: a driver, and the campaign that it drives."""

    machine: type[Campaign] = Campaign

    def __init__(
        self,
        world: World,
        server: Server,
        judge: Judge,
        party: Party,
        name: str,
        timing: Timing,
        nature: Nature,
        rate: float,
        machine: type[Campaign],
    ) -> None:
        super().__init__(world, name, rate)
        self.party = party
        self.timing = timing
        self.goal = Goal.LEAD
        self.healthy_from = world.now
        """When it was started, resumed or told to lead."""
        self.creates = 0
        """Attempts since the key was last taken."""
        self.outstanding: CampaignEvent | None = None
        """The `Won` that no `Lost` has followed."""
        kin = party if party.site else None
        party.processes.add(name)
        self.campaign = machine(
            Who(name, party.site, kin=kin), timing, self.clock(), random=world.random.random
        )
        if timing.profile is Profile.CHORIA:
            self.healthy_from += timing.splay / rate
        self.ambush: Callable[[], None] | None = None
        """What happens soon after the next write was sent."""
        self.must_look = False
        """Whether it went on beyond its deadline, and has not found out yet what happened."""
        self.server = server
        self._judge = judge
        self._busy: Write | Look | None = None
        self._ticket = 0
        self._alarm = 0
        self._fence = 0
        self._attempts = 0
        self._lease: Lease | None = None
        self._nominate()
        self.link = Link(server, self, nature, self._seen, self._renewed)

    @property
    def leads(self) -> bool:
        """Whether its lease says that its holder may act at this moment."""
        return self.campaign.leads(self.clock())

    @property
    def holder(self) -> str:
        """Who its lease names."""
        lease = self.campaign.lease
        return lease.record.holder if lease else ""

    @property
    def healthy(self) -> bool:
        """Whether it can lead: nothing is wrong with it at this moment."""
        well = self.alive and not self.paused and self.goal is Goal.LEAD and self.link.fair
        return well and self.campaign.nominee is not None

    @property
    def well_since(self) -> float:
        """When something was wrong with it last."""
        return max(self.healthy_from, self.link.disturbed_at)

    def aim(self, goal: Goal) -> None:
        """Give it another goal."""
        self.world.note(self.name, "is to %s", goal.value)
        self.goal = goal
        self._attempts = 0
        self.healthy_from = self.world.now
        self.receive(self._consider)

    def resume(self) -> None:
        """Go on."""
        self.healthy_from = self.world.now
        lease = self.campaign.lease
        self.must_look = lease is not None and self.clock() >= lease.deadline
        super().resume()
        self.receive(self.wake)

    def kill(self) -> None:
        """End it as SIGKILL does."""
        super().kill()
        self.link.close()
        self._judge.moved(self)

    def urge(self) -> None:
        """Tell it that work stands undone."""
        self.receive(self._urge)

    def reconsider(self) -> None:
        """Look at what the party wants now."""
        self.healthy_from = self.world.now
        self.receive(self._consider)

    # The driver

    def wake(self) -> None:
        """Poll, and do what is to be done: one thing at a time."""
        now = self.clock()
        step = self.campaign.poll(now)
        self._tell()
        self.must_look = self.must_look and self.campaign.lease is None
        if self._busy is None and self.alive:
            self._do(step, now)
        lease = self.campaign.lease
        until = step.until if isinstance(step, Wait) else float("inf")
        if lease is not None:
            until = min(until, lease.deadline)
            if now < lease.acts_from:
                until = min(until, lease.acts_from)
        self._alarm += 1
        if now < until < float("inf"):
            self.ring_at(until, self._alarmed, self._alarm)

    def publish(self, write: Write) -> Answer:
        """Carry a write out; this runs at the server."""
        return self.put(write, write.expected)

    def answer(self, write: Write, answer: Answer) -> None:
        """Take in how a write ended."""
        self.campaign.answered(write, answer, self.clock())

    def put(self, write: Write, expected: int | None) -> Answer:
        """Store what a write says, expecting that revision, or none."""
        value = write.record.holder if write.record is not None else ""
        return self.server.write(self, value, write.headers, expected)

    def _alarmed(self, alarm: int) -> None:
        if alarm == self._alarm:
            self.wake()

    def _urge(self) -> None:
        self.campaign.urge()
        self.wake()

    def _consider(self) -> None:
        self._nominate()
        self.wake()

    def _nominate(self) -> None:
        party = self.party
        if self.goal is not Goal.LEAD:
            self.campaign.nominate(None)
        elif not party.site:
            self.campaign.nominate(Nominee(party.name))
        elif party.wanted is None:
            self.campaign.nominate(None)
        else:
            self.campaign.nominate(Nominee(party.wanted, f"uid-{party.wanted}"))

    def _do(self, step: Step, now: float) -> None:
        if isinstance(step, Look):
            self._look(step, now)
            return
        if self.goal is not Goal.LEAD and not self.party.site:
            self._withdraw(now)
            return
        if self.goal is not Goal.LEAD:
            self._leave(now)
            return
        if self.party.site and self._mind_pods(now):
            return
        if isinstance(step, Renew):
            self._begin(self.campaign.begin_renewal(now), now)
        elif isinstance(step, Create):
            self.creates += 1
            write = self.campaign.begin_create(now)
            if self.party.site:
                self.party.strip()  # whoever the last record named
            self._begin(write, now)

    def _mind_pods(self, now: float) -> bool:
        """Do what a steward does for the pods; True if a write was begun."""
        campaign, party = self.campaign, self.party
        record = campaign.record
        if record is None or not campaign.ours(record):
            if campaign.latest is not None and party.labelled is not None:
                party.strip()
                self._judge.moved(self)
            if record is not None:
                return False
        if campaign.lease is None or campaign.unanswered:
            return False
        if party.wanted is None:
            party.strip()
            return self._begin(campaign.begin_release(now), now)
        if self.holder != party.wanted:
            party.strip()
            nominee = Nominee(party.wanted, f"uid-{party.wanted}")
            return self._begin(campaign.begin_transfer(nominee, now), now)
        if campaign.leads(now) and party.labelled != party.wanted:
            return self._begin(campaign.begin_renewal(now), now)
        return False

    def _withdraw(self, now: float) -> None:
        write = self.campaign.begin_release(now) if self._attempts < 3 else None
        if self._begin(write, now):
            self._attempts += 1
        elif self.goal is Goal.STOP:
            self.kill()

    def _leave(self, now: float) -> None:
        self._attempts += 1
        write = None
        if self._attempts == 1 and self.campaign.lease is not None:
            write = self.campaign.begin_renewal(now, leaving=True)
        if not self._begin(write, now):
            self.kill()

    def _begin(self, write: Write | None, now: float) -> bool:
        self._tell()
        if write is None:
            return False
        record = write.record
        if record is not None:
            self._fence = self.party.fence
        if self.world.timeline is not None:
            what = "releases" if record is None else f"writes {record.holder}, term {record.term}"
            self.world.note(self.name, "%s, expecting %s", what, write.expected)
        self._judge.begun(self, write)
        self._request(write, lambda: self.publish(write), write.timeout, now)
        if self.ambush is not None:
            soon = self.world.between(0, 2.5 * self.link.nature.latency)
            self.world.at(self.world.now + soon, self.ambush)
            self.ambush = None
        return True

    def _look(self, look: Look, now: float) -> None:
        self.world.note(self.name, "looks")
        self.must_look = False
        self._request(look, self.server.read, look.timeout, now)

    def _request(
        self, what: Write | Look, work: Callable[[], object], timeout: float, now: float
    ) -> None:
        self._busy = what
        self._ticket += 1
        ticket = self._ticket
        self.link.ask(work, lambda result: self._ended(ticket, result))
        self.ring_at(now + timeout, self._ended, ticket, None)

    def _ended(self, ticket: int, result: object) -> None:
        """Take in an answer, or that there was none in time: whichever comes first."""
        if ticket != self._ticket or self._busy is None:
            return
        busy, self._busy = self._busy, None
        if isinstance(busy, Look):
            if isinstance(result, Message):
                self.world.note(self.name, "has found %s", Words(result.entry))
                self.must_look = False
                self.campaign.observe(self.link.sighting(result), self.clock(), look=busy)
            else:
                self.healthy_from = self.world.now
                self.campaign.unreadable(self.clock())
        else:
            answer = result if isinstance(result, Answer) else Answer(Outcome.UNKNOWN)
            self.world.note(self.name, "has its answer: %s", answer.outcome.value)
            self.answer(busy, answer)
            self.campaign.poll(self.clock())
            self._tell()
            if answer.outcome is Outcome.STORED:
                self._label(answer.revision)
            elif answer.outcome is Outcome.UNKNOWN or busy.expected == self.server.revision:
                self.healthy_from = self.world.now  # refused for no reason
        self.wake()

    def _label(self, revision: int) -> None:
        """Set the label, if the write that was just stored entitles us to."""
        campaign, party = self.campaign, self.party
        lease = campaign.lease
        if not party.site or lease is None or lease.record.revision != revision:
            return
        holder = lease.record.holder
        if party.steward != self.name:
            party.steward, party.steward_from = self.name, revision
        entitled = self.leads and not campaign.unanswered and holder == party.wanted
        if entitled and self._fence == party.fence:
            if party.labelled != holder:
                party.strip()
                self.world.note(self.name, "labels %s", holder)
            party.labelled = holder
            self._judge.announced(self, lease.record)
            self._judge.moved(self)

    def _seen(self, sighting: Sighting) -> None:
        if self.world.timeline is not None:
            how = " live" if sighting.live else ""
            self.world.note(
                self.name, "sees%s %s, %.3f s old", how, Words(sighting.entry), sighting.age
            )
        self.must_look = False
        self.campaign.observe(sighting, self.clock())
        self.wake()

    def _renewed(self) -> None:
        self.world.note(self.name, "learns that the bucket is another one")
        self.healthy_from = self.world.now  # what it waits for begins anew
        self.campaign.forget(self.clock())
        self.wake()

    def _tell(self) -> None:
        """Pass on what changed."""
        for event in self.campaign.events():
            if isinstance(event, Lost) and self.party.steward_from <= event.record.revision:
                self.party.strip()
            what = type(event).__name__
            why = f" ({event.loss.value})" if isinstance(event, Lost) else ""
            self.world.note(self.name, "%s%s: %s", what, why, Words(event.record))
            self._judge.reported(self, event)
        if self.campaign.lease is not self._lease:
            self._lease = self.campaign.lease
            self._judge.moved(self)


CHORIA_TIMEOUT = 5.0
"""Seconds after which a request of its client library ends in an error."""


class Choria(Process):
    """A member as Choria has it.

    It ticks every 0.75 TTL. A candidate creates; a leader updates expecting the last revision, and
    steps down at the first error, a timeout after 5 s among them. It is told that it won at the
    first update after the create, and 200 ms later. It has no deadline, does not release when it
    stops, and does not watch.
    """

    def __init__(
        self,
        world: World,
        server: Server,
        moved: Callable[[], None],
        name: str,
        interval: float,
        nature: Nature,
        rate: float,
    ) -> None:
        super().__init__(world, name, rate)
        self.leads = False
        """Whether it was told that it won, and not yet that it lost."""
        self.term = 0
        self.revision = 0
        """What it stored last; 0 as a candidate."""
        self.sent_at = 0.0
        """When it sent that, or the first of the requests for it."""
        self._server = server
        self._moved = moved
        self._interval = interval
        self._ticket = 0
        self._busy = False
        self._missed = False
        self.link = Link(server, self, nature)
        self.ring_at(self.clock() + world.between(0, MAXIMUM_SPLAY), self._tick)

    def kill(self) -> None:
        """End it as SIGKILL does."""
        super().kill()
        self.leads = False
        self.link.close()

    def _tick(self) -> None:
        self.ring_at(self.clock() + self._interval, self._tick)
        if self._busy:
            self._missed = True
        else:
            self._campaign()

    def _campaign(self) -> None:
        self._busy = True
        sent_at = self.world.now
        if self.revision:
            self._ask(self.revision, lambda answer: self._updated(answer, sent_at))
        else:
            self._ask(0, lambda answer: self._created(answer, sent_at))

    def _ask(self, expected: int, then: Callable[[object], None]) -> None:
        self._request(lambda: self._server.write(self, self.name, {}, expected), then)

    def _request(self, work: Callable[[], object], then: Callable[[object], None]) -> None:
        self._ticket += 1
        ticket = self._ticket

        def ended(result: object) -> None:
            if ticket == self._ticket and self._busy:
                self._ticket += 1
                then(result)

        self.link.ask(work, ended)
        self.ring_at(self.clock() + CHORIA_TIMEOUT, ended, None)

    def _created(self, answer: object, sent_at: float) -> None:
        if isinstance(answer, Answer) and answer.outcome is Outcome.REFUSED:
            self._request(lambda: self._server.entry, lambda e: self._over_marker(e, sent_at))
        else:
            self._founded(answer, sent_at)

    def _over_marker(self, entry: object, sent_at: float) -> None:
        if isinstance(entry, Marker):
            self._ask(entry.revision, lambda answer: self._founded(answer, sent_at))
        else:
            self._rest()

    def _founded(self, answer: object, sent_at: float) -> None:
        self._take(answer, sent_at)
        self.term = self.revision
        self._rest()

    def _updated(self, answer: object, sent_at: float) -> None:
        self._take(answer, sent_at)
        if not self.revision:
            if self.leads:
                self.world.note(self.name, "lost")
            self.leads = False
        elif not self.leads:
            self.ring_at(self.clock() + STAND_DOWN, self._won)
            return
        self._rest()

    def _take(self, answer: object, sent_at: float) -> None:
        stored = isinstance(answer, Answer) and answer.outcome is Outcome.STORED
        self.revision = answer.revision if stored and isinstance(answer, Answer) else 0
        if stored:
            self.sent_at = sent_at

    def _won(self) -> None:
        self.leads = True
        self.world.note(self.name, "won, term %s", self.term)
        self._moved()
        self._rest()

    def _rest(self) -> None:
        self._busy = False
        if self._missed:
            self._missed = False
            self._campaign()
