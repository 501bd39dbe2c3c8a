"""The checker of the chaos finds what it is there for, in histories written by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chaos import report
from chaos.checker import check
from chaos.history import (
    Delay,
    Entry,
    History,
    Message,
    PodEvent,
    SliceEvent,
    Spell,
    Trouble,
)
from chaos.plan import Kind, make_plan

TESTS = Path(__file__).parents[2]
TTL = 10.0


class Story:
    """Writes a history: two sites with two replicas each, and one election.

    `e1` and `e2` are pods of the site east, `w1` and `w2` of west. All are candidates at first.
    """

    def __init__(self) -> None:
        replicas = {"east": ("east-1", "east-2"), "west": ("west-1", "west-2")}
        self.history = History(TTL, 1.0, 5.0, replicas, ("web",), began=0.0, ended=100.0)
        for pod in ("e1", "e2", "w1", "w2"):
            self.pod(0.0, pod)

    def pod(self, at, pod, token=0, unfit="", *, place=None, labelled=None, hand=0):
        """Show a pod; with a token it carries the label. `place` is among all events."""
        labelled = token > 0 if labelled is None else labelled
        event = PodEvent(at, _site(pod), "web", pod, pod, labelled, token, unfit, hand)
        self.history.pods.insert(len(self.history.pods) if place is None else place, event)

    def record(self, at, revision, pod, term, replica=1):
        """Store a record."""
        site = _site(pod)
        writer = f"{site}-{replica}/nonce"
        message = Message(at, "web", revision, Entry.RECORD, site, writer, pod, pod, term)
        self.history.messages.append(message)

    def marker(self, at, revision, entry):
        """Store the end of a record."""
        self.history.messages.append(Message(at, "web", revision, entry))

    def reign(self, since, until, pod, term, *, last=None, **end):
        """Have a pod lead: record, label, renewals every 3 s until `last`, then no label."""
        self.record(since - 0.1, term, pod, term)
        self.pod(since, pod, term)
        for number in range(1, int(((last or until) - since) / 3) + 1):
            self.record(since + 3 * number, term + number, pod, term)
        if until < self.history.ended:
            self.pod(until, pod, **end)

    def trouble(self, since, until, trouble, *replicas):
        """Have trouble with replicas; with none of them, with NATS."""
        for replica in replicas or ("",):
            site = replica.partition("-")[0]
            self.history.spells.append(Spell(since, trouble, site, replica, until))

    def webhook(self, since, until, site):
        """Have a webhook interfere in a site."""
        spell = Spell(since, Trouble.ADMISSION, site, until=until)
        self.history.spells.append(spell)

    def late(self, at, site, seconds):
        """Measure how late the events of a site come."""
        self.history.delays.append(Delay(at, site, seconds))

    def violations(self):
        """Return the broken promises."""
        return [finding.promise for finding in check(self.history).violations]


def _site(pod):
    return {"e": "east", "w": "west"}[pod[0]]


@pytest.fixture
def story():
    """Return a story in which nothing has happened yet."""
    return Story()


def test_checker_and_harness_import_nothing_of_the_operator():
    """Not even what they use imports it."""
    code = (
        "import sys, chaos.__main__;"
        "sys.exit(any(name.partition('.')[0] == 'incumbent' for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TESTS)


# Histories without violations


def test_hand_over_of_a_leader_that_is_deleted_is_fine(story):
    """What the operator should do breaks no promise, and is counted."""
    story.reign(1, 20, "e1", 1, unfit="terminating")
    story.pod(21, "e1", unfit="gone")
    story.reign(20.3, 100, "e2", 10)
    verdict = check(story.history)
    assert not verdict.violations
    assert not verdict.apart
    assert verdict.causes == {"leader terminating": 1}
    assert verdict.gaps == {"leader terminating": [(pytest.approx(0.3), 20, "web")]}
    assert (verdict.terms, verdict.hand_overs, verdict.overlap) == (2, 1, 0)


def test_eviction_is_a_cause(story):
    """The other site leads after an eviction."""
    story.reign(1, 20, "e1", 1)
    story.marker(19.9, 9, Entry.EVICTED)
    story.reign(28, 100, "w1", 10)
    verdict = check(story.history)
    assert not verdict.violations
    assert verdict.causes == {"eviction": 1}
    assert verdict.hand_overs == 0


def test_short_unreadiness_is_a_cause_soon_after(story):
    """A leader that was not ready for a moment may be replaced although it is ready again."""
    story.reign(1, 20.5, "e1", 1)
    story.pod(20, "e1", 1, "not ready", place=-1)
    story.pod(20.2, "e1", 1, place=-1)
    story.reign(21, 100, "e2", 10)
    assert check(story.history).causes == {"leader not ready": 1}
    assert not story.violations()


@pytest.mark.parametrize(
    ("trouble", "replicas", "cause"),
    (
        (Trouble.NATS_DOWN, (), "NATS lost"),
        (Trouble.NO_NATS, ("east-1", "east-2"), "NATS lost"),
        (Trouble.DEAD, ("east-1", "east-2"), "all replicas dead or paused"),
    ),
)
def test_deadline_is_a_cause_if_no_replica_could_renew(story, trouble, replicas, cause):
    """Who cannot renew until the deadline has to step down."""
    story.trouble(20, 32, trouble, *replicas)
    story.reign(1, 28, "e1", 1, last=19)
    story.marker(29.1, 9, Entry.EXPIRED)
    story.reign(40, 100, "w1", 10)
    verdict = check(story.history)
    assert not verdict.violations
    assert verdict.causes == {cause: 1}


# One pod a site


def test_two_labels_in_one_site_are_found(story):
    """The new pod is labelled in the event before the old one is stripped."""
    story.reign(1, 20, "e1", 1, unfit="not ready")
    last = story.history.pods.pop()
    story.reign(20, 100, "e2", 10)
    story.history.pods.append(last)
    assert story.violations() == ["one pod a site"]


def led(at, *pods, token=1):
    """Return an event of a slice."""
    site = _site(pods[0]) if pods else "east"
    return SliceEvent(at, site, "web", tuple((pod, pod) for pod in pods), token if pods else 0)


def test_slice_that_follows_the_record_is_fine(story):
    """It moves in one event, and is empty before the other site's leads to anybody."""
    story.reign(1, 20, "e1", 1, unfit="terminating")
    story.reign(20.3, 40, "e2", 10, unfit="gone")
    story.marker(40.5, 50, Entry.RELEASED)
    story.reign(41, 100, "w1", 60)
    story.history.slices += [led(1, "e1"), led(20.2, "e2", token=10), led(40.2)]
    story.history.slices += [led(41, "w1", token=60)]
    assert story.violations() == []


