"""The promises, checked whenever something changes.

Among members that keep the deadline (ours, of both profiles):

* Never two parties act at once, at any instant of the world's time. A member by itself acts while
  its lease counts; a site while a pod has the label and a lease of one of its replicas counts for
  that pod, whether that replica lives or not. Not while the bucket came back without its store,
  until the leases of before have run out.
* Within a site, the label is never on another pod than that of the newest term that counts.
* Terms grow in the order in which they are announced: by a member when it is told `Won`, by a
  site when a pod gets the label. Only a site may announce one term twice, for the same holder.
* Each `Won` is followed by one `Lost` or `Relieved`; after a poll, who was told `Won` leads.
* No record of another party is written over, and none is renewed that had ended.
* Whoever goes on after a pause beyond its deadline looks before it writes.
* At most ten creates for each candidate at one vacancy, while nothing is wrong with it.
* A healthy replica (`Prompt`) does not let its site's record expire.

A Choria member has no deadline. Towards it the promise is weaker:

* None of ours acts while a Choria member believes that it leads in an *older* term, unless that
  one was paused since it sent its last stored write. If its record did not expire, but was removed
  or overwritten by an operator, or expired without leaving a marker for a TTL, then only as long
  as nothing at all hindered it since: not its link, and not the server.
* None of ours acts while a Choria member leads in a *newer* term, unless an operator removed or
  overwrote the record that our lease is about.

The rest is what Choria's algorithm gives: a member that is cut off believes until its next tick,
0.75 TTL after its last stored write, and then waits 5 s for an answer; its successor acts 1.75 TTL
+ 0.2 s after that write. So 4.8 s is the least TTL for it, and where clocks run at different rates
the 0.2 s have to cover the difference, too.

Liveness: when nobody acts, and the key is vacant or held by a healthy member, then somebody acts
within 1.1 TTL + 0.5 s (`Prompt`) of the last of these moments: somebody acted; a record was removed
or released; an operator wrote to the key; the member became healthy, or learnt that the bucket is
another one. A member is healthy while it runs, has a nominee, is answered and not refused for no
reason, and its watch works. A member of the `Choria` profile acts within 1.6 TTL + 1 s of taking
the key, and a replica that relays a record whose holder had to wait still, within 1.1 TTL + 0.5 s
of relaying.
"""

from __future__ import annotations

from collections.abc import Sequence

from incumbent.campaign.events import CampaignEvent, Won
from incumbent.campaign.machine import Write
from incumbent.campaign.records import Entry, Profile, Record
from simulation.members import Choria, Member, Party
from simulation.world import Process, Violation, World

MOST_CREATES = 10


