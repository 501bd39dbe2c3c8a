from __future__ import annotations

import asyncio
import gc
import itertools
import weakref

import pytest

from fakecluster import make_election
from incumbent.controller.registry import Registry
from incumbent.errors import ClusterUnreachable
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import FINALIZER
from incumbent.reconciler.teardown import Ending


class FakeView:
    """Shows what a campaigner was told last."""

    def __init__(self, campaigner):
        self.campaigner = campaigner

    def row(self):
        """Return what can be told."""
        one = self.campaigner
        return {"name": one.resource.key.name, "status": one.body["status"]}


class FakeCampaigner:
    """Records what it is told; its work goes on until it is cancelled, or `fail` is set."""

    def __init__(self, body, resource):
        self.body = body
        self.resource = resource
        self.key = resource.key
        self.view = FakeView(self)
        self.problem = None
        self.told = []
        self.running = False
        self.gone = asyncio.get_running_loop().create_future()
        self.fail = asyncio.Event()
        self.ended = asyncio.Event()
        """Set for endings to come to an end."""
        self.ended.set()

    async def run(self):
        """Work."""
        self.running = True
        try:
            await self.fail.wait()
            msg = "a bug"
            raise ValueError(msg)
        finally:
            await asyncio.sleep(0.001)  # ends in its own time
            self.running = False

    def update(self, body, resource, *, listed=False):
        """Take in a change."""
        self.body, self.resource, self.listed = body, resource, listed

    def block(self, problem):
        """Take in whether this may work."""
        self.problem = problem

    def refuse_service(self, obstacle):
        """Take in whether another election has the Service."""
        self.obstacle = obstacle

    async def retire(self):
        """End, for the resource is deleted."""
        await self._end("retire")

    async def leave(self):
        """End, for the process does."""
        await self._end("leave")

    async def resign(self):
        """End for good."""
        await self._end("resign")

    async def _end(self, how):
        self.told.append(f"{how} while running" if self.running else f"{how} too late")
        await self.ended.wait()


class Served:
    """An election that is being served."""

    def __init__(self, registry, body):
        self.stopped = asyncio.Event()
        self.ending = None
        work = registry.serve(body, self.stopped.wait(), ending=lambda: self.ending)
        self.task = asyncio.create_task(work)

    async def end(self, how=None):
        """Stop, and wait for the end."""
        self.ending = how
        self.stopped.set()
        await self.task


@pytest.fixture
def registry():
    return Registry(
        FakeCampaigner, default_bucket="B", allowed_locks=["*/*/*"], label_prefixes=("example.com",)
    )


@pytest.fixture
async def serve(registry):
    """Return a function that serves elections; whatever is still served is stopped at the end."""
    served = []

    async def begin(*bodies):
        new = [Served(registry, body) for body in bodies]
        served.extend(new)
        await asyncio.sleep(0)  # for `serve` to begin
        await asyncio.sleep(0)  # for the work to begin
        return new[0] if len(new) == 1 else new

    yield begin
    for one in served:
        if not one.task.done():
            await one.end()


def election(name, age=0, *, uid=None, version="1", **spec):
    """Return an election that is the older, the smaller its age in seconds after a beginning."""
    return make_election(
        name,
        spec=spec,
        uid=uid or f"uid-{name}",
        resourceVersion=version,
        creationTimestamp=f"2026-01-01T00:00:{age:02}Z",
    )


def campaigner(registry, name):
    return registry.campaigners[ElectionKey("shop", name)]


async def served_by(registry, uid):
    """Wait until the election `a` is served as this resource."""
    async with asyncio.timeout(1):
        while not (found := registry.elections()) or campaigner(registry, "a").resource.uid != uid:
            await registry.changed(registry.version)
    assert len(found) == 1


def reason(registry, name):
    """Return why an election is blocked, or nothing."""
    problem = campaigner(registry, name).problem
    return problem.reason if problem else ""


# One key, one election

KEY = {"key": "shared"}
LABEL = {"label": {"key": "example.com/shared"}}


