"""What a replica may do next: its renewals, the start of a pass, and each await of one."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from model import rules
from model.rules import Case
from model.state import (
    COUNTS,
    NOBODY,
    NONE,
    RAN_OUT,
    Entry,
    Patch,
    Replica,
    State,
    Work,
    conflicted,
    replaced,
    stored,
    touched,
)

Step = tuple[str, State]


def steps(state: State, me: int, case: Case) -> Iterator[Step]:
    """Yield what replica `me` may do, in words, and what there is then."""
    replica = state.replicas[me]
    if not replica.up:
        yield from _restarts(state, me, case)
        return
    if replica.unseeing:
        yield from _waits_for_confirmation(state, me, case)
        return
    yield from _observes(state, me, case)
    yield from _renews(state, me, case)
    if replica.work:
        yield from _goes_on(state, me, case)
    elif state.deleted and me == len(state.replicas) - 1:
        yield from _takes_back(state, me, case)  # the others have not heard of it
    else:
        yield from _begins(state, me, case)


# What it learns, also in the middle of a pass


def _observes(state: State, me: int, case: Case) -> Iterator[Step]:
    replica, entry = state.replicas[me], state.entry
    if replica.lease == RAN_OUT:
        interrupted = _ended(state, me)
        yield "notices that its lease ran out", _put(interrupted, me, lease=NONE, unanswered=False)
    if replica.current:
        return
    last = state.last[case.site_of[me]]
    mine = last.writer == me
    answers = replica.answers and (mine or last.writer == NOBODY)
    learnt = replica._replace(
        current=True,
        missed=False,
        lease=NONE,
        mine=Entry(),
        unanswered=False,
        held=last.pod,
        answers=answers,
    )
    if mine and replica.unanswered:
        learnt = learnt._replace(answers=True)
        if entry == last:
            learnt = _holding(learnt, replica, entry)
    if learnt.lease == NONE:
        learnt = learnt._replace(in_office=replica.in_office and last.term == replica.mine.term)
    after = _set(state, me, learnt)
    if _interrupted(replica, last, me, case):
        after = _ended(after, me)
    yield f"sees {_what(entry, case)}", after


def _interrupted(replica: Replica, last: Entry, me: int, case: Case) -> bool:
    """Whether what a replica learns ends its pass."""
    if replica.lease != NONE and replica.missed:
        return True
    verbs = {verb for verb, _ in replica.work}
    if replica.lease != NONE and case.has(rules.SAME_LEASE):
        return bool(verbs & {"transfer", "release"})
    return case.has(rules.SAME_VACANCY) and "create" in verbs


def _holding(replica: Replica, before: Replica, record: Entry) -> Replica:
    """Take a record that was stored as one's lease."""
    return replica._replace(
        lease=COUNTS,
        mine=record,
        held=record.pod,
        answers=True,
        in_office=before.in_office and before.mine.term == record.term,
        begun=before.begun and before.lease != NONE and before.mine.term == record.term,
        unanswered=False,
        excused=False,
    )


def _restarts(state: State, me: int, case: Case) -> Iterator[Step]:
    entry = state.entry
    if rules.NO_NATS in case.events:
        late = bool(entry.cause) or not _ours(entry, me, case)  # it was away for too long
        yield "starts again without NATS", _set(state, me, _unseeing(excused=late))
    if rules.RESTART in case.events:
        ours = not entry.cause and _ours(entry, me, case)
        fresh = Replica(held=entry.pod if ours else NOBODY, excused=True)
        yield f"starts again, sees {_what(entry, case)}", _set(state, me, fresh)


def _unseeing(*, excused: bool = False) -> Replica:
    return Replica(current=False, unseeing=True, excused=excused)


def _waits_for_confirmation(state: State, me: int, case: Case) -> Iterator[Step]:
    """Strip for want of an answer, which may come at any time, or see the key at last."""
    for pod in case.pods_of[case.site_of[me]]:
        if state.pods[pod].token and case.has(rules.UNCONFIRMED):
            yield f"strips {case.pod(pod)}, unconfirmed", _stripped(state, me, pod, case)
    entry = state.entry
    ours = not entry.cause and _ours(entry, me, case)
    labelled = [pod for pod in case.pods_of[case.site_of[me]] if state.pods[pod].token]
    # Before it creates a record it strips whoever shows the label.
    answers = ours and entry.pod in labelled
    fresh = Replica(held=entry.pod if ours else NOBODY, answers=answers, excused=True)
    after = _set(state, me, fresh)
    for pod in labelled:
        if not ours:
            after = _stripped(after, me, pod, case)
    yield f"reaches NATS, sees {_what(entry, case)}", after


