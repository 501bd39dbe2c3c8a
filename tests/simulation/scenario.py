"""Runs: who takes part, and what goes wrong, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from incumbent.campaign import wire
from incumbent.campaign.machine import Campaign
from incumbent.campaign.records import Profile, Promotion, Record
from incumbent.campaign.timing import Backoff, timing_for
from simulation.bucket import Habits, Nature, Server, Weather
from simulation.members import Choria, Goal, Member, Party
from simulation.referee import Referee
from simulation.world import Process, Violation, World

TTLS = (2.0, 3.0, 5.0, 5.0, 5.0, 6.0, 10.0, 30.0)
LEAST_FOR_CHORIA = 5.0
"""Below, its 5 s of waiting for an answer break even the promise that its algorithm gives."""
LENGTH = 12.0
"""TTLs that a run lasts."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run went."""

    seed: int
    violation: str
    """Empty if there was none."""
    terms: int
    faults: int
    timeline: list[str]
    """Only if it was asked for."""


def run(
    seed: int,
    *,
    seconds: float | None = None,
    timeline: bool = False,
    member: type[Member] = Member,
    campaign: type[Campaign] = Campaign,
    focus: Sequence[str] = (),
) -> Result:
    """Run one simulation; the same arguments give the same run.

    Args:
        seed: what everything is drawn from.
        seconds: how long the run lasts in virtual time; 12 TTLs by default.
        timeline: whether to keep a readable account.
        member: the driver to use instead of ours.
        campaign: the machine to use instead of ours.
        focus: names of misfortunes, to have no others.
    """
    world = World(seed, timeline=timeline)
    scenario = Scenario(world, member, campaign, focus)
    violation = ""
    try:
        world.run(LENGTH * scenario.ttl if seconds is None else seconds)
    except Violation as found:
        violation = str(found)
        world.note("REFEREE", "%s", violation)
    return Result(seed, violation, scenario.referee.terms, world.faults, world.timeline or [])


