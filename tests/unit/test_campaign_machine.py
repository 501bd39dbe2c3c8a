"""Replicas of two sites and a member for itself at one key, in whatever order things happen.

The network may delay, lose and reorder requests, answers and news without bound; operators may
delete and overwrite. Clocks are equal here, and there are no Choria members: the simulation has
both. The search is the same in every run.
"""

from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from incumbent.campaign import Campaign, Create, Look, Member, Renew, Write
from incumbent.events import Won
from incumbent.model import Cause, Entry, Marker, Nominee, Nothing, Record, State
from incumbent.ports import Answer, Outcome, Sighting
from incumbent.timing import timing_for
from incumbent.wire import entry_from

TTL = 10.0
MEMBERS = {"a1": "a", "a2": "a", "b1": "b", "alone": ""}


@dataclass
class Key:
    """The key on the server, and all that was ever stored there."""

    markers: bool = True
    log: list[tuple[Entry, float]] = field(default_factory=list)
    latest: Entry = field(default_factory=Nothing)
    stored_at: float = 0.0
    revision: int = 0

    def put(self, entry, now):
        """Store an entry as the next revision; return that."""
        self.revision += 1
        entry = replace(entry, revision=self.revision)
        if isinstance(entry, Record):
            entry = replace(entry, term=entry.term or self.revision)
        self.latest, self.stored_at = entry, now
        self.log.append((entry, now))
        return self.revision

    def write(self, write, now):
        """Carry out a conditional write."""
        if write.expected != self.latest.revision:
            return Answer(Outcome.REFUSED)
        value = write.record.holder.encode() if write.record else b""
        return Answer(
            Outcome.STORED, self.put(entry_from(value, write.headers, self.revision + 1), now)
        )

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
    """A member, its place in the log, and what it has on its way."""

    campaign: Campaign
    seen: int = 0
    open: list[Write] = field(default_factory=list)
    flying: list[Write] = field(default_factory=list)
    """Requests that nobody waits for any more are in here, too."""
    look: Look | None = None
    won: Record | None = None