# The bucket


def _renews(state: State, me: int, case: Case) -> Iterator[Step]:
    """The loop of renewals, which waits for no pass."""
    replica = state.replicas[me]
    if replica.lease == RAN_OUT or not replica.current:
        return  # it would find out first, or be refused
    if state.entry.cause or not _ours(state.entry, me, case):
        return
    words = "renews" if replica.lease else "relays"
    for how, after, _ in _written(state, me, _renewal(state, me), case):
        yield f"{words} the record of {case.pod(state.entry.pod)}: {how}", after


def _renewal(state: State, me: int) -> Entry:
    entry = state.entry
    return entry._replace(writer=me, promoted=entry.promoted or not state.owed)


def _written(state: State, me: int, entry: Entry, case: Case) -> Iterator[tuple[str, State, bool]]:
    """Write to the bucket, expecting the latest entry known; whether the writer knows it stored."""
    replica, site = state.replicas[me], case.site_of[me]
    if not replica.current:
        yield "refused", state, False
        return
    after = stored(state, entry, site=site, known_to=me)
    yield "stored", _set(after, me, _told(replica, entry)), True
    if rules.LOST_ANSWER in case.events:
        after = stored(state, entry, site=site)
        yield "stored, without an answer", *_unanswered(after, me, entry, case)
    if rules.LATE_WRITE in case.events and entry not in state.late:
        after = state._replace(late=state.late | {entry})
        yield "held back, without an answer", *_unanswered(after, me, entry, case)


def _told(replica: Replica, entry: Entry) -> Replica:
    """Take in that one's own write was stored."""
    if entry.cause:
        return replica._replace(lease=NONE, mine=Entry(), unanswered=False)
    return _holding(replica, replica, entry)


def _unanswered(state: State, me: int, entry: Entry, case: Case) -> tuple[State, bool]:
    replica = state.replicas[me]
    if not case.has(rules.ANSWER):
        return _set(state, me, _told(replica, entry)), True
    return _put(state, me, unanswered=not entry.cause), False


# A pass


def _begins(state: State, me: int, case: Case) -> Iterator[Step]:
    replica, entry = state.replicas[me], state.entry
    if replica.lease != NONE:
        yield from _governs(state, me, case)
        return
    if not replica.current:
        return
    ours = not entry.cause and _ours(entry, me, case)
    if ours and entry.writer != me:
        return  # it stands by
    yield from _stands_down(state, me, case)
    if entry.cause and not replica.doubtful and not replica.answers:
        yield from _begins_term(state, me, case)


def _governs(state: State, me: int, case: Case) -> Iterator[Step]:
    yield from _hands_over(state, me, case)
    yield from _corrects(state, me, case)
    yield from _labels(state, me, case)
    if rules.RELEASE in case.events:
        work: Work = (("carriers", 0), ("stopped", 0), ("release", 0))
        if not case.has(rules.STRIP_BEFORE_RELEASE):
            work = (("release", 0), ("carriers", 0), ("stopped", 0))
        yield "gives up", _put(state, me, work=work)
    yield from _gives_way(state, me, case)


def _hands_over(state: State, me: int, case: Case) -> Iterator[Step]:
    old = state.replicas[me].mine.pod
    for to in _ready_besides(old, state, me, case):
        work, reason = _hand_over(state, me, case)
        words = f"hands over from {case.pod(old)} ({reason}) to {case.pod(to)}"
        yield words, _put(state, me, work=work, target=to, fresh=True)


