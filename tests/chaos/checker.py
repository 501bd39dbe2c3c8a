"""The promises, checked over the history of a run.

1. *One pod a site.* In one site at most one pod carries the leader label of an election, at every
   instant. The events of one watch are in the order of the API server, so they are counted one by
   one. A label that was set by hand does not count, but has to be gone in less than a second while
   nothing is wrong with NATS and the replicas of the site, and one that was taken has to be back.
   Three writes and their events have to come for that: as late as they do at that time is allowed.
2. *One site.* A new leader is labelled only after the other site's label is gone, while that site's
   steward lives and reaches its API server, or another of its replicas reaches both it and NATS,
   and no webhook holds up or changes their patches. Where that was not so all the time from a TTL
   before the new label, an overlap is reported apart. The events of two API servers are ordered by
   when they were received. They come late, by as much as the recorder measures with writes of its
   own: a label may have gone so much earlier than was seen, and an overlap that this explains is
   none.
3. *Tokens grow* with every change of leader, on the labels over both sites, and in the bucket. A
   label's token is a term of that pod.
4. *No change without need.* Each end of a reign has a cause in the history: the leader itself, an
   eviction, or that nobody of its site could renew until its deadline. Neither may a leader lose
   its label for a moment: whoever asks for the label then sees no leader.

With `routing`, of the EndpointSlices: a slice leads to at most one pod, with the token of a term of
that pod; promise 2 holds of slices as it does of labels; and whoever leads is reached some time.

And, so that doing nothing does not pass, *somebody leads*: while NATS is up, and one site has a
candidate and nothing wrong with its replicas, there is a leader again after 1.1 TTL + 5 s.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from chaos.history import Entry, History, Message, PodEvent, Spell, Trouble

SETTLE = {
    Trouble.DEAD: 2.0,
    Trouble.PAUSED: 1.0,
    Trouble.NO_NATS: 5.0,
    Trouble.NO_API: 5.0,
    Trouble.NATS_DOWN: 5.0,
    Trouble.ADMISSION: 5.0,
}
"""Seconds after the end of a trouble until it is over for the replicas, too: they have to notice
a dead connection (2 to 3 s) and to make a new one, on a machine that is busy."""
IN_TROUBLE = ", in trouble"
"""Marks a gap during which something was wrong with servers or replicas."""
_NO_STRIP = (Trouble.DEAD, Trouble.PAUSED, Trouble.NO_API, Trouble.ADMISSION)
"""With what a steward cannot strip."""
LONGEST_RESTART = 1 / 3
"""Part of the TTL that a restart may take during which an operator counts as living."""
SLOW_FOR = 60.0
"""Seconds after a webhook in which deadlines may come earlier, because patches took so long."""
CORRECTED_WITHIN = 1.0
"""Seconds after which a label changed by hand is as it was, with what `STEPS` take at that time."""
STEPS = 3
REACTION = 5.0
"""Seconds within which a change of leader follows its cause in the pod, at most."""
HASTE = 0.4
"""Part of the TTL by which a deadline may come earlier after slow patches (docs/operations.md)."""
LOSS_OF_CLOCK = 0.3
"""Seconds by which a strip may seem to come before the deadline that caused it."""


@dataclass(slots=True)
class Reign:
    """A pod carried the leader label with one token."""

    election: str
    site: str
    pod: str
    uid: str
    token: int
    since: float
    until: float = math.inf
    unfit: str = ""
    """Why the pod was no candidate when, or soon before, it lost the label."""
    by_hand: bool = False
    """Whether the label was taken by hand."""

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.site}/{self.pod} (token {self.token})"


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise; or, apart, what looks like one where it does not apply."""

    promise: str
    at: float
    election: str
    words: str


class Gap(NamedTuple):
    """A time without a leader label although there was a candidate."""

    seconds: float
    at: float
    """When it began."""
    election: str


@dataclass(slots=True)
class Verdict:
    """What the checker has to say."""

    violations: list[Finding] = field(default_factory=list)
    apart: list[Finding] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    """Of the ends of reigns."""
    gaps: dict[str, list[Gap]] = field(default_factory=lambda: defaultdict(list))
    """By the cause of the end of the reign before, and whether there was trouble meanwhile."""
    corrections: list[float] = field(default_factory=list)
    """Seconds that it took to correct labels changed by hand, while nothing was wrong."""
    by_hand: int = 0
    """How many labels were changed by hand."""
    overlap: float = 0.0
    """Seconds; the longest between sites that counts."""
    overlap_apart: float = 0.0
    terms: int = 0
    hand_overs: int = 0