def test_service_that_never_leads_to_anybody_is_found(story):
    """Otherwise doing nothing would pass."""
    story.reign(1, 100, "e1", 1)
    assert story.violations() == []
    story.history.routing = True
    assert story.violations() == ["somebody leads"]


@pytest.mark.parametrize(
    ("slices", "promise"),
    (
        ([led(1, "e1"), led(5, "e1", "e2")], "one pod a slice"),
        ([led(1, "e2")], "one pod a slice"),
        ([led(1, "e1", token=0)], "one pod a slice"),
        ([led(1, "e1"), led(50, "w1", token=60), led(60)], "one site"),
    ),
    ids=("two pods", "another pod's token", "no token", "two sites"),
)
def test_slice_that_leads_to_another_pod_is_found(story, slices, promise):
    """Two at once, a pod that has no such term, or both sites at a time."""
    story.reign(1, 45, "e1", 1, unfit="gone")
    story.reign(46, 100, "w1", 60)
    story.history.slices += slices
    assert story.violations() == [promise]


def test_slice_that_leads_back_to_an_older_term_is_found(story):
    """As a write does that was under way for long, and that nobody refused."""
    story.reign(1, 20, "e1", 1, unfit="gone")
    story.reign(20.3, 100, "e2", 10)
    story.history.slices += [led(1, "e1"), led(20.2, "e2", token=10), led(30, "e1")]
    assert story.violations() == ["tokens grow"]