def _corrects(state: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    for stray in case.pods_of[case.site_of[me]]:
        if stray != replica.mine.pod and (state.pods[stray].token or stray in replica.doubtful):
            work = (("renew", 0), ("strip", stray))
            yield f"corrects {case.pod(stray)}", _put(state, me, work=work)


def _labels(state: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    mine, pod = replica.mine, replica.mine.pod
    if state.pods[pod].token == mine.term:
        if not replica.in_office:
            yield f"sees {case.pod(pod)} labelled", _put(state, me, in_office=True)
    elif state.pods[pod].condition == "ready" and mine.promoted:
        first = int(not replica.in_office)
        work = _adding(first, case, renew=case.has(rules.WARRANT))
        words = f"labels {case.pod(pod)}"
        yield words, _put(state, me, work=work, target=pod, fresh=True, aim=mine.term)


def _gives_way(state: State, me: int, case: Case) -> Iterator[Step]:
    """Let another lead whose pod has certainly no label, though it cannot be stripped."""
    replica = state.replicas[me]
    old, shown = replica.mine.pod, replica.in_office or bool(replica.doubtful)
    refused = rules.REFUSAL in case.events and state.pods[old].token == 0
    if refused and ((replica.begun and not shown) or not case.has(rules.UNSTRIPPED)):
        for to in _ready_besides(old, state, me, case):
            work = (("renew", 0), ("look around", old), ("transfer", old), ("send", 0))
            words = f"hands over from {case.pod(old)}, which refuses label and strip"
            yield words, _put(state, me, work=work, target=to, fresh=True)
    if rules.GIVE_WAY in case.events and replica.begun and not (shown and case.has(rules.UNSHOWN)):
        words = "gives way, for its API server is away"
        yield words, _put(state, me, work=(("release", 0),))


def _ready_besides(old: int, state: State, me: int, case: Case) -> Iterator[int]:
    pods = case.pods_of[case.site_of[me]]
    return (pod for pod in pods if pod != old and state.pods[pod].condition == "ready")


def _hand_over(state: State, me: int, case: Case) -> tuple[Work, str]:
    replica, old = state.replicas[me], state.replicas[me].mine.pod
    terminating = state.pods[old].condition != "ready"
    work: Work = ()
    shown = state.pods[old].token == replica.mine.term and old not in replica.doubtful
    if case.routed and (shown or not case.has(rules.SHOWN)):
        work = (("transfer", old), ("look around", old), ("strip", old), ("send", 0))
        return work, "slice first"
    if not terminating and case.has(rules.RENEW_FIRST):
        work += (("renew", 0),)
    work += (("look around", old),)
    if case.has(rules.CONFIRMED):
        work += (("strip", old),)
    transfer, send = ("transfer", old), ("send", 0)
    if not case.has(rules.WARRANT):
        send = ("look and send", 0)
    work += (transfer, send) if case.has(rules.TRANSFER_FIRST) else (send, transfer)
    if not case.has(rules.CONFIRMED):
        return work, "which a watch showed as deleted"
    return work, "terminating" if terminating else "not ready"


def _adding(first: int, case: Case, *, renew: bool) -> Work:
    work: Work = (("list", 0),) if first and case.has(rules.LIST) else ()
    if renew:
        work += (("renew", 0),)
    return (*work, ("send", first))


def _stands_down(state: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    lapsed = not state.entry.cause and state.entry.writer == me
    due = set(replica.doubtful)
    if replica.answers and (case.has(rules.STRIP_AT_DEADLINE) or not lapsed):
        due.add(replica.held)
    due.discard(NOBODY)
    if due or replica.answers:
        work = (*(("strip", pod) for pod in sorted(due)), ("stopped", 0))
        yield "stands down", _put(state, me, work=work)
    for pod in case.pods_of[case.site_of[me]]:
        if state.pods[pod].token and pod not in due and not lapsed:
            words = f"stands down, for its watch shows {case.pod(pod)} labelled"
            yield words, _put(state, me, work=(("strip", pod),))


def _begins_term(state: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    if state.terms >= case.terms:
        return
    for to in case.pods_of[case.site_of[me]]:
        if state.pods[to].condition != "ready":
            continue
        strip: Work = ()
        if replica.held == NOBODY and case.has(rules.UNKNOWN_HOLDER):
            others = [pod for pod in case.pods_of[case.site_of[me]] if pod != to]
            strip = tuple(("strip", pod) for pod in others)
        elif replica.held not in {NOBODY, to} and case.has(rules.LAST_HOLDER):
            strip = (("strip", replica.held),)
        label = _adding(1, case, renew=False)
        if strip:
            words = f"begins a term for {case.pod(to)}"
            work = (*strip, ("create", 0), *label)
            yield words, _put(state, me, work=work, target=to, fresh=True)
        else:
            going = _put(state, me, work=label, target=to, fresh=True)
            yield from _creates(going, me, case)


def _takes_back(state: State, me: int, case: Case) -> Iterator[Step]:
    replica, entry = state.replicas[me], state.entry
    if state.deleted == "done":
        return
    work: Work = (("carriers", 0), ("stopped", 0))
    if replica.lease != NONE:
        work += (("release", 0),)
    elif replica.current and not entry.cause and _ours(entry, me, case):
        work = (("renew", 0), *work, ("release", 0))
    work += (("finalizer", 0),)
    yield "takes everything back", _put(state, me, work=work)


# Each await of a pass


def _goes_on(state: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    (verb, what), rest = replica.work[0], replica.work[1:]
    if verb in {"await", "strip", "list"}:
        yield "ends its pass", _ended(state, me)
    going = _put(state, me, work=rest)
    match verb:
        case "strip":
            yield f"strips {case.pod(what)}", _stripped(going, me, what, case)
        case "stopped":
            yield "answers for nobody any more", _put(going, me, answers=False, in_office=False)
        case "look" | "list" | "look around":
            yield _looks(state, going, me, case)
        case "renew" | "transfer" | "create" | "release":
            yield from _writes(state, going, me, case)
        case "send" | "look and send":
            fresh = replica.fresh or verb != "send"
            yield _sends(state, me, what, case, fresh=fresh)
        case "await":
            yield from ()
        case "carriers":
            yield _lists_carriers(state, me, case)
        case "finalizer":
            yield from _removes_the_finalizer(going, me, case)
        case _:
            raise AssertionError(verb)


def _looks(state: State, going: State, me: int, case: Case) -> Step:
    """Read the target, or list the pods that may be labelled."""
    replica = state.replicas[me]
    (verb, what), rest = replica.work[0], replica.work[1:]
    if verb == "look":
        ready = state.pods[replica.target].condition == "ready"
        after = _put(going, me, fresh=True) if ready else _ended(state, me)
        return f"looks at {case.pod(replica.target)}", after
    allowed = {replica.target} if verb == "list" else {replica.target, what}
    clear = _nobody_else(state, me, case, allowed)
    words = "lists: " + _said(others=not clear)
    if verb == "list":
        return words, going if clear else _ended(state, me)
    if not clear and case.has(rules.LIST):
        going = _put(going, me, work=(*rest[:-1], ("list", 0), ("send", 1)))
    return words, going


def _nobody_else(state: State, me: int, case: Case, allowed: AbstractSet[int]) -> bool:
    """Return whether a list finds that no other pod may be labelled."""
    doubtful = state.replicas[me].doubtful
    return not state.deleted and not any(
        state.pods[pod].token or pod in doubtful
        for pod in case.pods_of[case.site_of[me]]
        if pod not in allowed
    )


def _lists_carriers(state: State, me: int, case: Case) -> Step:
    replica = state.replicas[me]
    due = {pod for pod in case.pods_of[case.site_of[me]] if state.pods[pod].token}
    due |= replica.doubtful
    if replica.lease != NONE:
        due |= {replica.mine.pod}
    work = (*(("strip", pod) for pod in sorted(due)), *replica.work[1:])
    return "lists who is to be stripped", _put(state, me, work=work)


def _removes_the_finalizer(going: State, me: int, case: Case) -> Iterator[Step]:
    left = any(going.pods[pod].token for pod in case.pods_of[case.site_of[me]])
    record = not going.entry.cause and _ours(going.entry, me, case)
    if not left and going.replicas[me].current and not record:
        over = _put(going, me, up=False)
        yield "removes the finalizer", over._replace(deleted="done")


def _said(*, others: bool) -> str:
    return "somebody else may be labelled" if others else "nobody else is labelled"


def _stripped(state: State, me: int, pod: int, case: Case) -> State:
    """Strip a pod, confirmed."""
    replica, there = state.replicas[me], state.pods[pod]
    state = _put(state, me, doubtful=replica.doubtful - {pod})
    if there.condition == "gone":
        return state
    if not there.token and not case.has(rules.REAL_STRIP):
        return state
    return touched(state, pod, there._replace(token=0), fence=case.has(rules.FENCE))


def _writes(state: State, going: State, me: int, case: Case) -> Iterator[Step]:
    """Write to the bucket."""
    match state.replicas[me].work[0][0]:
        case "renew":
            return _renews_in_pass(state, going, me, case)
        case "transfer":
            return _transfers(state, going, me, case)
        case "create":
            return _creates(going, me, case)
        case verb:
            assert verb == "release"
            return _releases(state, going, me, case)


def _renews_in_pass(state: State, going: State, me: int, case: Case) -> Iterator[Step]:
    replica, entry = state.replicas[me], state.entry
    if replica.lease == RAN_OUT or entry.cause or not _ours(entry, me, case):
        return  # it ends its pass
    for how, after, known in _written(going, me, _renewal(state, me), case):
        words = f"renews the record of {case.pod(entry.pod)} before it goes on: {how}"
        yield words, after if known else _ended(after, me)


def _transfers(state: State, going: State, me: int, case: Case) -> Iterator[Step]:
    replica = state.replicas[me]
    if replica.lease != COUNTS or state.terms >= case.terms:
        return
    acts = state.entry.promoted or not state.owed
    record = Entry("", me, replica.target, state.terms + 1, acts)
    over = case.pod(state.entry.pod)
    for how, after, known in _written(going, me, record, case):
        words = f"transfers the record from {over} to {case.pod(replica.target)}: {how}"
        yield words, _put(after, me, begun=True, aim=record.term) if known else _ended(after, me)


def _creates(going: State, me: int, case: Case) -> Iterator[Step]:
    replica, entry = going.replicas[me], going.entry
    if not replica.current or not entry.cause or going.terms >= case.terms:
        return
    last = going.last[case.site_of[me]]
    own = _ours(entry, me, case) and entry.promoted and replica.held == last.pod
    acts = own or not going.owed or not case.has(rules.WAIT)
    record = Entry("", me, replica.target, going.terms + 1, acts)
    for how, after, known in _written(going, me, record, case):
        words = f"creates the record for {case.pod(replica.target)}: {how}"
        begun = replica.held != replica.target or entry.cause == "released"
        begun = begun or not case.has(rules.CLEAN)
        yield words, _put(after, me, begun=begun, aim=record.term) if known else _ended(after, me)


def _releases(state: State, going: State, me: int, case: Case) -> Iterator[Step]:
    entry = state.entry
    if entry.cause or entry.writer != me:
        return
    marker = entry._replace(cause="released" if entry.promoted else "evicted")
    going = _put(going, me, lease=NONE, unanswered=False)
    for how, after, _ in _written(going, me, marker, case):
        yield f"releases the record of {case.pod(entry.pod)}: {how}", after


def _sends(state: State, me: int, first: int, case: Case, *, fresh: bool) -> Step:
    """Send the label, if it is warranted at this moment."""
    replica, target = state.replicas[me], state.replicas[me].target
    mine, name = replica.mine, case.pod(target)
    early = not case.has(rules.TRANSFER_FIRST) and len(replica.work) > 1
    warranted = replica.lease == COUNTS and mine.promoted and not replica.unanswered
    right = early or (mine.pod == target and mine.term == replica.aim)
    if not warranted or not right or state.pods[target].condition == "gone":
        return f"may not label {name}", _ended(state, me)
    if not fresh and case.has(rules.FENCE):
        return f"sends the label of {name}: refused", _set(state, me, conflicted(replica))
    token = state.terms + 1 if early else mine.term
    if fresh and state.pods[target].token == token:
        return f"finds {name} labelled", _put(_ended(state, me), me, in_office=True)
    patch = Patch(target, token, me)
    after = _put(state, me, work=(("await", first), *replica.work[1:]))
    return f"sends the label of {name}", after._replace(patches=after.patches | {patch})


# Inside


def _ours(entry: Entry, me: int, case: Case) -> bool:
    return entry.writer != NOBODY and case.site_of[entry.writer] == case.site_of[me]


def _ended(state: State, me: int) -> State:
    """End a pass wherever it is; a label without an answer counts as done."""
    replica = state.replicas[me]
    if replica.work and replica.work[0][0] == "await":
        waiting = {patch for patch in state.patches if patch.sender == me}
        left = {patch._replace(sender=NOBODY) for patch in waiting}
        state = state._replace(patches=(state.patches - waiting) | left)
        replica = replica._replace(doubtful=replica.doubtful | {replica.target})
    return _set(state, me, replica._replace(work=(), target=NOBODY, fresh=False, aim=0))


def _put(state: State, me: int, **changes: Any) -> State:
    """Change a replica."""
    return _set(state, me, state.replicas[me]._replace(**changes))


def _set(state: State, me: int, replica: Replica) -> State:
    if not replica.work and replica.target != NOBODY:
        replica = replica._replace(target=NOBODY, fresh=False, aim=0)
    return state._replace(replicas=replaced(state.replicas, me, replica))


def _what(entry: Entry, case: Case) -> str:
    if entry.cause:
        return f"that the record was {entry.cause}" if entry.cause != "expired" else "the expiry"
    return f"the record of {case.pod(entry.pod)}, term {entry.term}"