@pytest.mark.parametrize(
    ("shared", "blocked"), ((KEY, "KeyInUse"), (LABEL, "LabelKeyInUse"), (KEY | LABEL, "KeyInUse"))
)
@pytest.mark.parametrize("order", tuple(itertools.permutations(("oldest", "middle", "youngest"))))
async def test_the_younger_is_blocked_whoever_comes_first(registry, serve, shared, blocked, order):
    """And by a sentence that names the oldest."""
    ages = {"oldest": 1, "middle": 2, "youngest": 3}
    for name in order:
        await serve(election(name, ages[name], **shared))
    assert reason(registry, "oldest") == ""
    assert reason(registry, "middle") == reason(registry, "youngest") == blocked
    problem = campaigner(registry, "youngest").problem
    assert "election shop/oldest already uses" in problem.message
    assert not problem.of_bucket


@pytest.mark.parametrize("shared", (KEY, LABEL))
async def test_the_younger_is_free_when_the_older_is_gone(registry, serve, shared):
    """Then the next one in age is the oldest."""
    bodies = [election("a", 1, **shared), election("b", 2, **shared), election("c", 3, **shared)]
    first, *_ = await serve(*bodies)
    await first.end(Ending.RETIRE)
    assert reason(registry, "b") != ""
    registry.forget_body(bodies[0])
    assert reason(registry, "b") == ""
    assert "shop/b already uses" in campaigner(registry, "c").problem.message


async def test_an_older_election_blocks_before_it_is_served(registry, serve):
    """It was seen, and will be served soon."""
    registry.look(election("a", 1, **KEY))
    await serve(election("b", 2, **KEY))
    assert reason(registry, "b") == "KeyInUse"


@pytest.mark.parametrize(("first", "second"), (("a", "b"), ("b", "a")))
async def test_elections_of_one_age_have_an_order(registry, serve, first, second):
    """Creation times are whole seconds; the UID decides between equals."""
    await serve(election(first, 1, uid="1", **KEY), election(second, 1, uid="2", **KEY))
    assert (reason(registry, first), reason(registry, second)) == ("", "KeyInUse")


@pytest.mark.parametrize(
    ("first", "second"),
    (
        pytest.param({}, {}, id="nothing in common"),
        pytest.param(KEY, KEY | {"bucket": "OTHER"}, id="one key in two buckets"),
        pytest.param(LABEL, {"label": {"key": "example.com/other"}}, id="one prefix"),
    ),
)
async def test_who_shares_nothing_is_not_blocked(registry, serve, first, second):
    """Only the same key of the same bucket counts, and the same label key."""
    await serve(election("a", 1, **first), election("b", 2, **second))
    assert (reason(registry, "a"), reason(registry, "b")) == ("", "")