class Referee:
    """Whistles at the first violation."""

    def __init__(self, world: World, ttl: float, *, markers_last: bool) -> None:
        self.world = world
        self.ttl = ttl
        self._markers_last = markers_last
        self.parties: Sequence[Party] = ()
        self.members: dict[str, Member] = {}
        """Every process there ever was, by name."""
        self.chorias: list[Choria] = []
        self.terms = 0
        self._entry: Entry | None = None
        self._stored_at = 0.0
        self._taken_at = 0.0
        """When the present record got its present writer, if that is not who began the term, or was
        not healthy since."""
        self._quiet_since = 0.0
        self._excused_until = 0.0
        self._lost_at = -1.0
        self._cut_short = 0
        """The latest revision that an operator removed or overwrote."""
        self._newest: Record | None = None
        world.at(ttl / 8, self._patrol)

    # What members tell

    def reported(self, member: Member, event: CampaignEvent) -> None:
        """Check an event."""
        if isinstance(event, Won):
            if member.outstanding is not None:
                self._whistle("%s won twice without losing", member.name)
            member.outstanding = event
            if not member.party.site:
                self.announced(member, event.record)
        elif member.outstanding is None:
            self._whistle("%s lost what it had not won", member.name)
        else:
            member.outstanding = None

    def announced(self, member: Member, record: Record) -> None:
        """Check that terms grow, in the order in which they are announced."""
        if self.world.now < self._excused_until:
            return
        newest, self._newest = self._newest, record
        if newest is None or record.term > newest.term:
            self.terms += 1
        elif record.term < newest.term or not (
            member.party.site and record.holder == newest.holder
        ):
            words = "%s announces term %s after %s"
            self._whistle(words, member.name, record.term, newest.term)

    def moved(self, member: Member) -> None:
        """Check now, and when its lease begins to count."""
        lease = member.campaign.lease
        if lease is not None:
            clock = member.clock()
            if clock < lease.acts_from < lease.deadline:
                self.world.at(member.world_time(lease.acts_from), self.check)
            elif member.alive and (lease.acts_from <= clock < lease.deadline) != (
                member.outstanding is not None
            ):
                self._whistle("%s was not told whether it leads", member.name)
        self.check()

    def begun(self, member: Member, write: Write) -> None:
        """Check that a write may be begun."""
        if member.must_look and write.record is not None:
            self._whistle("%s was paused beyond its deadline, and writes at once", member.name)
        creates = write.record is not None and not write.record.term
        well = member.healthy and member.well_since <= self._stored_at
        if creates and well and member.creates > MOST_CREATES:
            self._whistle("%s tries to create for the %sth time", member.name, member.creates)

    # What the bucket tells

    def stored(self, writer: Process | None, before: Entry, entry: Entry) -> None:
        """Check that a message may follow another."""
        now = self.world.now
        if writer is None or not isinstance(entry, Record):
            self._quiet_since = now
        if writer is None:
            self._cut_short = before.revision
        if isinstance(writer, Member) and now >= self._excused_until:
            self._check_write(writer, before, entry)
        if isinstance(entry, Record):
            relayed = entry.term != entry.revision
            anew = isinstance(writer, Member) and writer.healthy_from > self._stored_at
            if anew or not isinstance(before, Record) or before.replica != entry.replica:
                self._taken_at = now if relayed else 0.0
            self._stored_at = now
            choria = isinstance(writer, Member) and writer.timing.profile is Profile.CHORIA
            if choria and not relayed:
                self._taken_at = now
            for member in self.members.values():
                member.creates = 0
        self._entry = entry

    def removed(self, before: Entry) -> None:
        """Take in that the server removed an entry for its age."""
        self._entry = None
        if not isinstance(before, Record):
            return
        self._quiet_since = self.world.now
        writer = self.members.get(before.replica)
        early = self.world.now < self._stored_at + 0.94 * self.ttl  # by a clock that is ahead
        if writer is None or not writer.party.site or early:
            return
        for member in writer.party.members:
            prompt = member.timing.profile is Profile.PROMPT
            if prompt and member.healthy and member.well_since <= self._stored_at:
                self._whistle("%s let the record of its site expire", member.name)

    def lost(self) -> None:
        """Take in that the bucket came back without its store."""
        # Also the writes that were begun before may still be under way.
        self._excused_until = self._quiet_since = self.world.now + 1.05 * self.ttl
        self._newest = None
        self._lost_at = self.world.now
        self._cut_short = 0
        self._entry = None

    # The checks

    def check(self) -> None:
        """Check that nobody acts who must not."""
        if self.world.now < self._excused_until:
            return
        acting = [leader for party in self.parties if (leader := party.leader()) is not None]
        if acting:
            self._quiet_since = self.world.now
        if len(acting) > 1:
            self._whistle("two act at once: %s", " and ".join(_describe(m) for m in acting))
        for party in self.parties:
            if party.labelled is not None:
                self._check_label(party, party.labelled)
        for choria in self.chorias:
            if choria.leads:
                for member in acting:
                    self._check_choria(member, choria)

    def _check_label(self, party: Party, labelled: str) -> None:
        leading = [m for m in party.members if m.leads]
        if len(leading) > 1:
            newest = max(leading, key=_term)
            if newest.holder != labelled:
                self._whistle("%s has the label, but %s", labelled, _describe(newest))

    def _check_choria(self, member: Member, choria: Choria) -> None:
        lease = member.campaign.lease
        if lease is None or choria.sent_at < self._lost_at:
            return
        if lease.record.term > choria.term and self._sound(choria):
            words = "%s, and %s still believes in its term %s"
            self._whistle(words, _describe(member), choria.name, choria.term)
        if lease.record.term < choria.term and self._cut_short < lease.record.revision:
            words = "%s leads in term %s, and still %s"
            self._whistle(words, choria.name, choria.term, _describe(member))

    def _sound(self, choria: Choria) -> bool:
        """Whether a Choria member that still believes has a right to."""
        if choria.paused or choria.paused_at >= choria.sent_at:
            return False
        expired = self._markers_last and self._cut_short < choria.revision
        return expired or choria.link.disturbed_at < choria.sent_at

    def _check_write(self, writer: Member, before: Entry, entry: Entry) -> None:
        if isinstance(before, Record):
            owner = self.members.get(before.replica)
            if owner is None or owner.party is not writer.party:
                self._whistle("%s wrote over the record of %s", writer.name, before.holder)
        term = before.term if isinstance(before, Record) else 0
        if isinstance(entry, Record) and entry.term not in {entry.revision, term}:
            self._whistle("%s renewed term %s, which had ended", writer.name, entry.term)

    def _patrol(self) -> None:
        """Check now and then that somebody leads who could."""
        self.world.at(self.world.now + self.ttl / 8, self._patrol)
        if any(party.leader() is not None for party in self.parties):
            self._quiet_since = self.world.now
            return
        bound = 1.1 * self.ttl + 0.5
        if isinstance(self._entry, Record):
            member = self.members.get(self._entry.replica)
            if member is None or not member.healthy:
                return
            since = max(self._quiet_since, member.well_since, self._taken_at)
            if member.timing.profile is Profile.CHORIA:
                bound = 1.6 * self.ttl + 1.0
            if self.world.now > since + bound:
                self._whistle("%s holds the record, is healthy, and does not lead", member.name)
            return
        for member in self.members.values():
            if member.timing.profile is not Profile.PROMPT or not member.healthy:
                continue
            if self.world.now > max(self._quiet_since, member.well_since) + bound:
                self._whistle("the key is vacant, %s is healthy, and nobody leads", member.name)

    def _whistle(self, words: str, *values: object) -> None:
        raise Violation(words % values)


def _term(member: Member) -> int:
    lease = member.campaign.lease
    return lease.record.term if lease is not None else 0


def _describe(member: Member) -> str:
    return f"{member.name} acts for {member.holder} in term {_term(member)}"