class Election(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self):
        super().__init__()
        self.now = 100.0
        self.key = Key()
        self.players = {}

    @initialize(markers=st.booleans())
    def start(self, markers):
        """Everybody starts at an empty key."""
        self.key.markers = markers
        for name, site in MEMBERS.items():
            campaign = Campaign(Member(name, site), timing_for(TTL), self.now, random=lambda: 0.5)
            campaign.nominate(Nominee(f"{site}/{name}"))
            campaign.observe(Sighting(Nothing()), self.now)
            self.players[name] = Player(campaign)

    # Time and the server

    @rule(seconds=st.sampled_from((0.1, 1.0, TTL / 3, 0.9 * TTL, TTL, 60.0)))
    def time_passes(self, seconds):
        """Let time pass for everybody; a long time is a pause of all."""
        self.now += seconds

    @rule()
    def server_removes_what_expired(self):
        """Expiry comes late, or at once."""
        self.key.expire(self.now)

    @rule()
    def operator_deletes(self):
        """Evict whoever holds the key."""
        self.key.put(Marker(0, Cause.EVICTED), self.now)

    @rule()
    def operator_overwrites(self):
        """Corrupt the record."""
        self.key.put(Record(0, "somebody", term=0), self.now)

    # A member

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def member_acts(self, name):
        """Do what the machine says."""
        player = self.players[name]
        campaign = player.campaign
        match campaign.poll(self.now):
            case Look() as look:
                player.look = look
            case Create():
                self._send(player, campaign.begin_create(self.now), must=True)
            case Renew():
                self._send(player, campaign.begin_renewal(self.now), must=True)

    @rule(name=st.sampled_from(sorted(MEMBERS)), leaving=st.booleans())
    def member_renews_early(self, name, leaving):
        """Renew for a fresh write, or to leave."""
        player = self.players[name]
        self._send(player, player.campaign.begin_renewal(self.now, leaving=leaving))

    @rule(name=st.sampled_from(sorted(MEMBERS)), pod=st.sampled_from("xyz"))
    def member_hands_over(self, name, pod):
        """Hand the record to another pod of the site."""
        player = self.players[name]
        nominee = Nominee(f"{MEMBERS[name]}/{pod}")
        self._send(player, player.campaign.begin_transfer(nominee, self.now))

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def member_releases(self, name):
        """Give the record up; it may campaign again at once."""
        player = self.players[name]
        self._send(player, player.campaign.begin_release(self.now))

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def member_is_urged(self, name):
        """Work stands undone at a standby."""
        self.players[name].campaign.urge()

    # The network

    @rule(name=st.sampled_from(sorted(MEMBERS)), which=st.integers(0, 3), answered=st.booleans())
    def request_arrives(self, name, which, answered):
        """Carry out a request, in any order; its answer arrives or not."""
        player = self.players[name]
        if not player.flying:
            return
        write = player.flying.pop(which % len(player.flying))
        answer = self._carry_out(write)
        if answered and write in player.open:
            player.open.remove(write)
            player.campaign.answered(write, answer, self.now)

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def member_stops_waiting(self, name):
        """An answer does not come in time; the request may be carried out later."""
        player = self.players[name]
        if player.open:
            write = player.open.pop(0)
            player.campaign.answered(write, Answer(Outcome.UNKNOWN), self.now)

    @rule(name=st.sampled_from(sorted(MEMBERS)), readable=st.booleans())
    def look_is_answered(self, name, readable):
        """Read from the stream's leader, or fail."""
        player = self.players[name]
        look, player.look = player.look, None
        if look is not None and readable:
            sighting = Sighting(self.key.latest, self.now - self.key.stored_at)
            player.campaign.observe(sighting, self.now, look=look)
        elif look is not None:
            player.campaign.unreadable(self.now)

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def watch_shows_the_next(self, name):
        """Bring the next news, however old it is."""
        player = self.players[name]
        if player.seen < len(self.key.log):
            entry, stored_at = self.key.log[player.seen]
            player.seen += 1
            player.campaign.observe(Sighting(entry, self.now - stored_at, live=True), self.now)

    @rule(name=st.sampled_from(sorted(MEMBERS)))
    def watch_begins_anew(self, name):
        """Show the latest entry only."""
        player = self.players[name]
        player.seen = len(self.key.log)
        age = self.now - self.key.stored_at
        player.campaign.observe(Sighting(self.key.latest, age), self.now)

    # What holds at any time

    @invariant()
    def only_one_site_acts(self):
        """No two sites have a holder that may act."""
        acting = {MEMBERS[n] or n for n, p in self.players.items() if p.campaign.leads(self.now)}
        assert len(acting) <= 1, acting

    @invariant()
    def a_lease_is_a_stored_record_of_its_own(self):
        """It was stored after its sending time, and counts for less than a TTL from that."""
        for name, player in self.players.items():
            lease = player.campaign.lease
            if lease is not None:
                stored = {entry.revision: at for entry, at in self.key.log if entry == lease.record}
                assert lease.record.replica == name
                assert lease.sent_at <= stored[lease.record.revision]
                assert lease.deadline < lease.sent_at + TTL
                assert player.campaign.state(self.now) is State.LEADER or self.now >= lease.deadline

    @invariant()
    def events_come_in_pairs(self):
        """Nothing is won twice or lost without having been won."""
        for player in self.players.values():
            for event in player.campaign.events():
                assert isinstance(event, Won) == (player.won is None)
                player.won = event.record if isinstance(event, Won) else None
            assert not player.campaign.leads(self.now) or player.campaign.lease.record.promoted

    def teardown(self):
        """In the end, when nothing disturbs any more, one site leads, and everybody knows it."""
        if not self.players:
            return
        for player in self.players.values():
            for write in (*player.flying, *player.open):
                self._carry_out(write)
                player.campaign.answered(write, Answer(Outcome.UNKNOWN), self.now)
            player.flying, player.open = [], []
        for _ in range(int(3 * TTL / 0.25)):
            self.now += 0.25
            self.key.expire(self.now)
            for name in MEMBERS:
                self._live(name)
                self.only_one_site_acts()
        acting = {MEMBERS[n] or n for n, p in self.players.items() if p.campaign.leads(self.now)}
        assert len(acting) == 1
        assert not any(player.campaign.unanswered for player in self.players.values())
        self.a_lease_is_a_stored_record_of_its_own()
        self.events_come_in_pairs()

    # How

    def _send(self, player, write, *, must=False):
        assert write is not None or not must
        if write is not None:
            player.open.append(write)
            player.flying.append(write)

    def _carry_out(self, write):
        before = self.key.latest
        answer = self.key.write(write, self.now)
        if answer.outcome is Outcome.STORED and isinstance(before, Record):
            after = self.key.latest
            writers = {before.site or before.replica}
            if isinstance(after, Record):
                writers.add(after.site or after.replica)
                assert after.term in {before.term, after.revision}
                assert after.holder == before.holder or after.term > before.term
            assert before.replica, "a stranger's record was written over"
            assert len(writers) == 1, "somebody else's record was written over"
        return answer

    def _live(self, name):
        """Do everything that is to be done now, without faults."""
        player = self.players[name]
        while player.seen < len(self.key.log):
            self.watch_shows_the_next(name)
        for _ in range(3):
            self.member_acts(name)
            self.look_is_answered(name, readable=True)
            self.request_arrives(name, 0, answered=True)


TestElection = Election.TestCase
TestElection.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