class Scenario:
    """The cast of one run, and its misfortunes."""

    def __init__(
        self,
        world: World,
        member: type[Member],
        campaign: type[Campaign],
        focus: Sequence[str],
    ) -> None:
        self.world = world
        self._member = member
        self._campaign = campaign
        dice = world.random
        ttl = self.ttl = dice.choice(TTLS)
        calm = dice.random() < 0.3
        self._nature = Nature(
            latency=dice.choice((0.0005, 0.005, 0.03)),
            loss=0.0 if calm else dice.choice((0.0, 0.002, 0.02)),
            slow=0.0 if calm else dice.choice((0.0, 0.01, 0.05)),
            slowest=dice.choice((0.2 * ttl, 0.4 * ttl, 1.2 * ttl)),
            lag=dice.choice((0.0, 0.0, 0.3)),
            skipping=dice.choice((0.0, 0.1)),
        )
        chorias = dice.choice((0, 0, 1, 2)) if ttl >= LEAST_FOR_CHORIA else 0
        # Towards a Choria member 200 ms have to cover the difference over 0.75 TTL.
        self._spread = min(0.01, 0.07 / (0.75 * ttl)) if chorias else 0.01
        markers = dice.random() < 0.6
        marker_ttl = dice.choice((ttl, ttl, 1.0))
        # What an operator saw for itself it counts on its own clock. Without markers it may see
        # nothing but what the servers' clocks have made of a record, and Choria counts on them.
        apart = dice.choice((0.0, 0.0, 0.025, 0.025 if chorias or not markers else 0.4))
        self.referee = Referee(world, ttl, markers_last=markers and marker_ttl >= ttl)
        habits = Habits(
            ttl=ttl,
            markers=markers,
            late=dice.choice((0.0, 0.4)),
            very_late=dice.choice((0.0, 0.0, 0.3)),
            marker_ttl=marker_ttl,
            rate=self._rate(),
            glitch=0.0 if calm else dice.choice((0.0, 0.0, 0.01)),
            apart=apart * ttl,
        )
        self.server = Server(world, habits, self.referee)
        self._outlasted_at = 0.0
        self._backoff: Backoff | None = None
        if dice.random() < 0.3:
            self._backoff = lambda tries: 0.75 * ttl * (1 + min(1, tries / 5))
        late = chorias > 0 and dice.random() < 0.4
        self.parties = self._parties(late=late)
        self.referee.parties = self.parties
        for number in range(chorias):
            self._start_choria(f"choria-{number + 1}", self._rate())
        kinds = self._kinds()
        if focus:
            kinds = [kind for kind in kinds if kind.__name__ in focus]
        else:
            # Few kinds at a time find more than all at once: they hit again and again.
            kinds = dice.sample(kinds, dice.choice((0, 1, 2, 2, 3, 3, 4, len(kinds))))
        self._gap = ttl * (0.3 if focus else dice.choice((0.2, 0.5, 1.0, 2.5)))
        world.note("bucket", "%s, %s", habits, self._nature)
        if kinds:
            world.at(world.between(0, 2 * self._gap), self._strike, kinds)

    # The cast

    def _rate(self) -> float:
        way = self.world.random.choice((-1.0, 1.0, self.world.between(-1, 1)))
        return 1.0 + way * self._spread

    def _parties(self, *, late: bool) -> list[Party]:
        dice = self.world.random
        alone = dice.choice((0, 1, 2, 3))
        sites = dice.choice((0, 0, 1, 2)) if alone else dice.choice((1, 2))
        parties = [Party(f"alone-{n + 1}") for n in range(alone)]
        parties += [Party(f"site-{n + 1}", site=f"site-{n + 1}") for n in range(sites)]
        if sites and dice.random() < 0.3:
            parties.append(Party("copy", site="site-1"))  # as a cloned cluster has it
        for party in parties:
            profile = Profile.PROMPT
            if self.ttl >= LEAST_FOR_CHORIA and dice.random() < 0.2:
                profile = Profile.CHORIA
            if party.site:
                party.wanted = f"{party.site}/p1"
            for number in range(dice.choice((1, 2, 2, 3)) if party.site else 1):
                name = f"{party.name}-{'abc'[number]}" if party.site else party.name
                # If they are late, a Choria member is there first.
                ttls = (
                    self.world.between(1.5, 3) if late else dice.choice((0, 0, 3)) * dice.random()
                )
                rate = self._rate()
                self.world.at(ttls * self.ttl, self._start, party, f"{name}~1", profile, rate)
        return parties

    def _start(self, party: Party, name: str, profile: Profile, rate: float) -> None:
        promotion = self.world.random.choice((None, None, *Promotion))
        timing = timing_for(self.ttl, profile=profile, promotion=promotion, backoff=self._backoff)
        member = self._member(
            self.world,
            self.server,
            self.referee,
            party,
            name,
            timing,
            self._nature,
            rate,
            self._campaign,
        )
        party.members = [m for m in party.members if m.alive or m.leads] + [member]
        self.referee.members[name] = member
        manners = f"{profile.value}, {timing.promotion.value}"
        self.world.note(name, "starts, %s, clock %.4f", manners, rate)

    def _start_choria(self, name: str, rate: float) -> None:
        choria = Choria(
            self.world,
            self.server,
            self.referee.check,
            name,
            0.75 * self.ttl,
            self._nature,
            rate,
        )
        self.referee.chorias.append(choria)
        self.world.note(name, "starts, clock %.4f", rate)

    def _restart(self, old: Member) -> None:
        base, _, number = old.name.partition("~")
        name = f"{base}~{int(number) + 1}"
        if name not in self.referee.members:
            self._start(old.party, name, old.timing.profile, old.rate)

    # Misfortunes

    def _kinds(self) -> list[Callable[[], None]]:
        return [
            self._pause,
            self._suspend_all,
            self._kill,
            self._bad_link,
            self._cut_choria,
            self._outlast_choria,
            self._evict,
            self._overwrite,
            self._evict_unnoticed,
            self._evict_again,
            self._ambush,
            self._die_slowly,
            self._stall_watches,
            self._restart_server,
            self._move_stream,
            self._lose_store,
            self._stop_member,
            self._hand_over,
            self._leave,
            self._urge,
        ]

    def _strike(self, kinds: list[Callable[[], None]]) -> None:
        self.world.random.choice(kinds)()
        self.world.at(self.world.now + self.world.between(0, 2 * self._gap), self._strike, kinds)

    def _fault(self, what: str) -> None:
        self.world.faults += 1
        self.world.note("FAULT", "%s", what)

    def _members(self) -> list[Member]:
        return [m for party in self.parties for m in party.members if m.alive]

    def _victim(self) -> Member | None:
        """Return a member: more often than not who holds the record."""
        entry = self.server.entry
        if isinstance(entry, Record) and self.world.chance(0.6):
            holder = self.referee.members.get(entry.replica)
            if holder is not None and holder.alive:
                return holder
        members = self._members()
        return self.world.random.choice(members) if members else None

    def _process(self) -> Process | None:
        """Return a member of either kind: more often than not who holds the record."""
        chorias = self.referee.chorias
        entry = self.server.entry
        if isinstance(entry, Record) and entry.stranger and self.world.chance(0.6):
            holders = [choria for choria in chorias if choria.name == entry.holder]
            if holders:
                return holders[0]
        if chorias and self.world.chance(0.2):
            return self.world.random.choice(chorias)
        return self._victim()

    def _while(self) -> float:
        """Return how long something lasts: short, or longer than a deadline."""
        if self.world.chance(0.5):
            return self.ttl * self.world.between(0.01, 0.6)
        return self.ttl * self.world.between(0.6, 2.0)

    def _pause(self) -> None:
        self._pause_one(self._process())

    def _pause_one(self, process: Process | None) -> None:
        if process is not None and process.alive and not process.paused:
            self._fault(f"SIGSTOP {process.name}")
            process.pause()
            self.world.at(self.world.now + self._while(), process.resume)

    def _suspend_all(self) -> None:
        """Pause everybody, as when a host sleeps; some fall asleep again after a write."""
        members = [member for member in self._members() if not member.paused]
        self._fault("everybody sleeps")
        seconds = self._while()
        for member in members:
            member.pause()
            wakes = self.world.now + seconds + self.world.between(0, 0.5) * self.ttl
            self.world.at(wakes, member.resume)
            if self.world.chance(0.5):
                member.ambush = self._strike_at(member)

    def _kill(self) -> None:
        self._kill_one(self._process())

    def _kill_one(self, process: Process | None) -> None:
        if process is None or not process.alive:
            return
        self._fault(f"SIGKILL {process.name}")
        process.kill()
        back = self.world.now + self._while()
        if isinstance(process, Member):
            self.world.at(back, self._restart, process)
        elif isinstance(process, Choria):
            self.referee.chorias.remove(process)
            self.world.at(back, self._start_choria, process.name, process.rate)

    def _bad_link(self) -> None:
        self._bad_link_of(self._process())

    def _bad_link_of(self, process: Process | None) -> None:
        if isinstance(process, (Member, Choria)) and process.alive:
            weather = self.world.random.choice(list(Weather)[1:])
            self._fault(f"{weather.value} {process.name}")
            process.link.suffer(weather, self._while())

    def _cut_choria(self) -> None:
        """Cut a Choria member off for so long that its record expires."""
        for choria in self.referee.chorias:
            if choria.leads and not choria.paused:
                self._fault(f"cut {choria.name} beyond the TTL")
                choria.link.suffer(Weather.CUT, self.ttl * self.world.between(1, 2))

    def _outlast_choria(self) -> None:
        """Cut ours off while a Choria member holds the key, and that one until its record expires.

        When ours come back, they see that a record has expired, and nothing of whose it was.
        """
        if not self.referee.chorias or self.world.now < self._outlasted_at:
            return
        self._outlasted_at = self.world.now + 5 * self.ttl
        self._fault("ours are cut off while a Choria member comes and goes")
        for member in self._members():
            member.link.suffer(Weather.CUT, self.ttl * self.world.between(2, 4))
        self._evict()
        for choria in self.referee.chorias:
            at = self.world.now + self.ttl * self.world.between(1.2, 2)
            self.world.at(at, choria.link.suffer, Weather.CUT, 2.5 * self.ttl)

    def _evict(self) -> None:
        operation = self.world.random.choice(("DEL", "PURGE"))
        if self.server.up:
            self._fault(f"an operator's {operation}")
            self.server.write(None, "", {wire.OPERATION: operation}, None)

    def _overwrite(self) -> None:
        value = self.world.random.choice(("", "somebody"))
        if self.server.up:
            self._fault(f"an operator puts {value!r}")
            self.server.write(None, value, {}, None)

    def _evict_unnoticed(self) -> None:
        """Evict a party that is cut off and cannot know."""
        victim = self._victim()
        if victim is None:
            return
        seconds = self.ttl * self.world.between(0.5, 1.5)
        for member in victim.party.members:
            if member.alive:
                self._fault(f"cut {member.name}, then evict")
                member.link.suffer(Weather.CUT, seconds)
        act = self.world.random.choice((self._evict, self._evict, self._overwrite))
        self.world.at(self.world.now + self.world.between(0, 0.2) * self.ttl, act)

    def _evict_again(self) -> None:
        """Evict one holder after the other."""
        for _ in range(3):
            wait = self.world.between(0, 0.3) * self.ttl
            act = self.world.random.choice((self._evict, self._evict, self._overwrite))
            self.world.at(self.world.now + wait, act)

    def _ambush(self) -> None:
        """Strike whoever is the next to send a write, or one that is chosen."""
        victims = [victim for victim in (self._victim(),) if victim is not None]
        for victim in self._members() if self.world.chance(0.5) else victims:
            victim.ambush = self._strike_at(victim)

    def _strike_at(self, member: Member) -> Callable[[], None]:
        return self.world.random.choice(
            (
                lambda: self._pause_one(member),
                lambda: self._falter(member),
                lambda: self._kill_one(member),
                lambda: self._bad_link_of(member),
                self._evict,
                self._overwrite,
            )
        )

    def _falter(self, member: Member) -> None:
        """Pause a member until its write has timed out, then cut it off."""
        if member.alive and not member.paused:
            self._fault(f"SIGSTOP {member.name}, then cut it off")
            member.pause()
            seconds = self.ttl * self.world.between(0.3, 0.9)
            self.world.at(self.world.now + seconds, member.resume)
            self.world.at(self.world.now + seconds, member.link.suffer, Weather.CUT, 2 * self.ttl)

    def _die_slowly(self) -> None:
        """Let the link of a member get slow, and then worse."""
        victim = self._victim()
        if victim is not None:
            seconds = self.ttl * self.world.between(0.2, 1.0)
            self._fault(f"slow {victim.name}")
            victim.link.suffer(Weather.SLOW, 2 * seconds)
            worse = self.world.random.choice((self._pause_one, self._bad_link_of))
            self.world.at(self.world.now + seconds, worse, victim)

    def _stall_watches(self) -> None:
        """Let watches fall silent: all but the holder's, and often the holder is evicted."""
        victim = self._victim()
        for member in self._members():
            if member is not victim and self.world.chance(0.8):
                self._fault(f"a silent watch for {member.name}")
                member.link.stall(self._while())
        if self.world.chance(0.5):
            wait = self.ttl * self.world.between(0, 1)
            self.world.at(self.world.now + wait, self._evict_unnoticed)

    def _restart_server(self) -> None:
        if self.server.up:
            self._fault("the server restarts")
            self.server.stop(self._while(), keep=True)

    def _move_stream(self) -> None:
        if self.server.up:
            self._fault("another server leads the stream")
            self.server.move()

    def _lose_store(self) -> None:
        if self.server.up and self.world.chance(0.3):
            self._fault("the server restarts without its store")
            self.server.stop(self._while(), keep=False)

    def _stop_member(self) -> None:
        """Stop a member as planned, for a while or for good."""
        victim = self._victim()
        if victim is None or victim.goal is not Goal.LEAD:
            return
        if victim.party.site:
            self._abdicate(victim.party)
            return
        goal = self.world.random.choice((Goal.STOP, Goal.ABSTAIN))
        self._fault(f"{victim.name} is to {goal.value}")
        victim.aim(goal)
        self.world.at(self.world.now + self._while(), self._call_back, victim)

    def _call_back(self, member: Member) -> None:
        if member.alive:
            member.aim(Goal.LEAD)
        else:
            self._restart(member)

    def _abdicate(self, party: Party) -> None:
        if party.wanted is not None:
            self._fault(f"no pod of {party.name} is a candidate")
            self.world.at(self.world.now + self._while(), self._want, party, party.wanted)
            self._want(party, None)

    def _hand_over(self) -> None:
        """Let another pod lead; now and then an operator's write crosses the transfer."""
        sites = [party for party in self.parties if party.wanted is not None]
        if not sites:
            return
        party = self.world.random.choice(sites)
        pod, other = f"{party.site}/p1", f"{party.site}/p2"
        self._fault(f"another pod of {party.name} is to lead")
        if self.world.chance(0.3):
            for member in party.members:
                member.ambush = self.world.random.choice((self._evict, self._overwrite))
        self._want(party, other if party.wanted == pod else pod)

    def _want(self, party: Party, wanted: str | None) -> None:
        party.wanted = wanted
        for member in party.members:
            if member.alive:
                member.reconsider()

    def _leave(self) -> None:
        victim = self._victim()
        if victim is not None and victim.party.site and victim.goal is Goal.LEAD:
            self._fault(f"{victim.name} leaves")
            victim.aim(Goal.LEAVE)
            self.world.at(self.world.now + self._while(), self._call_back, victim)

    def _urge(self) -> None:
        victim = self._victim()
        if victim is not None and victim.party.site:
            sibling = self.world.random.choice([m for m in victim.party.members if m.alive])
            self._fault(f"work stands undone, sees {sibling.name}")
            sibling.urge()