async def test_a_label_key_is_used_within_a_namespace(registry, serve):
    """Pods of another namespace are other pods; but the bucket is the same for all."""
    elsewhere = make_election("a", namespace="other", spec=KEY | LABEL)
    elsewhere["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z"
    await serve(election("a", 1, **LABEL), elsewhere)
    assert registry.campaigners[ElectionKey("other", "a")].problem is None
    registry.look(election("b", 2, **KEY))
    assert registry.campaigners[ElectionKey("other", "a")].problem.reason == "KeyInUse"


async def test_a_service_is_led_by_the_oldest_election_that_names_it(registry, serve):
    """The younger one goes on without it, until it is free."""
    routing = {"service": "web"}
    one, two = election("one", 1, routing=routing), election("two", 2, routing=routing)
    await serve(two, one)
    first, second = (registry.campaigners[ElectionKey("shop", name)] for name in ("one", "two"))
    assert first.obstacle is None
    assert (second.obstacle.reason, second.problem) == ("ServiceInUse", None)
    assert "shop/one" in second.obstacle.message
    registry.look(election("one", 1, routing={"service": "other"}))
    assert second.obstacle is None


async def test_the_default_bucket_is_a_bucket(registry, serve):
    """Whoever names it and whoever does not share it."""
    await serve(election("a", 1, **KEY), election("b", 2, bucket="B", **KEY))
    assert reason(registry, "b") == "KeyInUse"


async def test_claims_move_with_their_election(registry, serve):
    """A key that somebody writes into a status by hand is claimed, and the old one is free."""
    body = election("a", 1, **KEY)
    await serve(body, election("b", 2, **KEY))
    assert reason(registry, "b") == "KeyInUse"
    registry.look(body | {"status": {"key": "moved"}})
    assert reason(registry, "b") == ""
    await serve(election("c", 3, key="moved"))
    assert reason(registry, "c") == "KeyInUse"
    registry.forget_body(body)
    assert reason(registry, "c") == ""


# Locks that are not an election's own, and too many elections


@pytest.fixture
def strict():
    """A registry whose elections may use their own locks only, two in each namespace."""
    return Registry(FakeCampaigner, default_bucket="B", most_per_namespace=2)


async def serve_in(registry, *bodies):
    """Serve elections; return what stops them."""
    served = [Served(registry, body) for body in bodies]
    await settle()
    return served


@pytest.mark.parametrize(
    ("spec", "status"),
    (
        ({"key": "other.billing"}, {}),
        ({"key": "shopx"}, {}),
        ({"bucket": "SESSIONS"}, {}),
        ({}, {"key": "other.billing"}),
        ({}, {"bucket": {"name": "SESSIONS"}}),
        ({"key": "shop.a"}, {"key": "other.billing", "bucket": {"name": "B"}}),
    ),
)
async def test_election_with_a_lock_that_is_not_its_own_is_barred(strict, spec, status):
    """Whether it asks for it or its status says so."""
    body = election("a", **spec) | {"status": status}
    strict.expect([ElectionKey("shop", "a")])
    (served,) = await serve_in(strict, body)
    assert reason(strict, "a") == "LockNotAllowed"
    assert campaigner(strict, "a").problem.bars
    assert campaigner(strict, "a").problem.owns_label
    await served.end()


async def test_lock_that_is_not_its_own_keeps_nobody_from_using_it(strict):
    """Though the election that asks for it is the older one."""
    strict.expect([])
    thief = make_election("thief", spec={"key": "shop.a"}, namespace="other", uid="thief")
    served = await serve_in(strict, thief, election("a", 5))
    assert campaigner(strict, "a").problem is None
    key = ElectionKey("other", "thief")
    assert strict.campaigners[key].problem.reason == "LockNotAllowed"
    for one in served:
        await one.end()


async def test_lock_that_a_status_moves_is_judged_again(strict):
    body = election("a")
    strict.expect([])
    (served,) = await serve_in(strict, body)
    assert campaigner(strict, "a").problem is None
    strict.look(body | {"status": {"key": "other.billing"}})
    assert reason(strict, "a") == "LockNotAllowed"
    await served.end()


async def test_barred_election_with_the_label_of_another_does_not_own_it(strict):
    strict.expect([])
    label = {"label": {"key": "incumbent.dev/shared"}}
    served = await serve_in(
        strict, election("a", 1, **label), election("b", 2, bucket="SESSIONS", **label)
    )
    problem = campaigner(strict, "b").problem
    assert (problem.reason, problem.owns_label) == ("LockNotAllowed", False)
    for one in served:
        await one.end()


async def test_elections_beyond_the_quota_wait_for_one_that_is_deleted(strict):
    strict.expect([])
    bodies = [election(name, age) for age, name in enumerate("abcd")]
    served = await serve_in(strict, *reversed(bodies))
    assert [reason(strict, name) for name in "abcd"] == ["", "", "QuotaExceeded", "QuotaExceeded"]
    await served[-1].end(Ending.RETIRE)
    strict.forget_body(bodies[0])
    assert [reason(strict, name) for name in "bcd"] == ["", "", "QuotaExceeded"]
    for one in served[:-1]:
        await one.end()


async def test_newer_election_of_the_same_second_does_not_replace_one_that_is_served(strict):
    """Though its name comes first, and no status says yet who is served."""
    strict.expect([])
    served = await serve_in(strict, election("y"), election("z"))
    served += await serve_in(strict, election("a"))
    assert [reason(strict, name) for name in "ayz"] == ["QuotaExceeded", "", ""]
    for one in served:
        await one.end()


async def test_new_election_begins_only_when_all_that_exist_are_known(strict):
    """After a start they are seen one by one, and it may be one too many."""
    bodies = [election(name, age) for age, name in enumerate("abc")]
    served = await serve_in(strict, bodies[2])
    assert not strict.campaigners
    strict.expect([ElectionKey("shop", name) for name in "abc"])
    served += await serve_in(strict, bodies[1])
    assert not strict.campaigners
    served += await serve_in(strict, bodies[0])
    assert [reason(strict, name) for name in "abc"] == ["", "", "QuotaExceeded"]
    for one in served:
        await one.end()


async def test_election_that_was_gone_before_it_was_seen_is_not_waited_for(strict):
    served = await serve_in(strict, election("a"))
    strict.expect([ElectionKey("shop", name) for name in "ab"])
    assert not strict.campaigners
    strict.expect([ElectionKey("shop", "a")])
    await settle()
    assert reason(strict, "a") == ""
    await served[0].end()


async def test_election_that_was_served_before_begins_at_once(strict):
    """Somebody may lead by it."""
    served = await serve_in(strict, election("a") | {"status": {"site": "here"}})
    assert reason(strict, "a") == ""
    await served[0].end()


async def test_new_election_that_waits_ends_with_its_process(strict):
    served = await serve_in(strict, election("a"))
    await asyncio.wait_for(served[0].end(Ending.LEAVE), 1)


async def test_an_election_made_anew_is_the_younger(registry, serve):
    """Under its old name, with another UID, it comes last."""
    old = election("a", 1, uid="old", **KEY)
    first, _ = await serve(old, election("b", 2, **KEY))
    await first.end(Ending.RETIRE)
    registry.look(election("a", 3, uid="new", **KEY))
    assert reason(registry, "b") == ""
    await serve(election("a", 3, uid="new", **KEY))
    assert reason(registry, "a") == "KeyInUse"


@pytest.mark.parametrize("uid", ("1", "3"))
async def test_a_late_farewell_is_not_the_new_elections(registry, serve, uid):
    """The deletion of an earlier resource does not take the present one away."""
    old = election("a", 1, uid=uid, **KEY)
    await serve(election("a", 2, uid="2", **KEY), election("b", 3, **KEY))
    registry.forget_body(old)
    registry.forget_body(election("unknown"))
    assert reason(registry, "b") == "KeyInUse"
    assert not campaigner(registry, "a").gone.done()


async def test_who_retires_is_not_told_about_a_namesake(registry, serve):
    """Its finalizer was taken by force, and it still has labels to take back."""
    old = election("a", 2, uid="old", **KEY)
    first = await serve(old)
    retiring = campaigner(registry, "a")
    registry.look(election("b", 1, **KEY))
    before = (retiring.problem, retiring.body)
    registry.look(election("a", 3, uid="new", **LABEL))
    assert (retiring.problem, retiring.body) == before
    await serve(election("a", 3, uid="new", **LABEL))
    await first.end(Ending.RETIRE)
    await served_by(registry, "new")


@pytest.mark.parametrize(
    ("key", "allowed"),
    (
        ("incumbent.dev/x", True),
        ("example.com/x", True),
        ("sub.example.com/x", False),
        ("example.org/x", False),
    ),
)
async def test_a_label_prefix_has_to_be_allowed(registry, serve, key, allowed):
    """Who may write elections could otherwise set any label on any pod."""
    await serve(election("a", label={"key": key}))
    problem = campaigner(registry, "a").problem
    if allowed:
        assert problem is None
    else:
        assert (problem.reason, problem.of_bucket) == ("PermissionDenied", False)
        assert f"--label-prefix {key.partition('/')[0]}" in problem.message


async def test_what_is_gone_leaves_nothing_behind(registry):
    """A registry does not grow with the elections that there were."""
    for name in "ab":
        body = election(name, **KEY)
        registry.look(body)
        registry.forget_body(body)
    assert not registry._claims
    assert not registry._resources


# Looking


async def test_a_change_reaches_the_campaigner(registry, serve):
    """The resource and its body are handed on."""
    await serve(election("a"))
    changed = election("a", suspend=True)
    resource = registry.look(changed)
    assert resource.suspend
    assert campaigner(registry, "a").body == changed
    assert campaigner(registry, "a").resource == resource


async def test_elections_are_listed_in_order(registry, serve):
    """By namespace and name, and only those that are served."""
    registry.look(election("z"))
    await serve(election("b"), election("a"), make_election("c", namespace="other"))
    assert [one["name"] for one in registry.elections()] == ["c", "a", "b"]
    assert registry.election("shop", "a")["name"] == "a"
    assert registry.election("shop", "z") is None


async def test_whoever_waits_hears_of_changes(registry, serve):
    """Of elections that come, change or go, and of what a campaigner tells; once for each."""
    seen = []

    async def follow():
        version = registry.version
        while True:
            await registry.changed(version)
            version = registry.version
            seen.append([one["name"] for one in registry.elections()])

    follower = asyncio.create_task(follow())
    await asyncio.sleep(0)
    served = await serve(election("a"))
    await asyncio.sleep(0)
    assert seen == [["a"]]
    registry.look(election("a"))
    await asyncio.sleep(0)
    registry.touch()
    await asyncio.sleep(0)
    assert seen == [["a"]] * 3
    registry.look(election("another"))
    await asyncio.sleep(0)
    assert len(seen) == 3
    await served.end()
    await asyncio.sleep(0)
    assert seen[-1] == []
    follower.cancel()


async def test_a_change_that_came_before_is_not_waited_for(registry):
    """Nothing is missed between a look and the wait."""
    version = registry.version
    registry.touch()
    await asyncio.wait_for(registry.changed(version), timeout=1)


# Serving


@pytest.mark.parametrize("how", Ending)
async def test_an_election_ends_as_it_is_told(registry, serve, how):
    """While its work still goes on, and then nothing of it is left."""
    served = await serve(election("a"))
    one = campaigner(registry, "a")
    assert registry.turnover == 1
    await served.end(how)
    assert one.told == [f"{how.value} while running"]
    assert not one.running
    assert registry.campaigners == {}
    assert registry.turnover == 2


async def test_an_election_may_end_without_a_word(registry, serve):
    """When nobody says why, nothing is taken back."""
    served = await serve(election("a"))
    one = campaigner(registry, "a")
    await served.end()
    assert one.told == []
    assert not one.running


async def test_a_bug_in_the_work_is_not_hidden(registry, serve):
    """Whoever serves hears of it, and serves again."""
    served = await serve(election("a"))
    campaigner(registry, "a").fail.set()
    with pytest.raises(ValueError, match="a bug"):
        await served.task
    assert registry.campaigners == {}
    await serve(election("a"))
    assert campaigner(registry, "a").running


async def test_an_end_does_not_wait_for_work_that_has_failed(registry, serve):
    """Nobody would do what it waits for, and the finalizer would stay for ever."""
    served = await serve(election("a"))
    one = campaigner(registry, "a")
    one.ended.clear()
    end = asyncio.create_task(served.end(Ending.RETIRE))
    await asyncio.sleep(0.01)
    assert one.told
    one.fail.set()
    with pytest.raises(ValueError, match="a bug"):
        await end
    assert registry.campaigners == {}


@pytest.mark.parametrize("stopping", (False, True))
async def test_whoever_serves_can_be_cancelled(registry, serve, stopping):
    """At work or at the end: nothing goes on."""
    served = await serve(election("a"))
    one = campaigner(registry, "a")
    if stopping:
        one.ended.clear()
        served.ending = Ending.RETIRE
        served.stopped.set()
        await asyncio.sleep(0.01)
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task
    assert not one.running
    assert registry.campaigners == {}


class Body(dict):
    """A resource of which one can tell whether anybody still has it."""


async def test_an_election_is_not_kept_as_it_was_at_first(registry, serve):
    """What was looked at first goes, although the election is served on."""
    body = Body(election("a"))
    await serve(body)
    first = weakref.ref(body)
    del body
    registry.look(election("a"))
    gc.collect()
    assert first() is None


# An election begins when its finalizer is there


def held(body, version="2"):
    """Return an election as it is once its finalizer is stored."""
    about = {"finalizers": [FINALIZER], "resourceVersion": version}
    return {**body, "metadata": {**body["metadata"], **about}}


@pytest.fixture
def made():
    """All campaigners that were ever made."""
    return []


@pytest.fixture
def finalizing(made):
    """A registry whose elections get a finalizer, but for those in `bare`."""

    def make(body, resource):
        made.append(FakeCampaigner(body, resource))
        return made[-1]

    return Registry(make, default_bucket="B", gets_finalizer=lambda where: where != "bare")


async def settle():
    """Let everything go on that can."""
    for _ in range(20):  # turns of the loop, not a time, which may pass before they have come
        await asyncio.sleep(0)


async def test_who_is_deleted_before_its_finalizer_is_stored_costs_no_campaigner(finalizing, made):
    """A tenant can create and delete elections faster than the operator could end them."""
    bodies = [election(f"a{number}") for number in range(200)]
    served = [Served(finalizing, body) for body in bodies]
    await settle()
    for body in bodies:
        finalizing.forget_body(body)
    async with asyncio.timeout(1):
        await asyncio.gather(*(one.task for one in served))
    assert made == []
    assert (finalizing.campaigners, finalizing._unheld, finalizing._resources) == ({}, {}, {})


async def test_an_election_begins_once_its_finalizer_is_stored(finalizing, made):
    """And it begins as it is by then."""
    body = election("a")
    served = Served(finalizing, body)
    await settle()
    assert made == []
    body.update(held(body))
    finalizing.look(dict(body))
    await settle()
    assert [one.body for one in made] == [body]
    assert finalizing._unheld == {}
    await served.end(Ending.RETIRE)
    assert made[0].told == ["retire while running"]


@pytest.mark.parametrize(
    "body",
    (
        pytest.param(held(election("a")), id="it is there"),
        pytest.param(election("a") | {"status": {"site": "here"}}, id="served before"),
        pytest.param(
            make_election("a", namespace="bare"), id="the elections of its namespace get none"
        ),
    ),
)
async def test_an_election_that_needs_no_finalizer_begins_at_once(finalizing, made, body):
    """Somebody may lead by it, or none will come."""
    served = Served(finalizing, body)
    await settle()
    assert len(made) == 1
    await served.end()


async def test_an_election_whose_finalizer_is_refused_begins_a_little_later(
    finalizing, made, monkeypatch
):
    """It is better served without one than not at all."""
    monkeypatch.setattr("incumbent.controller.registry.HELD_WITHIN", 0.02)
    served = Served(finalizing, election("a"))
    await settle()
    assert made == []
    await asyncio.sleep(0.05)
    assert len(made) == 1
    await served.end()


async def test_an_election_that_waits_for_its_finalizer_ends_with_the_process(finalizing, made):
    """Nothing was done that could be taken back."""
    served = Served(finalizing, election("a"))
    await settle()
    async with asyncio.timeout(1):
        await served.end(Ending.LEAVE)
    assert (made, finalizing._unheld) == ([], {})


async def test_who_follows_one_that_never_had_its_finalizer_begins(finalizing, made):
    """The end of the first one may be heard after the beginning of the second."""
    first = election("a", uid="first")
    waiting = Served(finalizing, first)
    await settle()
    second = held(election("a", uid="second"))
    served = Served(finalizing, second)
    async with asyncio.timeout(1):
        await waiting.task
    finalizing.forget_body(first)
    await settle()
    assert [one.resource.uid for one in made] == ["second"]
    await served.end()


# Gone without a word


async def test_who_is_gone_without_a_deletion_is_retired(registry, serve):
    """A finalizer may be removed by hand, and then nothing else ends the election."""
    body = election("a")
    served = await serve(body)
    gone = campaigner(registry, "a")
    registry.forget_body(body)
    await served.task
    assert gone.told == ["retire while running"]
    assert not registry.campaigners


async def test_who_has_a_successor_makes_way_for_it(registry, serve):
    """Nobody may have seen the end of the first one."""
    served = await serve(election("a", uid="first"))
    first = campaigner(registry, "a")
    second = await serve(election("a", uid="second", version="2"))
    await served.task
    assert first.told == ["retire while running"]
    await served_by(registry, "second")
    registry.forget_body(election("a", uid="first"))
    assert not second.task.done()


async def test_who_had_to_wait_begins_as_it_is_by_then(registry, serve):
    """What kopf gives is a view that goes on changing."""
    await serve(election("a", uid="first"))
    first = campaigner(registry, "a")
    first.ended.clear()
    body = election("a", uid="second", version="2")
    await serve(body)
    body["spec"] = {**body["spec"], "key": "changed"}
    first.ended.set()
    await served_by(registry, "second")
    assert campaigner(registry, "a").resource.record_key == "changed"


async def test_late_word_of_an_earlier_resource_ends_nobody(registry, serve):
    """Each resource has a queue of its own, so what comes last need not be what was last."""
    await serve(election("a", uid="second", version="10"))
    second = campaigner(registry, "a")
    registry.look(election("a", uid="first", version="9"))
    late = await serve(election("a", uid="first", version="9"))
    await late.task
    assert campaigner(registry, "a") is second
    assert not second.told


# After an interruption of the watch


async def look_again(registry, *pages, namespace=None):
    async def listed():
        for page in pages:
            yield page

    return await registry.look_again(namespace, listed())


async def test_a_list_counts_whatever_its_versions(registry, serve):
    """Etcd was restored: the resource is older than the one that is known."""
    await serve(make_election("a", resourceVersion="9", spec={"suspend": True}))
    one = campaigner(registry, "a")
    older = make_election("a", resourceVersion="3")
    assert not await look_again(registry, [older])
    assert one.body == older
    assert one.listed
    registry.look(make_election("a", resourceVersion="4"))
    assert not one.listed


async def test_an_election_that_is_not_listed_is_gone(registry, serve):
    """It was made after the backup. Those of other namespaces are not looked for."""
    ends, *_ = await serve(
        make_election("gone"), make_election("kept"), make_election("a", namespace="elsewhere")
    )
    gone, kept = campaigner(registry, "gone"), campaigner(registry, "kept")
    elsewhere = registry.campaigners[ElectionKey("elsewhere", "a")]
    assert await look_again(registry, [make_election("kept")], namespace="shop")
    await ends.task
    assert gone.told == ["retire while running"]
    assert kept.told == elsewhere.told == []


async def test_an_election_that_was_made_anew_gives_way_to_the_one_of_the_backup(registry, serve):
    """Also though that one is older; kopf has to hear of it."""
    anew = make_election("a", uid="anew", creationTimestamp="2026-01-02T00:00:00Z")
    of_backup = make_election("a", uid="of the backup")
    served = await serve(anew)
    later = campaigner(registry, "a")
    assert await look_again(registry, [make_election("b")], [of_backup])
    await served.task
    assert later.told == ["retire while running"]
    await serve(of_backup)
    assert campaigner(registry, "a").resource.uid == "of the backup"


async def test_what_kopf_has_to_hear_of(registry, serve):
    """What begins, what ends, and what is to be deleted; nothing else."""
    await serve(make_election("a"))
    changed = make_election("a", resourceVersion="2", spec={"suspend": True})
    assert not await look_again(registry, [changed])
    assert await look_again(registry, [changed, make_election("b")])
    assert not await look_again(registry, [changed, make_election("b")])
    deleted = make_election("b", deletionTimestamp="2026-01-02T00:00:00Z")
    assert await look_again(registry, [changed, deleted])
    assert not await look_again(registry, [changed, deleted])


async def test_a_list_that_fails_ends_nothing(registry, serve):
    """Whoever is not on its first page may be on the second."""
    await serve(make_election("a"))
    one = campaigner(registry, "a")

    async def broken():
        yield []
        message = "no second page"
        raise ClusterUnreachable(message)

    with pytest.raises(ClusterUnreachable):
        await registry.look_again(None, broken())
    await asyncio.sleep(0.01)
    assert one.told == []


async def test_what_is_not_known_yet_is_pending_until_all_are_served(registry, serve):
    """Before the first list everything is, and what is gone meanwhile is not waited for."""
    a, gone, other = (ElectionKey("shop", name) for name in ("a", "gone", "other"))
    assert registry.pending()
    assert registry.pending("shop", "other")
    registry.expect([a, gone])
    assert registry.pending()
    assert registry.pending("shop", "a")
    assert not registry.pending("shop", "other")
    await serve(election("a"))
    assert not registry.pending("shop", "a")
    assert registry.pending()
    registry.expect([a, other])
    assert not registry.pending(), "what comes later is no part of the start"


async def test_nobody_is_told_that_an_election_is_gone_when_the_process_ends(registry, serve):
    """It serves fewer and fewer then."""
    registry.expect([])
    await serve(election("a"))
    version = registry.version
    registry.close()
    assert registry.pending("shop", "a")
    assert registry.pending()
    assert registry.version != version