def check(history: History) -> Verdict:
    """Check all promises."""
    verdict = Verdict()
    court = _Court(history, verdict)
    for election in history.elections:
        reigns = court.one_pod(election)
        verdict.reigns += reigns
        court.one_site(reigns)
        court.tokens(election, reigns)
        routed = court.slices(election)
        court.one_site(routed)
        if history.routing and reigns and not routed:
            words = "no slice ever led to anybody"
            court.violation("somebody leads", history.ended, election, words)
        court.need(reigns)
        court.somebody(election, reigns)
    verdict.violations.sort(key=lambda finding: finding.at)
    verdict.apart.sort(key=lambda finding: finding.at)
    return verdict


class _Court:
    """One trial: the history, sorted, and the verdict so far."""

    def __init__(self, history: History, verdict: Verdict) -> None:
        self.history = history
        self.verdict = verdict
        self.pods: dict[str, list[PodEvent]] = defaultdict(list)
        for event in history.pods:
            self.pods[event.election].append(event)
        self.messages: dict[str, list[Message]] = defaultdict(list)
        for message in history.messages:
            self.messages[message.election].append(message)
        self.delays: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for delay in history.delays:
            self.delays[delay.site].append((delay.at, delay.seconds))
        self._seen = {message.revision for message in history.messages}
        self._causes: dict[int, str] = {}
        for at in history.lost_writes:
            words = "NATS came back without messages that it had shown: nothing is promised"
            verdict.apart.append(Finding("lost writes", at, "", words))

    # The promises

    def one_pod(self, election: str) -> list[Reign]:
        """Check promise 1, and return the reigns in the order of their beginnings."""
        reigns: list[Reign] = []
        for site in self.history.replicas:
            current: dict[str, Reign] = {}
            last_unfit: dict[str, tuple[float, str]] = {}
            hands: dict[str, int] = {}
            strays: dict[str, PodEvent] = {}
            for event in self.pods[election]:
                if event.site != site:
                    continue
                by_hand = event.hand != hands.get(event.uid, 0)
                hands[event.uid] = event.hand
                if event.unfit:
                    last_unfit[event.uid] = (event.at, event.unfit)
                reign = current.get(event.uid)
                if reign and not (event.labelled and event.token == reign.token):
                    at, unfit = last_unfit.get(event.uid, (-math.inf, ""))
                    reign.until = event.at
                    since = max(reign.since, event.at - self._patience(reign))
                    reign.unfit = unfit if at >= since else ""
                    reign.by_hand = by_hand and not event.labelled
                    del current[event.uid]
                    reign = None
                stray = strays.get(event.uid)
                if stray and not (event.labelled and event.token == stray.token):
                    self._corrected(strays.pop(event.uid), event.at)
                # A leader may get back by hand what was taken by hand: its token is still there.
                if event.labelled and by_hand and reign is None and (current or not event.token):
                    strays.setdefault(event.uid, event)
                if event.labelled and reign is None and event.uid not in strays:
                    for other in current.values():
                        words = f"{site}/{event.pod} got the label while {other} had it"
                        self.violation("one pod a site", event.at, election, words)
                    reign = Reign(election, site, event.pod, event.uid, event.token, event.at)
                    current[event.uid] = reign
                    reigns.append(reign)
            for stray in strays.values():
                self._corrected(stray, self.history.ended)
        return sorted(reigns, key=lambda reign: reign.since)

    def slices(self, election: str) -> list[Reign]:
        """Check that a slice leads to one pod, of a term that is not older than one before.

        Return for how long to which.
        """
        records = [m for m in self.messages[election] if m.entry is Entry.RECORD]
        holders = {message.term: message.uid for message in records}
        current: dict[str, Reign] = {}
        greatest: dict[str, int] = {}
        reigns: list[Reign] = []
        for event in self.history.slices:
            if event.election != election:
                continue
            if len(event.pods) > 1:
                names = " and ".join(name for name, _ in event.pods)
                words = f"the slice of {event.site} leads to {names}"
                self.violation("one pod a slice", event.at, election, words)
            now = [(uid, event.token) for _, uid in event.pods]
            before = current.get(event.site)
            if before is not None and now != [(before.uid, before.token)]:
                current.pop(event.site).until = event.at
                before = None
            if not event.pods or before is not None:
                continue
            name, uid = event.pods[0]
            reign = Reign(election, event.site, name, uid, event.token, event.at)
            # A record that was overwritten while nobody watched is not known.
            if reign.token == 0 or holders.get(reign.token, uid) != uid:
                words = f"the slice leads to {reign}, which is no term of that pod"
                self.violation("one pod a slice", event.at, election, words)
            if reign.token < greatest.get(event.site, 0):
                words = f"the slice leads to {reign} after token {greatest[event.site]}"
                self.violation("tokens grow", event.at, election, words)
            greatest[event.site] = max(reign.token, greatest.get(event.site, 0))
            current[event.site] = reign
            reigns.append(reign)
        return reigns

    def one_site(self, reigns: list[Reign]) -> None:
        """Check promise 2."""
        for new in reigns:
            for old in reigns:
                if old.site == new.site or old.since > new.since or old is new:
                    continue
                until = min(old.until, self.history.ended)
                overlap = min(until, new.until) - new.since - self._delay(old.site, until)
                if overlap <= 0:
                    continue
                words = f"{new} was labelled {overlap:.2f} s before {old} was stripped"
                if self._attended(old, new.since):
                    self.verdict.overlap = max(self.verdict.overlap, overlap)
                    self.violation("one site", new.since, new.election, words)
                else:
                    self.verdict.overlap_apart = max(self.verdict.overlap_apart, overlap)
                    words += ", while no replica there could have stripped it"
                    finding = Finding("one site", new.since, new.election, words)
                    self.verdict.apart.append(finding)

    def tokens(self, election: str, reigns: list[Reign]) -> None:
        """Check promise 3, and count terms and hand-overs."""
        greatest: Reign | None = None
        for reign in reigns:
            if greatest is not None:
                # What two sites did at nearly the same time has no order.
                doubt = self._delay(reign.site, reign.since) if greatest.site != reign.site else 0
                sure = reign.since > greatest.since + doubt
                twice = reign.token == greatest.token and reign.uid != greatest.uid
                if twice or (reign.token < greatest.token and sure):
                    words = f"{reign} was labelled after {greatest}"
                    self.violation("tokens grow", reign.since, election, words)
            if greatest is None or reign.token > greatest.token:
                greatest = reign
        holders: dict[int, str] = {}
        before: Message | None = None
        latest = 0
        for message in self.messages[election]:
            if message.entry is Entry.RECORD:
                self._record(message, latest, holders)
                latest = max(latest, message.term)
                if before is not None and before.entry is Entry.RECORD:
                    moved = before.term != message.term
                    self.verdict.hand_overs += moved and before.site == message.site
            before = message
        self.verdict.terms += len(holders)
        for reign in reigns:
            uid = holders.get(reign.token)
            if reign.token == 0 or (uid is None and reign.token in self._seen):
                words = f"{reign} has a token that no record had"
                self.violation("tokens grow", reign.since, election, words)
            elif uid not in {None, reign.uid}:
                words = f"{reign} has the token of another pod's term"
                self.violation("tokens grow", reign.since, election, words)

    def need(self, reigns: list[Reign]) -> None:
        """Check promise 4."""
        for number, reign in enumerate(reigns):
            if reign.until >= self.history.ended:
                continue
            if reign.by_hand:
                again = (r for r in reigns[number + 1 :] if (r.uid, r.token) == _same(reign))
                self._restored(reign, next(again, None))
            cause = self._cause(reign)
            if not cause:
                cause, words = "no cause", f"{reign} lost the label without a cause"
                then = next((r for r in reigns[number + 1 :] if r.site == reign.site), None)
                if then and _same(then) == _same(reign):
                    cause = "no cause, and given back"
                    words += f", and got it back after {then.since - reign.until:.2f} s"
                self.violation("no change without need", reign.until, reign.election, words)
            self._causes[id(reign)] = cause
            self.verdict.causes[cause] += 1

    def somebody(self, election: str, reigns: list[Reign]) -> None:
        """Check that somebody leads where somebody could, and measure for how long nobody did."""
        bound = 1.1 * self.history.ttl + 5
        able = {site: self._with_candidates(election, site) for site in self.history.replicas}
        anywhere = _union(time for times in able.values() for time in times)
        well = _union(time for site in able for time in _minus(able[site], self._storms(site)))
        storms = [storm for site in able for storm in self._storms(site)]
        for since, until, last in _vacancies(reigns, self.history):
            gap = _overlap(since, until, anywhere)
            cause = "start" if last is None else self._causes.get(id(last), "start")
            if last is not None and gap > 0:
                storm = IN_TROUBLE if _overlap(since, until, storms) else ""
                self.verdict.gaps[cause + storm].append(Gap(gap, since, election))
            calm = _overlap(since, until, well)
            if calm > bound + self.history.ttl * self._taken_over(election, since, until):
                words = f"nobody led for {until - since:.1f} s; for {calm:.1f} s a site was well"
                self.violation("somebody leads", until, election, words)
            elif until >= self.history.ended and gap > 0:
                words = f"nobody leads at the end, since {until - since:.1f} s"
                self.violation("somebody leads", until, election, words)

    def _taken_over(self, election: str, since: float, until: float) -> int:
        """Return how often another replica renewed a record meanwhile whose holder does not act.

        The previous version did not tell in the record how long its holder has to wait, so whoever
        takes over from it, and itself, waits anew.
        """
        writers = [
            (message.term, message.replica)
            for message in self.messages[election]
            if message.entry is Entry.RECORD and since < message.at < until
        ]
        return sum(
            before[0] == after[0] and before[1] != after[1]
            for before, after in itertools.pairwise(writers)
        )

    def _corrected(self, stray: PodEvent, at: float) -> None:
        """Check how long a label stayed that was set by hand."""
        self.verdict.by_hand += 1
        if not self._storm(stray.site, stray.at, at):
            self.verdict.corrections.append(at - stray.at)
        for since, until in _minus([(stray.at, at)], self._storms(stray.site)):
            if until - since > self._to_correct(stray.site, since):
                words = f"{stray.site}/{stray.pod} kept a label set by hand for {at - stray.at:.2f}"
                words += f" s, and for {until - since:.2f} s nothing was wrong"
                self.violation("one pod a site", until, stray.election, words)
                return

    def _restored(self, reign: Reign, again: Reign | None) -> None:
        """Check how long a label was away that was taken by hand."""
        self.verdict.by_hand += 1
        allowed = self._to_correct(reign.site, reign.until)
        at = again.since if again is not None else self.history.ended
        until = min(at, reign.until + allowed)
        ends = any(
            reign.until - REACTION < message.at < until
            and (message.entry is not Entry.RECORD or message.term != reign.token)
            for message in self.messages[reign.election]
        )
        unfit = any(
            event.uid == reign.uid and event.unfit and reign.until - REACTION < event.at < until
            for event in self.pods[reign.election]
        )
        if ends or unfit or self._storm(reign.site, reign.until, until):
            return
        seconds = at - reign.until
        self.verdict.corrections.append(seconds)
        if seconds > allowed:
            words = f"{reign} had no label for {seconds:.2f} s after it was taken by hand"
            self.violation("no change without need", at, reign.election, words)

    # What they need to know

    def _to_correct(self, site: str, at: float) -> float:
        """Return the seconds that a correction may take."""
        return CORRECTED_WITHIN + STEPS * self._delay(site, at, at + CORRECTED_WITHIN)

    def _storm(self, site: str, since: float, until: float) -> bool:
        """Whether something was wrong with a site's replicas, or NATS, at any time in between."""
        return any(begin <= until and since <= end for begin, end in self._storms(site))

    def violation(self, promise: str, at: float, election: str, words: str) -> None:
        """Write down a broken promise."""
        self.verdict.violations.append(Finding(promise, at, election, words))

    def _record(self, message: Message, latest: int, holders: dict[int, str]) -> None:
        """Check a record against those before it."""
        term, who = message.term, f"{message.site}/{message.pod}"
        words = ""
        if term > message.revision:
            words = f"revision {message.revision} for {who} says term {term}, which is to come"
        elif term < latest:
            words = f"revision {message.revision} for {who} is of term {term}, after {latest}"
        elif holders.get(term, message.uid) != message.uid:
            words = f"term {term} went to {who} without a new number"
        if words:
            self.violation("tokens grow", message.at, message.election, words)
        holders.setdefault(term, message.uid)

    def _cause(self, reign: Reign) -> str:
        """Return why a reign ended; empty if there was no reason."""
        last, then = self._end_of_term(reign)
        if then is not None and then.entry is Entry.EVICTED and then.at < reign.until + 1:
            return "eviction"
        if reign.unfit:
            return f"leader {reign.unfit}"
        if reign.by_hand:
            return "label taken by hand"
        if last is None:
            return ""
        lease = self.history.ttl - self.history.margin
        deadline = last.at + lease
        if reign.until < deadline - LOSS_OF_CLOCK - self._haste(reign):
            return ""
        return self._why_nobody_renewed(reign.site, last.at + self.history.relay_after, deadline)

    def _restarts(self, spell: Spell) -> bool:
        """Whether a replica was dead for so short a time that its site may rely on it."""
        dead = spell.until - spell.since
        return spell.trouble is Trouble.DEAD and dead < LONGEST_RESTART * self.history.ttl

    def _haste(self, reign: Reign) -> float:
        """Return by how much a strip may begin before the deadline.

        That is so because patches take long, or because whoever was started anew without NATS has
        to presume that the process before ended some time ago, just before a renewal.
        """
        since = reign.until - self.history.ttl
        if any(
            spell.trouble is Trouble.DEAD and since < spell.until < reign.until
            for replica in self.history.replicas[reign.site]
            for spell in self._of(reign.site, replica)
        ):
            return 2 * LONGEST_RESTART * self.history.ttl
        slow = any(
            spell.trouble is Trouble.ADMISSION
            and spell.site == reign.site
            and spell.since < reign.until < spell.until + SLOW_FOR
            for spell in self.history.spells
        )
        return HASTE * self.history.ttl if slow else 0.0

    def _end_of_term(self, reign: Reign) -> tuple[Message | None, Message | None]:
        """Return the last record of its term, and the message after that.

        A renewal after the strip does not excuse it. Nor does one recall it that comes only after
        the deadline: by then the strip is on its way, for which there is time until the TTL ends.
        """
        last = then = None
        lease, ttl = self.history.ttl - self.history.margin, self.history.ttl
        ttl += self._delay(reign.site, reign.until)
        for message in self.messages[reign.election]:
            if message.entry is Entry.RECORD and message.term == reign.token:
                too_late = (
                    last is not None
                    and message.at > last.at + lease - LOSS_OF_CLOCK
                    and reign.until < last.at + ttl
                )
                if last is None or (message.at < reign.until and not too_late):
                    last, then = message, None
            elif last is not None and then is None:
                then = message
        return last, then

    def _why_nobody_renewed(self, site: str, since: float, until: float) -> str:
        """Return what kept all replicas of a site from renewing; empty if one had the time."""
        down = [spell for spell in self.history.spells if spell.trouble is Trouble.NATS_DOWN]
        kinds: set[Trouble] = set()
        for replica in self.history.replicas[site]:
            hindered = [
                spell
                for spell in (*down, *self._of(site, replica))
                if spell.trouble is not Trouble.NO_API and _meets(spell, since, until)
            ]
            if not hindered:
                return ""
            kinds |= {spell.trouble for spell in hindered}
        if kinds <= {Trouble.DEAD, Trouble.PAUSED}:
            return "all replicas dead or paused"
        if kinds <= {Trouble.NO_NATS, Trouble.NATS_DOWN}:
            return "NATS lost"
        return "NATS lost, replicas dead or paused"

    def _attended(self, reign: Reign, at: float) -> bool:
        """Whether somebody could strip its pod all the time from a TTL before a moment until it."""
        since = at - self.history.ttl
        moments = {since, at}
        for spell in self.history.spells:
            moments |= {t for t in (spell.since, _over(spell)) if since < t < at}
        return all(self._could_strip(reign, moment) for moment in moments)

    def _could_strip(self, reign: Reign, at: float) -> bool:
        writes = [
            message
            for message in self.messages[reign.election]
            if message.entry is Entry.RECORD and message.site == reign.site and message.at <= at
        ]
        if writes:
            steward = writes[-1].replica.partition("/")[0]
            troubles = (*self._of(reign.site, steward), *self._of(reign.site, ""))
            troubles = tuple(spell for spell in troubles if not self._restarts(spell))
            hindered = any(
                spell.trouble in _NO_STRIP and _meets(spell, at, at) for spell in troubles
            )
            # A process that was started too late does not know when it has to strip.
            died = any(
                spell.trouble is Trouble.DEAD and writes[-1].at < spell.since <= at
                for spell in troubles
            )
            if not (hindered or died):
                return True
        down = [spell for spell in self.history.spells if spell.trouble is Trouble.NATS_DOWN]
        down += self._of(reign.site, "")
        return any(
            not any(_meets(spell, at, at) for spell in (*down, *self._of(reign.site, replica)))
            for replica in self.history.replicas[reign.site]
        )

    def _of(self, site: str, replica: str) -> Iterator[Spell]:
        for spell in self.history.spells:
            if spell.site == site and spell.replica == replica:
                yield spell

    def _patience(self, reign: Reign) -> float:
        """How long before its strip a pod may have been unfit for that to be the cause.

        Longer where a replica of the site was hindered since, for then another has to notice.
        """
        until = reign.until
        hindered = any(
            spell.site in {"", reign.site} and _meets(spell, until - REACTION, until)
            for spell in self.history.spells
        )
        return REACTION + 2 * self.history.ttl if hindered else REACTION

    def _delay(self, site: str, since: float, until: float | None = None) -> float:
        """Return by how much the events of a site came late at most, around some time."""
        delays, until = self.delays[site], since if until is None else until
        low = bisect.bisect_left(delays, (since - 1.0, 0.0))
        high = bisect.bisect_right(delays, (until + 1.0, math.inf))
        return max((seconds for _, seconds in delays[low:high]), default=0.0)

    def _storms(self, site: str) -> list[tuple[float, float]]:
        """Return the times during which something was wrong with a site's replicas, or NATS."""
        spells = self.history.spells
        return [(spell.since, _over(spell)) for spell in spells if spell.site in {"", site}]

    def _with_candidates(self, election: str, site: str) -> list[tuple[float, float]]:
        """Return the times during which there was a candidate in a site."""
        fit: set[str] = set()
        times: list[tuple[float, float]] = []
        since = math.inf
        for event in self.pods[election]:
            had = bool(fit)
            if event.site != site:
                continue
            if event.unfit:
                fit.discard(event.uid)
            else:
                fit.add(event.uid)
            if fit and not had:
                since = event.at
            elif had and not fit:
                times.append((since, event.at))
        return [*times, (since, math.inf)] if fit else times