def test_deleted_pod_counts_no_more(story):
    """A labelled pod that is gone carries nothing."""
    story.reign(1, 20, "e1", 1, unfit="gone")
    story.reign(20, 100, "e2", 10)
    assert not story.violations()


# One site


def overlap(story):
    """East leads for half a second more after west does."""
    story.reign(1, 30, "e1", 1, last=19, unfit="not ready")
    story.reign(29.5, 100, "w1", 10)


def test_overlap_between_sites_is_found(story):
    """Nothing was wrong with the replicas of the old site."""
    overlap(story)
    assert story.violations() == ["one site"]
    assert check(story.history).overlap == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("trouble", "replicas"),
    (
        (Trouble.DEAD, ("east-1", "east-2")),
        (Trouble.PAUSED, ("east-1", "east-2")),
        (Trouble.NO_API, ("east-1", "east-2")),
    ),
)
def test_overlap_is_reported_apart_where_nobody_could_strip(story, trouble, replicas):
    """All replicas of the old site were dead, paused or cut off."""
    overlap(story)
    story.trouble(20, 29.8, trouble, *replicas)
    verdict = check(story.history)
    assert not verdict.violations
    assert [finding.promise for finding in verdict.apart] == ["one site"]
    assert verdict.overlap == 0
    assert verdict.overlap_apart == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("trouble", "replicas"),
    (
        (Trouble.PAUSED, ("east-1",)),  # the other replica sees both
        (Trouble.PAUSED, ("west-1", "west-2")),  # the other site
        (Trouble.NO_NATS, ("east-1", "east-2")),  # the steward reaches its API server
        (Trouble.NATS_DOWN, ()),
    ),
)
def test_overlap_counts_where_somebody_could_strip(story, trouble, replicas):
    """The promise holds as long as one replica of the old site can do its part."""
    overlap(story)
    story.trouble(20, 29.8, trouble, *replicas)
    assert story.violations() == ["one site"]


@pytest.mark.parametrize(("site", "found"), (("east", []), ("west", ["one site"])))
def test_overlap_is_reported_apart_while_a_webhook_interferes(story, site, found):
    """A strip may be refused, undone or late, in that site."""
    overlap(story)
    story.webhook(20, 29.8, site)
    assert story.violations() == found


@pytest.mark.parametrize(("dead", "found"), ((3, ["one site"]), (4, [])))
def test_steward_may_be_started_anew_within_a_third_of_the_ttl(story, dead, found):
    """Then it strips in time, also without NATS; later it cannot know when that would be."""
    story.reign(1, 30, "e1", 1, last=10, unfit="not ready")
    story.reign(29.5, 100, "w1", 10)
    story.trouble(11, 35, Trouble.NO_NATS, "east-1", "east-2")
    story.trouble(15, 15 + dead, Trouble.DEAD, "east-1")
    assert story.violations() == found


def test_overlap_that_late_events_explain_is_none(story):
    """The strip was seen late, as were writes of our own at that time."""
    overlap(story)
    story.late(30.1, "east", 0.6)
    verdict = check(story.history)
    assert not verdict.violations
    assert not verdict.apart


# Tokens grow


def test_token_that_goes_back_is_found(story):
    """A new leader has a smaller token than the one before."""
    story.reign(1, 20, "e1", 30, unfit="not ready")
    story.pod(20.2, "e2", 7)
    assert "tokens grow" in story.violations()


def test_term_that_goes_back_in_the_bucket_is_found(story):
    """A record of a term that had ended is stored once more."""
    story.reign(1, 20, "e1", 1, unfit="not ready")
    story.reign(20.2, 100, "e2", 10)
    story.record(99, 90, "e1", 1)
    assert story.violations() == ["tokens grow"]


def test_token_of_another_pod_is_found(story):
    """The label carries the number of the other pod's term."""
    story.record(0.9, 1, "e1", 1)
    story.pod(1, "e2", 1)
    assert story.violations() == ["tokens grow"]


