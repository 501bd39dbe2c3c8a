"""Two replicas of a site and two members for themselves, in whatever order things can happen.

The network delays, loses and reorders requests, answers and news; operators delete the record;
a stranger, who has no deadline, overwrites it. All clocks are equal here, and the search is the
same in every run unless asked for more: the simulation goes further in both. What is shown to hold:

* Of two sites at most one acts, and nobody begins to act while a stranger before it still may.
* A lease is a stored record of its own, and counts from before that was sent.
* Nobody writes over somebody else's record; terms grow; events come in pairs.
* When nothing disturbs any more, one site leads.
"""

from dataclasses import dataclass, field, replace

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from incumbent.campaign.events import Won
from incumbent.campaign.machine import Campaign, Create, Look, Member, Renew, Wait, Write
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Cause, Entry, Marker, Nominee, Nothing, Record, State
from incumbent.campaign.timing import timing_for
from incumbent.campaign.wire import entry_from

TTL = 10.0
STRANGER_TICK = 0.75 * TTL
STEP = 0.5
SITES = {"a1": "a", "a2": "a", "b": "", "c": ""}

names = st.sampled_from(sorted(SITES))
fates = st.sampled_from(("answered", "slow", "answer lost", "late", "lost"))


@dataclass
class Key:
    """The key on the server, and all that was ever stored there."""

    markers: bool = True
    log: list[tuple[Entry, float]] = field(default_factory=list)
    latest: Entry = field(default_factory=Nothing)
    stored_at: float = 0.0

    def put(self, entry, now):
        """Store an entry as the next revision; return that."""
        entry = replace(entry, revision=len(self.log) + 1)
        if isinstance(entry, Record):
            entry = replace(entry, term=entry.term or entry.revision)
        self.latest, self.stored_at = entry, now
        self.log.append((entry, now))
        return entry.revision

    def write(self, write, now):
        """Carry out a conditional write."""
        if write.expected != self.latest.revision:
            return Answer(Outcome.REFUSED)
        value = write.record.holder.encode() if write.record else b""
        entry = entry_from(value, write.headers, len(self.log) + 1)
        return Answer(Outcome.STORED, self.put(entry, now))

    def expire(self, now):
        """Remove what is older than the TTL, as the server does sooner or later."""
        if isinstance(self.latest, Nothing) or now < self.stored_at + TTL:
            return
        if self.markers and isinstance(self.latest, Record):
            self.put(Marker(0, Cause.EXPIRED), now)
        else:
            self.latest = Nothing()


@dataclass
class Player:
    """A member, how far its watch has come, and what is on its way."""

    campaign: Campaign
    cut: bool = False
    seen: int = 0
    late: list[Write] = field(default_factory=list)
    won: Record | None = None