def _same(reign: Reign) -> tuple[str, int]:
    """Return what two reigns have in common if one goes on with the other."""
    return reign.uid, reign.token


def _over(spell: Spell) -> float:
    """Return when a trouble is over for the replicas."""
    return spell.until + SETTLE[spell.trouble]


def _meets(spell: Spell, since: float, until: float) -> bool:
    return spell.since <= until and since <= _over(spell)


def _vacancies(
    reigns: list[Reign], history: History
) -> Iterator[tuple[float, float, Reign | None]]:
    """Yield the times without any label, with the reign before."""
    now, last = history.began, None
    for reign in reigns:
        if reign.since > now:
            yield now, reign.since, last
        if reign.until > now:
            now, last = reign.until, reign
    if now < history.ended:
        yield now, history.ended, last


def _overlap(since: float, until: float, times: Iterable[tuple[float, float]]) -> float:
    return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in times)


def _union(times: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same times, none of them twice."""
    merged: list[tuple[float, float]] = []
    for since, until in sorted(times):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], until))
        else:
            merged.append((since, until))
    return merged


def _minus(
    times: Iterable[tuple[float, float]], others: Iterable[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return those times without the others."""
    left = list(times)
    for begin, end in others:
        left = [
            piece
            for since, until in left
            for piece in ((since, min(until, begin)), (max(since, end), until))
            if piece[0] < piece[1]
        ]
    return left