def test_holder_that_changes_within_a_term_is_found(story):
    """A term belongs to one pod."""
    story.reign(1, 100, "e1", 1)
    story.record(99.5, 90, "e2", 1)
    assert story.violations() == ["tokens grow"]


# No change without need


def test_change_without_a_cause_is_found(story):
    """The leader was well, nobody evicted it, and the record was renewed."""
    story.reign(1, 20, "e1", 1)
    story.reign(20.2, 100, "e2", 10)
    assert story.violations() == ["no change without need"]


def test_unreadiness_before_the_reign_is_no_cause(story):
    """It was over when the pod got the label."""
    story.pod(0.5, "e1", unfit="not ready")
    story.pod(0.7, "e1")
    story.reign(1, 4, "e1", 1)
    story.reign(4.2, 100, "e2", 10)
    assert story.violations() == ["no change without need"]


def test_unreadiness_of_long_ago_is_no_cause(story):
    """It was over long before the pod lost the label."""
    story.reign(1, 20, "e1", 1)
    story.pod(5, "e1", 1, "not ready", place=-1)
    story.pod(6, "e1", 1, place=-1)
    story.reign(20.2, 100, "e2", 10)
    assert story.violations() == ["no change without need"]


@pytest.mark.parametrize(
    ("until", "down", "found"),
    (
        (28.3, True, []),
        (28.3, False, ["no change without need"]),
        (29.5, True, ["no change without need"]),
    ),
)
def test_renewal_after_the_deadline_does_not_recall_the_strip(story, until, down, found):
    """It is on its way until the TTL ends; then the label comes back, for the term goes on."""
    if down:
        story.trouble(20, 27, Trouble.NATS_DOWN)
    story.reign(1, until, "e1", 1, last=19)
    story.record(28.1, 90, "e1", 1, replica=2)
    story.history.messages.sort(key=lambda message: message.at)
    story.pod(until + 0.2, "e1", 1)
    for number in range(20):
        story.record(31 + 3 * number, 91 + number, "e1", 1, replica=2)
    story.history.ended = 90.0
    assert story.violations() == found


@pytest.mark.parametrize("other", ((), (Trouble.NO_API,)))
def test_deadline_is_no_cause_if_a_standby_could_renew(story, other):
    """Only the steward was away, and the other replica let the record lapse.

    To renew, it needs no API server.
    """
    story.trouble(20, 32, Trouble.DEAD, "east-1")
    for trouble in other:
        story.trouble(20, 32, trouble, "east-2")
    story.reign(1, 28, "e1", 1, last=19)
    story.marker(29.1, 9, Entry.EXPIRED)
    story.reign(29.5, 100, "w1", 10)
    assert story.violations() == ["no change without need"]


def test_loss_of_nats_is_no_cause_before_the_deadline(story):
    """Four seconds after a renewal there are five left."""
    story.trouble(20, 32, Trouble.NATS_DOWN)
    story.reign(1, 23, "e1", 1, last=19)
    story.reign(40, 100, "w1", 10)
    assert story.violations() == ["no change without need"]


@pytest.mark.parametrize(
    ("since", "until", "found"),
    (
        (10, 15, []),
        (-70, -65, ["no change without need"]),  # forgotten
        (24, 30, ["no change without need"]),  # later
    ),
)
def test_deadline_comes_earlier_after_slow_patches(story, since, until, found):
    """A strip has to be over by the TTL."""
    story.webhook(since, until, "east")
    story.trouble(20, 32, Trouble.NATS_DOWN)
    story.reign(1, 24, "e1", 1, last=19)
    story.reign(40, 100, "w1", 10)
    assert story.violations() == found


@pytest.mark.parametrize(
    ("dead", "found"), ((True, []), (False, ["no change without need"])), ids=["dead", "alive"]
)
def test_deadline_comes_earlier_after_a_restart_without_nats(story, dead, found):
    """The new process presumes that the record was renewed earlier than it was."""
    story.trouble(20, 40, Trouble.NO_NATS, "east-1", "east-2")
    if dead:
        story.trouble(20, 22, Trouble.DEAD, "east-1")
    story.reign(1, 24, "e1", 1, last=19)
    story.reign(40, 100, "w1", 10)
    assert story.violations() == found