class Election(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self):
        super().__init__()
        self.now = 100.0
        self.key = Key()
        self.players = {}
        self.stranger = (0, 0.0)
        """The revision of its latest record, and until when it may act."""

    @initialize(markers=st.booleans())
    def start(self, markers):
        """Everybody starts at an empty key."""
        self.key.markers = markers
        for name, site in SITES.items():
            campaign = Campaign(Member(name, site), timing_for(TTL), self.now, random=lambda: 0.5)
            campaign.nominate(Nominee(name))
            campaign.observe(Sighting(Nothing()), self.now)
            self.players[name] = Player(campaign)

    # Time and the server

    @rule(seconds=st.sampled_from((0.1, 1.0, 0.3 * TTL, 0.9 * TTL, TTL, 60.0)))
    def everybody_stands_still(self, seconds):
        """Let time pass, and nobody notice."""
        self.now += seconds

    @rule(seconds=st.sampled_from((STEP, 0.2 * TTL, 0.5 * TTL, TTL)))
    def life_goes_on(self, seconds):
        """Let time pass without other faults than that some are cut off."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            self.key.expire(self.now)
            for name, player in self.players.items():
                if not player.cut:
                    self.watch_shows(name, whole=True)
                for _ in range(3):
                    self.member_acts(name, fate="lost" if player.cut else "answered")
            self.always()

    @rule()
    def server_removes_what_expired(self):
        """Expiry comes late, or at once."""
        self.key.expire(self.now)

    @rule()
    def holder_is_cut_off_and_evicted(self):
        """Delete the record while its holder hears nothing of it."""
        for player in self.players.values():
            player.cut = player.campaign.lease is not None
        self.key.put(Marker(0, Cause.EVICTED), self.now)

    @rule()
    def operator_evicts(self):
        """Delete whatever there is."""
        self.key.put(Marker(0, Cause.EVICTED), self.now)

    @rule(name=names)
    def link_is_cut_or_mended(self, name):
        """Cut a member off, or bring it back."""
        self.players[name].cut = not self.players[name].cut

    @rule()
    def stranger_writes(self):
        """Put a record as a Choria member does that goes on until its next tick."""
        revision = self.key.put(Record(0, "stranger", term=0), self.now)
        self.stranger = (revision, self.now + STRANGER_TICK)

    # A member

    @rule(name=names, fate=fates)
    def member_acts(self, name, fate):
        """Do what the machine says."""
        campaign = self.players[name].campaign
        match campaign.poll(self.now):
            case Look() as look:
                if fate in {"answered", "slow"}:
                    age = self.now - self.key.stored_at
                    campaign.observe(Sighting(self.key.latest, age), self.now, look=look)
                else:
                    campaign.unreadable(self.now)
            case Create():
                self._send(name, campaign.begin_create(self.now), fate, must=True)
            case Renew():
                self._send(name, campaign.begin_renewal(self.now), fate, must=True)
            case Wait(until):
                assert until > self.now

    @rule(which=st.integers(0, 3), fate=fates, leaving=st.booleans())
    def holder_renews_early(self, which, fate, leaving):
        """Renew for a fresh write, or to leave."""
        for name in self._holder(which):
            write = self.players[name].campaign.begin_renewal(self.now, leaving=leaving)
            self._send(name, write, fate)

    @rule(which=st.integers(0, 3), fate=fates, pod=st.sampled_from("xy"))
    def holder_hands_over(self, which, fate, pod):
        """Hand the record to another pod of the site."""
        for name in self._holder(which):
            write = self.players[name].campaign.begin_transfer(Nominee(pod), self.now)
            self._send(name, write, fate)

    @rule(which=st.integers(0, 3), fate=fates)
    def holder_releases(self, which, fate):
        """Give the record up; the member may campaign again at once."""
        for name in self._holder(which):
            self._send(name, self.players[name].campaign.begin_release(self.now), fate)

    @rule(name=names)
    def standby_is_urged(self, name):
        """Work stands undone at a standby."""
        self.players[name].campaign.urge()

    # The network

    @rule(name=names, which=st.integers(0, 3))
    def late_request_arrives(self, name, which):
        """Carry out a request that nobody waits for any more."""
        late = self.players[name].late
        if late:
            self._carry_out(late.pop(which % len(late)))

    @rule(name=names, whole=st.booleans())
    def watch_shows(self, name, whole):
        """Bring the next news, however old it is, or all of it."""
        player = self.players[name]
        while player.seen < len(self.key.log):
            entry, stored_at = self.key.log[player.seen]
            player.seen += 1
            player.campaign.observe(Sighting(entry, self.now - stored_at, live=True), self.now)
            if not whole:
                break

    @rule(name=names)
    def watch_begins_anew(self, name):
        """Show the latest entry only."""
        player = self.players[name]
        player.seen = len(self.key.log)
        age = self.now - self.key.stored_at
        player.campaign.observe(Sighting(self.key.latest, age), self.now)

    # What holds

    @invariant()
    def always(self):
        """Check what holds at any time."""
        leaders = [name for name, p in self.players.items() if p.campaign.leads(self.now)]
        assert len({SITES[name] or name for name in leaders}) <= 1, leaders
        for name, player in self.players.items():
            self._check_lease(name, player.campaign)
            self._check_events(player)

    def _check_lease(self, name, campaign):
        lease = campaign.lease
        if lease is None:
            return
        entry, stored_at = self.key.log[lease.record.revision - 1]
        assert entry == lease.record
        assert lease.record.replica == name
        assert lease.sent_at <= stored_at
        assert lease.deadline < lease.sent_at + TTL
        assert campaign.leads(self.now) <= (lease.record.promoted and self.now < lease.deadline)
        assert (campaign.state(self.now) is State.LEADER) == (self.now < lease.deadline)

    def _check_events(self, player):
        for event in player.campaign.events():
            assert isinstance(event, Won) == (player.won is None)
            player.won = event.record if isinstance(event, Won) else None
            if player.won:
                revision, acts_until = self.stranger
                assert self.now >= acts_until or player.won.term < revision

    def teardown(self):
        """In the end, when nothing disturbs any more, one site leads, and everybody knows it."""
        if not self.players:
            return
        for player in self.players.values():
            player.cut = False
            while player.late:
                self._carry_out(player.late.pop())
        self.life_goes_on(3 * TTL)
        for name in SITES:
            self.watch_shows(name, whole=True)
        leaders = [name for name, p in self.players.items() if p.campaign.leads(self.now)]
        assert len(leaders) == 1
        assert not any(player.campaign.unanswered for player in self.players.values())
        assert {player.campaign.record for player in self.players.values()} == {self.key.latest}

    # How

    def _holder(self, which):
        """Choose one of those that hold the record or believe so, or none if there is none."""
        holders = [name for name, p in self.players.items() if p.campaign.lease is not None]
        return holders[which % len(holders) :][:1] if holders else []

    def _send(self, name, write, fate, *, must=False):
        assert write is not None or not must
        if write is None:
            return
        player, answer = self.players[name], Answer(Outcome.UNKNOWN)
        if fate == "late":
            player.late.append(write)
        elif fate == "answer lost":
            self._carry_out(write)
        elif fate != "lost":
            answer = self._carry_out(write)
            self.now += 0.3 * TTL if fate == "slow" else 0.0
        player.campaign.answered(write, answer, self.now)

    def _carry_out(self, write):
        before = self.key.latest
        answer = self.key.write(write, self.now)
        after = self.key.latest
        if answer.outcome is Outcome.STORED and isinstance(before, Record):
            assert before.replica, "a stranger's record was written over"
            if isinstance(after, Record):
                assert (before.site or before.replica) == (after.site or after.replica)
                assert after.term == (after.revision if after.term != before.term else before.term)
                assert after.holder == before.holder or after.term > before.term
        return answer


TestElection = Election.TestCase
# To shrink a failure takes minutes; 30 steps can be read as they are.
TestElection.settings = settings(stateful_step_count=30, phases=(Phase.generate,))
