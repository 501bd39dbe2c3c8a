"""The searches: what holds, and what breaks it when a rule is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from model import rules
from model.rules import Case

BUILT: Final = frozenset({rules.UNKNOWN_HOLDER})
"""The rules that the code does without: the first promise leaves out a label that is held back for
longer than a term, and only such a one can come after the list of a replica that knows nothing."""

SITES: Final = Case(replicas=(1, 1), pods=(1, 1), terms=2)

HOLD: Final[dict[str, Case]] = {
    "hand-overs and relays": Case(terms=2, without=BUILT),
    "a third pod": Case(pods=(3,), terms=3, start="nominated", without=BUILT),
    "expiry and eviction": Case(
        start="nominated", events=frozenset({rules.EXPIRY, rules.EVICTION}), without=BUILT
    ),
    "answers lost and late": Case(
        terms=2,
        start="nominated",
        events=frozenset({rules.LOST_ANSWER, rules.LATE_WRITE}),
        without=BUILT,
    ),
    "a Service of its own": Case(terms=3, routed=True, without=BUILT),
    "a Service of its own, answers lost and late": Case(
        terms=2,
        routed=True,
        start="nominated",
        events=frozenset({rules.LOST_ANSWER, rules.LATE_WRITE, rules.TERMINATION}),
        without=BUILT,
    ),
    "a Service of its own, on two sites": replace(
        SITES,
        pods=(2, 1),
        terms=3,
        routed=True,
        events=frozenset({rules.EXPIRY, rules.EVICTION, rules.RELEASE, rules.CUT_OFF}),
        without=BUILT,
    ),
    "terminating pods": Case(terms=2, events=frozenset({rules.TERMINATION}), without=BUILT),
    "a deleted election": Case(terms=2, events=frozenset({rules.DELETION}), without=BUILT),
    "crashes": Case(terms=2, events=frozenset({rules.CRASH, rules.EXPIRY}), without=BUILT),
    "restarts": Case(
        terms=2,
        start="nominated",
        events=frozenset({rules.CRASH, rules.RESTART, rules.EXPIRY}),
    ),
    "two sites": replace(
        SITES,
        terms=3,
        events=frozenset({rules.EXPIRY, rules.EVICTION, rules.RELEASE, rules.CUT_OFF}),
        without=BUILT,
    ),
    "giving way": replace(
        SITES,
        replicas=(2, 1),
        terms=3,
        start="evicted",
        events=frozenset({rules.GIVE_WAY}),
        without=BUILT,
    ),
    "giving way after a hand-over": replace(
        SITES,
        pods=(2, 1),
        terms=3,
        events=frozenset({rules.GIVE_WAY, rules.CUT_OFF}),
        without=BUILT,
    ),
    "a pod that refuses label and strip": Case(
        terms=3, start="nominated", events=frozenset({rules.REFUSAL}), without=BUILT
    ),
    "a pod that refuses label and strip, after an expiry": Case(
        terms=3, start="nominated", events=frozenset({rules.REFUSAL, rules.EXPIRY}), without=BUILT
    ),
    "a pod that refuses label and strip, or gives way": replace(
        SITES,
        pods=(2, 1),
        terms=3,
        events=frozenset({rules.REFUSAL, rules.GIVE_WAY, rules.CUT_OFF}),
        without=BUILT,
    ),
    "two sites, restarts without NATS": replace(
        SITES,
        events=frozenset({rules.EXPIRY, rules.CRASH, rules.NO_NATS, rules.CUT_OFF}),
        without=BUILT,
    ),
    "two sites, a standby without NATS": Case(
        replicas=(2, 1),
        pods=(1, 1),
        terms=2,
        events=frozenset({rules.EXPIRY, rules.CRASH, rules.NO_NATS, rules.CUT_OFF}),
        without=BUILT,
    ),
    "two sites, one with two replicas": Case(
        replicas=(2, 1),
        pods=(1, 1),
        terms=2,
        events=frozenset({rules.EXPIRY, rules.EVICTION, rules.CUT_OFF, rules.CRASH}),
        without=BUILT,
    ),
}
"""In all of these nothing is to be found."""

BREAK: Final[dict[str, Case]] = {
    rules.FENCE: Case(terms=2, start="nominated"),
    rules.REAL_STRIP: Case(terms=2, start="nominated"),
    rules.WARRANT: Case(terms=2),
    rules.LIST: Case(
        replicas=(1,),
        terms=2,
        events=frozenset({rules.EXPIRY, rules.CRASH, rules.RESTART}),
        without=BUILT,
    ),
    rules.TRANSFER_FIRST: Case(terms=2),
    rules.CONFIRMED: Case(terms=2),
    rules.LAST_HOLDER: Case(terms=2, start="nominated", events=frozenset({rules.EXPIRY})),
    rules.UNKNOWN_HOLDER: Case(
        replicas=(1,),
        terms=2,
        start="nominated",
        events=frozenset({rules.EXPIRY, rules.CRASH, rules.RESTART}),
    ),
    rules.SHOWN: Case(
        terms=2,
        routed=True,
        start="nominated",
        events=frozenset({rules.LOST_ANSWER, rules.LATE_WRITE, rules.TERMINATION}),
    ),
    rules.ANSWER: Case(terms=2, start="nominated", events=frozenset({rules.LATE_WRITE})),
    rules.SAME_LEASE: Case(terms=2),
    rules.SAME_VACANCY: Case(start="evicted", events=frozenset({rules.EVICTION})),
    rules.WAIT: replace(SITES, events=frozenset({rules.EVICTION, rules.CUT_OFF})),
    rules.STRIP_AT_DEADLINE: replace(SITES, events=frozenset({rules.EXPIRY, rules.CUT_OFF})),
    rules.UNCONFIRMED: replace(
        SITES, events=frozenset({rules.EXPIRY, rules.CRASH, rules.NO_NATS, rules.CUT_OFF})
    ),
    rules.UNSHOWN: replace(SITES, start="evicted", terms=3, events=frozenset({rules.GIVE_WAY})),
    rules.UNSTRIPPED: Case(terms=2, start="nominated", events=frozenset({rules.REFUSAL})),
    rules.CLEAN: Case(
        terms=3, start="nominated", events=frozenset({rules.REFUSAL, rules.EXPIRY}), without=BUILT
    ),
    rules.STRIP_BEFORE_RELEASE: replace(SITES, events=frozenset({rules.RELEASE, rules.CUT_OFF})),
}
"""Each rule, and where leaving it out breaks a promise."""

NOT_NEEDED: Final[dict[str, Case]] = {rules.RENEW_FIRST: Case(terms=2)}
"""Rules that promise 1 does not need. A strip by a replica that was relieved harms no more than
the leader's label, which comes back: that is why the steward renews before it."""