def test_label_that_is_away_for_a_moment_is_found(story):
    """Also when it comes back in the same term; that is counted apart."""
    story.reign(1, 20, "e1", 1)
    story.pod(20.4, "e1", 1)
    assert story.violations() == ["no change without need"]
    assert check(story.history).causes == {"no cause, and given back": 1}


# Labels that are changed by hand


def set_by_hand(story, *, until):
    """Somebody labels the other pod, until it is corrected."""
    story.reign(1, 100, "e1", 1)
    story.pod(20, "e2", labelled=True, hand=1)
    if until is not None:
        story.pod(until, "e2", hand=1)


@pytest.mark.parametrize(
    ("until", "found"), ((20.9, []), (21.1, ["one pod a site"]), (None, ["one pod a site"]))
)
def test_label_set_by_hand_is_gone_within_a_second(story, until, found):
    """Until then it does not count as a second leader."""
    set_by_hand(story, until=until)
    assert story.violations() == found
    assert len(check(story.history).reigns) == 1


def test_label_set_by_hand_may_stay_while_a_replica_is_in_trouble(story):
    """Who should correct it may be dead."""
    set_by_hand(story, until=30)
    story.trouble(19, 29, Trouble.DEAD, "east-1")
    verdict = check(story.history)
    assert not verdict.violations
    assert (verdict.by_hand, verdict.corrections) == (1, [])


def test_label_set_by_hand_may_not_stay_after_the_trouble(story):
    """It is corrected when it is over."""
    set_by_hand(story, until=30)
    story.trouble(19, 26, Trouble.DEAD, "east-1")
    assert story.violations() == ["one pod a site"]


def test_label_set_by_hand_may_stay_as_long_as_writes_take(story):
    """Three of them come before it is seen to be gone."""
    set_by_hand(story, until=21.7)
    story.late(20.5, "east", 0.2)
    assert story.violations() == ["one pod a site"]
    story.late(20.6, "east", 0.25)
    assert not story.violations()


def test_second_label_that_nobody_set_by_hand_is_found(story):
    """A change of long ago excuses nothing."""
    set_by_hand(story, until=20.5)
    story.pod(40, "e2", labelled=True, hand=1)
    story.pod(40.1, "e2", hand=1)
    assert "one pod a site" in story.violations()


def test_label_that_is_set_by_hand_where_it_was_taken_is_right(story):
    """The token says that the pod leads."""
    story.reign(1, 20, "e1", 1)
    story.history.pods.pop()
    story.pod(20, "e1", 1, labelled=False, hand=1)
    story.reign(20.2, 100, "e1", 1)
    story.history.pods[-1] = replace(story.history.pods[-1], hand=2)
    story.history.messages.sort(key=lambda message: message.at)
    assert not story.violations()


def taken_by_hand(story, *, back):
    """Somebody takes the label from the leader, which gets it again."""
    story.reign(1, 20, "e1", 1)
    story.history.pods.pop()
    story.pod(20, "e1", 1, labelled=False, hand=1)
    if back is not None:
        story.pod(back, "e1", 1, hand=1)
    for number in range(100, 126):
        story.record(20 + (number - 100) * 3, number, "e1", 1)


@pytest.mark.parametrize(("back", "found"), ((20.9, 0), (21.1, 1), (None, 2)))
def test_label_taken_by_hand_is_back_within_a_second(story, back, found):
    """Nobody else leads meanwhile."""
    taken_by_hand(story, back=back)
    verdict = check(story.history)
    assert len(verdict.violations) == found
    assert {finding.promise for finding in verdict.violations} <= {
        "no change without need",
        "somebody leads",
    }
    assert verdict.causes == {"label taken by hand": 1}


