"""What happens to the replicas: time, people, crashes, and answers that come late."""

from __future__ import annotations

from collections.abc import Iterator

from model import rules
from model.replica import Step
from model.rules import Case
from model.state import (
    COUNTS,
    NOBODY,
    NONE,
    RAN_OUT,
    Pod,
    Replica,
    State,
    replaced,
    stored,
    touched,
)


def steps(state: State, case: Case) -> Iterator[Step]:
    """Yield what may happen, in words, and what there is then."""
    yield from _time(state, case)
    yield from _servers(state, case)
    yield from _people(state, case)
    for me, replica in enumerate(state.replicas):
        if replica.up and rules.CRASH in case.events:
            yield f"{case.replica(me)} crashes", _crashed(state, me)
        lost = rules.NO_NATS in case.events and not (replica.unseeing or replica.excused)
        if replica.up and lost and replica.lease == NONE and not (replica.answers or replica.work):
            blind = Replica(current=False, unseeing=True)
            after = state._replace(replicas=replaced(state.replicas, me, blind))
            yield f"{case.replica(me)} loses NATS", after
        if replica.up and rules.CUT_OFF in case.events and not replica.excused:
            cut_off = replica._replace(excused=True)
            after = state._replace(replicas=replaced(state.replicas, me, cut_off))
            yield f"{case.replica(me)} stands still, or is cut off", after


def _time(state: State, case: Case) -> Iterator[Step]:
    for me, replica in enumerate(state.replicas):
        if replica.lease == COUNTS and (case.events & {rules.EXPIRY, rules.CUT_OFF}):
            late = replica._replace(lease=RAN_OUT)
            after = state._replace(replicas=replaced(state.replicas, me, late))
            yield f"the lease of {case.replica(me)} runs out", after
    entry = state.entry
    if rules.EXPIRY in case.events and not entry.cause and _has_passed(state, case, expiry=True):
        expired = entry._replace(cause="expired")
        after = stored(state, expired, site=0)
        yield f"the record of {case.pod(entry.pod)} expires", after
    if state.owed and _has_passed(state, case, expiry=False):
        yield "a TTL has passed since the renewals before the eviction", state._replace(owed=False)


def _has_passed(state: State, case: Case, *, expiry: bool) -> bool:
    """Whether a TTL may have passed since the last renewal: of the record, or of those before it.

    No lease of before counts any more then; and in the time between deadline and TTL whoever is
    alive and connected has done what it has to do: as steward stripped, as standby relayed.
    """
    entry = state.entry
    holding = NOBODY if entry.cause or expiry else case.site_of[entry.writer]
    for me, replica in enumerate(state.replicas):
        if case.site_of[me] == holding:
            continue
        if replica.lease == COUNTS:
            return False
        if replica.unseeing:
            pods = case.pods_of[case.site_of[me]]
            labelled = any(state.pods[pod].token for pod in pods)
            # Not promised: a label that is held back for longer than a term.
            labelled = labelled or any(patch.pod in pods for patch in state.patches)
            if labelled and case.has(rules.UNCONFIRMED) and replica.up and not replica.excused:
                return False
            continue
        if rules.CUT_OFF not in case.events or not replica.up or replica.excused:
            continue
        standby = expiry and case.site_of[entry.writer] == case.site_of[me] and entry.writer != me
        undone = replica.lease != NONE or not replica.current or replica.answers
        undone = undone or bool(replica.doubtful) or bool(replica.work)
        undone = undone or any(state.pods[pod].token for pod in case.pods_of[case.site_of[me]])
        if (undone and case.has(rules.STRIP_AT_DEADLINE)) or standby:
            return False
    return True


def _servers(state: State, case: Case) -> Iterator[Step]:
    for patch in sorted(state.patches):
        pod = state.pods[patch.pod]
        after = state._replace(patches=state.patches - {patch})
        if patch.pod in case.pods_of[0]:
            after = after._replace(highest=max(state.highest, patch.token))
        if patch.sender != NOBODY:
            sender = state.replicas[patch.sender]
            work = sender.work[1:]
            sender = sender._replace(
                in_office=not work, work=work, doubtful=sender.doubtful - {patch.pod}
            )
            if not work:
                sender = sender._replace(target=NOBODY, fresh=False)
            after = after._replace(replicas=replaced(state.replicas, patch.sender, sender))
        after = touched(
            after, patch.pod, pod._replace(token=patch.token), fence=case.has(rules.FENCE)
        )
        yield f"the API server labels {case.pod(patch.pod)} with token {patch.token}", after
    for entry in sorted(state.late):
        after = stored(state, entry, site=case.site_of[entry.writer])
        words = f"the {'release' if entry.cause else 'write'} for {case.pod(entry.pod)}"
        yield f"NATS stores {words} that was held back", after


def _people(state: State, case: Case) -> Iterator[Step]:
    entry = state.entry
    if rules.EVICTION in case.events and not entry.cause:
        owed = state.owed or entry.promoted
        after = stored(state, entry._replace(cause="evicted"), site=0)._replace(owed=owed)
        yield f"somebody deletes the record of {case.pod(entry.pod)}", after
    if rules.DELETION in case.events and not state.deleted:
        yield "somebody deletes the election", state._replace(deleted="asked for")
    if rules.TERMINATION in case.events:
        for number, pod in enumerate(state.pods):
            if pod.condition == "gone":
                continue
            gone = pod.condition == "terminating"
            to = Pod(0, "gone") if gone else pod._replace(condition="terminating")
            words = f"{case.pod(number)} is {'gone' if gone else 'terminating'}"
            yield words, touched(state, number, to, fence=case.has(rules.FENCE))


def _crashed(state: State, me: int) -> State:
    """End a process; what it sent is still on its way."""
    waiting = {patch for patch in state.patches if patch.sender == me}
    left = {patch._replace(sender=NOBODY) for patch in waiting}
    dead = Replica(up=False, current=False, excused=True)
    return state._replace(
        patches=(state.patches - waiting) | left, replicas=replaced(state.replicas, me, dead)
    )