def test_label_taken_by_hand_need_not_come_back_to_a_pod_that_cannot_lead(story):
    """Then another one leads."""
    taken_by_hand(story, back=None)
    story.pod(20.1, "e1", 1, "terminating", labelled=False, hand=1)
    story.reign(22, 100, "e2", 200)
    story.history.messages.sort(key=lambda message: message.at)
    verdict = check(story.history)
    assert "no change without need" not in [found.promise for found in verdict.violations]


# Somebody leads


def test_election_that_is_not_led_again_is_found(story):
    """There are candidates, nothing is wrong, and nobody leads for more than 1.1 TTL + 5 s."""
    story.reign(1, 20, "e1", 1, unfit="not ready")
    story.reign(37, 100, "e2", 10)
    assert story.violations() == ["somebody leads"]


@pytest.mark.parametrize(("replica", "found"), ((1, ["somebody leads"]), (2, [])))
def test_who_takes_over_before_the_holder_acts_may_wait_anew(story, replica, found):
    """The record does not tell how long, so a relay costs another TTL at most."""
    story.reign(1, 20, "e1", 1, unfit="not ready")
    for number in range(3):
        story.record(21 + 2 * number, 10 + number, "e2", 10)
    story.record(27, 13, "e2", 10, replica=replica)
    story.pod(41, "e2", 10)
    assert story.violations() == found


@pytest.mark.parametrize(
    ("trouble", "replicas", "found"),
    (
        (Trouble.NATS_DOWN, (), []),
        (Trouble.NO_API, ("east-1", "east-2"), ["somebody leads"]),
        (Trouble.NO_API, ("east-1", "west-1"), []),
    ),
)
def test_somebody_leads_while_one_site_is_well(story, trouble, replicas, found):
    """Trouble in one site is no excuse for the other."""
    story.trouble(20, 33, trouble, *replicas)
    story.reign(1, 20, "e1", 1, unfit="not ready")
    story.reign(37, 100, "e2", 10)
    assert story.violations() == found


def test_nobody_leads_without_candidates(story):
    """With no candidate in any site nobody has to lead, and the time does not count."""
    story.reign(1, 20, "e1", 1, unfit="not ready")
    for pod in ("e1", "e2", "w1", "w2"):
        story.pod(20.1, pod, unfit="gone")
    story.pod(40, "e2")
    story.reign(41, 100, "e2", 10)
    verdict = check(story.history)
    assert not verdict.violations
    assert verdict.gaps == {"leader not ready": [(pytest.approx(1.1), 20, "web")]}


def test_election_that_is_not_led_at_the_end_is_found(story):
    """However short."""
    story.reign(1, 98, "e1", 1, unfit="not ready")
    assert story.violations() == ["somebody leads"]


# Plans and reports


@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_to_happen_is_not_planned(seed):
    """The other faults are."""
    plan = make_plan(seed, duration=900, ttl=15, elections=20, without=[Kind.PREVIOUS, Kind.NATS])
    assert {fault.kind for fault in plan.faults} == set(Kind) - {Kind.PREVIOUS, Kind.NATS}


def test_same_seed_makes_the_same_plan():
    """Another one makes another plan; all faults end before the plan does."""
    one, same, other = (make_plan(seed, duration=900, ttl=15, elections=20) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert {fault.kind for fault in one.faults} == set(Kind)
    assert all(fault.at + fault.seconds < one.end for fault in one.faults)
    assert sorted(one.faults, key=lambda fault: fault.at) == list(one.faults)


def test_timeline_tells_what_happened_around_a_violation(story):
    """Pods, records and faults are in it, in order, and nothing that was much earlier."""
    overlap(story)
    story.trouble(20, 29.8, Trouble.NATS_DOWN)
    found = check(story.history).violations
    text = "\n".join(report.findings(story.history, found))
    wanted = (
        "no more NATS is down",
        "east   pod e1: not leader",
        "west   pod w1: leader, token 10",
    )
    assert all(words in text for words in wanted)
    assert "pod e1: leader" not in text
    shown = [float(line.split()[0]) for line in text.splitlines() if line.startswith("    ")]
    assert shown == sorted(shown)
