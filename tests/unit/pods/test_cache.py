from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fakecluster import NAMESPACE, FakeCluster, make_pod
from incumbent.errors import Forbidden
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodsReplaced
from incumbent.kubernetes.resource import resource_from
from incumbent.pods import cache as pods_cache
from incumbent.pods.cache import ElectionPods, NamespacePods

EVERYBODY = {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}
NOBODY = {"matchLabels": {"none": "none"}}


@pytest.fixture
def cluster():
    """An API server with two pods."""
    cluster = FakeCluster()
    cluster.add(make_pod("a"))
    cluster.add(make_pod("b"))
    return cluster


@pytest.fixture
def pods(cluster):
    return NamespacePods(cluster, NAMESPACE)


def election(pods, selector=EVERYBODY, *, name="billing"):
    """Return the pods as an election sees them."""
    metadata = {"namespace": NAMESPACE, "name": name, "uid": name}
    body = {"metadata": metadata, "spec": {"selector": selector}}
    return ElectionPods(pods, resource_from(body, default_bucket="B"))


@contextmanager
def listening(pods, selector=EVERYBODY):
    """Listen, and return a list that grows with each call."""
    calls = []
    end = election(pods, selector).listen(lambda: calls.append(1))
    try:
        yield calls
    finally:
        end()


async def turn():
    """Let what was shown arrive."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_known_before_the_first_list(pods):
    """No pods seen and no pods there are told apart."""
    assert pods.pods is None
    with listening(pods):
        assert pods.pods is None
        await turn()
        assert pods.pods.keys() == {"a", "b"}


async def test_an_empty_namespace_is_known(cluster, pods):
    """A list without pods is knowledge, and what comes after it is seen."""
    cluster.delete("a")
    cluster.delete("b")
    with listening(pods):
        await turn()
        assert pods.pods == {}
        cluster.add(make_pod("c"))
        await turn()
        assert pods.pods == {"c": cluster.pod("c")}


async def test_changes_are_followed(cluster, pods):
    """Pods that come, change and go are seen, and told."""
    with listening(pods) as calls:
        await turn()
        for number, action in enumerate(
            (
                lambda: cluster.add(make_pod("c")),
                lambda: cluster.change("a", ready=False),
                lambda: cluster.delete("b"),
            ),
            start=2,
        ):
            action()
            await turn()
            assert len(calls) == number
        assert pods.pods == {"a": cluster.pod("a"), "c": cluster.pod("c")}


async def test_a_list_replaces_everything(cluster, pods):
    """A deletion that the watch missed does not survive the next list."""
    with listening(pods) as calls:
        await turn()
        with cluster.unreachable():
            cluster.delete("a")
            await turn()
            assert "a" in pods.pods
        await turn()
        assert pods.pods.keys() == {"b"}
        assert len(calls) == 2


async def test_a_listener_hears_only_what_concerns_it(cluster, pods):
    """A change counts if the pod matters as it was or as it is."""
    selected = {"app": "other"}
    with listening(pods, {"matchLabels": selected}) as calls:
        await turn()
        calls.clear()
        cluster.change("a", ready=False)
        await turn()
        assert calls == []
        cluster.change("a", labels=selected)
        await turn()
        assert len(calls) == 1
        cluster.change("a", labels={})
        await turn()
        assert len(calls) == 2
        cluster.change("a", ready=True)
        cluster.delete("b")
        await turn()
        assert len(calls) == 2


async def test_a_list_concerns_everybody(pods):
    """Nobody can tell what is missing from it."""
    with listening(pods, NOBODY) as calls:
        await turn()
        assert len(calls) == 1


async def test_elections_share_one_watch(cluster, pods):
    """It begins with the first listener and ends with the last one, and then nothing is known."""
    with listening(pods):
        with listening(pods):
            await turn()
        await turn()
        assert cluster.operations == ["watch_pods"]
        assert len(cluster._watchers) == 1
    assert pods.pods is None
    await turn()
    assert len(cluster._watchers) == 0


async def test_a_watch_begins_anew_for_a_later_listener(cluster, pods):
    """What was known when the last one left is not taken for present."""
    with listening(pods):
        await turn()
    cluster.delete("a")
    with listening(pods):
        await turn()
        assert pods.pods.keys() == {"b"}


async def test_ending_twice_harms_nobody(cluster, pods):
    """The second time it is somebody else's watch."""
    end = election(pods).listen(lambda: None)
    end()
    with listening(pods) as calls:
        end()
        await turn()
        assert len(calls) == 1


async def test_a_listener_may_leave_when_it_is_told(pods):
    """Others are told all the same."""
    ends = []

    def leave():
        ends.pop()()

    with listening(pods) as before:
        ends.append(election(pods).listen(leave))
        with listening(pods) as after:
            await turn()
            assert (len(before), len(after)) == (1, 1)
    assert ends == []


async def test_the_answer_to_a_write_is_learnt(cluster, pods):
    """It can be faster than the watch, and what the watch shows later is older, or the same."""
    with listening(pods) as calls:
        await turn()
        with cluster.delaying_watches():
            cluster.change("a", ready=False)
            learnt = cluster.change("a", ready=True)
            pods.learn(learnt)
            assert pods.pods["a"] == learnt
            calls.clear()
        await turn()
        assert pods.pods["a"] == learnt
        assert len(calls) == 1


async def test_an_older_answer_is_not_learnt(cluster, pods):
    """The watch was faster."""
    with listening(pods):
        await turn()
        answer = cluster.change("a", ready=False)
        newest = cluster.change("a", ready=True)
        await turn()
        pods.learn(answer)
        assert pods.pods["a"] == newest


async def test_versions_are_numbers(cluster, pods):
    """10 is newer than 9."""
    cluster._version = 8
    with listening(pods):
        await turn()
        nine, ten = cluster.change("a", ready=False), cluster.change("a", ready=True)
        assert (nine.resource_version, ten.resource_version) == ("9", "10")
        await turn()
        pods.learn(nine)
        assert pods.pods["a"] == ten


async def test_a_version_that_is_no_number_is_taken_as_it_comes(cluster, pods):
    """Where nothing can be compared, the latest message wins."""
    with listening(pods):
        await turn()
        odd = replace(pods.pods["a"], resource_version="x", ready=False)
        pods.learn(odd)
        assert pods.pods["a"] == odd
        cluster.change("a")
        await turn()
        assert pods.pods["a"] == cluster.pod("a")


@pytest.mark.parametrize("name", ("a", "unknown"))
async def test_an_answer_about_another_pod_is_not_learnt(pods, name):
    """It is gone, or has not been seen so far; the watch knows better."""
    with listening(pods):
        await turn()
        pods.learn(make_pod(name, uid="another", resource_version="99"))
        assert {pod.uid for pod in pods.pods.values()} == {"uid-a", "uid-b"}


async def test_an_answer_that_comes_too_early_or_late_is_no_list(pods):
    """One pod is not all pods: without a list nothing is known."""
    pods.learn(make_pod("a", resource_version="9"))
    assert pods.pods is None


async def test_a_pod_that_a_backup_brought_back_is_not_gone(cluster, pods):
    """Its end was seen, and it is listed again: it may carry the label."""
    mine = election(pods)
    with listening(pods):
        await turn()
        before = cluster.delete("a")
        await turn()
        assert mine.gone("uid-a")
        with cluster.restored(before):
            pass
        await turn()
        assert not mine.gone("uid-a")
        assert mine.restores == 1
        assert "a" in pods.pods


class Scripted:
    """An API server whose watches show just these events, and then end or fail."""

    def __init__(self, *watches):
        self.watches = list(watches)

    async def watch_pods(self, _namespace):
        """Show the events of the next watch."""
        events = self.watches.pop(0) if self.watches else [asyncio.Event()]
        for event in events:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, asyncio.Event):
                await event.wait()
            yield event


A, B = make_pod("a", resource_version="5"), make_pod("b", resource_version="6")


async def test_only_the_very_pod_is_deleted():
    """The end of an earlier pod of the same name does not end the present one."""
    earlier = replace(A, uid="earlier", resource_version="4")
    cluster = Scripted([PodsReplaced((A,)), PodDeleted(earlier), asyncio.Event()])
    pods = NamespacePods(cluster, NAMESPACE)
    with listening(pods):
        await turn()
        assert pods.pods == {"a": A}


async def test_a_deletion_counts_whatever_its_version():
    """A UID does not come back."""
    cluster = Scripted(
        [PodsReplaced((A,)), PodDeleted(replace(A, resource_version="4")), asyncio.Event()]
    )
    pods = NamespacePods(cluster, NAMESPACE)
    with listening(pods):
        await turn()
        assert pods.pods == {}


async def test_a_pod_that_was_made_anew_replaces_the_old_one():
    """Versions of different pods of one name are not compared."""
    anew = replace(A, uid="anew", resource_version="4")
    pods = NamespacePods(
        Scripted([PodsReplaced((A,)), PodChanged(anew), asyncio.Event()]), NAMESPACE
    )
    with listening(pods):
        await turn()
        assert pods.pods == {"a": anew}


async def test_a_change_before_the_first_list_is_no_list():
    """A watch that begins in the middle knows nothing about the others."""
    pods = NamespacePods(Scripted([PodChanged(A), asyncio.Event()]), NAMESPACE)
    with listening(pods) as calls:
        await turn()
        assert pods.pods is None
        assert calls == []


@pytest.mark.parametrize("failure", (ValueError("a bug"), None))
async def test_a_watch_that_breaks_is_begun_anew(monkeypatch, failure):
    """No watch should end; one that does must not leave the elections blind."""
    monkeypatch.setattr(pods_cache, "PAUSE", 0.0)
    first = [PodsReplaced((A,)), *([failure] if failure else [])]
    cluster = Scripted(first, [PodsReplaced((B,)), asyncio.Event()])
    pods = NamespacePods(cluster, NAMESPACE)
    with listening(pods):
        await turn()
        assert pods.pods == {"b": B}


def label(key, operator, *values):
    """Return a selector of one expression."""
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "pod", "concerns"),
    (
        ({"matchLabels": {"app": "x"}}, {"labels": {"app": "x"}}, True),
        ({"matchLabels": {"app": "x"}}, {"labels": {"app": "y"}}, False),
        ({"matchLabels": {"app": "x", "zone": "1"}}, {"labels": {"app": "x"}}, False),
        (label("app", "In", "x", "y"), {"labels": {"app": "y"}}, True),
        (label("app", "Exists"), {"labels": {"app": "z"}}, True),
        (label("app", "NotIn", "x"), {"labels": {"zone": "1"}}, True),
        (label("app", "NotIn", "x"), {"labels": {"app": "x"}}, False),
        (label("app", "DoesNotExist"), {"labels": {}}, True),
        ({}, {"labels": {"app": "x"}}, False),
        ({}, {"labels": {"incumbent.dev/billing": "leader"}}, True),
        ({}, {"labels": {}, "annotations": {"incumbent.dev/billing.token": "7"}}, True),
        ({}, {"labels": {"incumbent.dev/other": "leader"}}, False),
    ),
)
async def test_an_election_sees_what_it_selects_and_what_carries_something_of_it(
    cluster, pods, selector, pod, concerns
):
    """Whether a pod is listed, comes later, or becomes such a one; and nothing else is seen."""
    cluster.add(make_pod("listed", **pod))
    mine = election(pods, selector)
    end = mine.listen(lambda: None)
    try:
        await turn()
        cluster.add(make_pod("later", **pod))
        await turn()
        cluster.change("a", **pod)
        await turn()
        seen = {pod.name for pod in mine.known} - {"b"}
        assert seen == ({"listed", "later", "a"} if concerns else set())
        cluster.delete("later")
        await turn()
        assert {pod.name for pod in mine.known} - {"b"} == seen - {"later"}
    finally:
        end()
    assert not mine.known


async def test_another_selector_sees_other_pods(cluster, pods):
    """At once, and what concerned it before no longer does."""
    calls = []
    mine = election(pods, {"matchLabels": {"app": "x"}})
    cluster.add(make_pod("x", labels={"app": "x"}))
    cluster.add(make_pod("y", labels={"app": "y"}))
    end = mine.listen(lambda: calls.append(1))
    await turn()
    assert [pod.name for pod in mine.known] == ["x"]
    mine.resource = election(pods, {"matchLabels": {"app": "y"}}).resource
    assert [pod.name for pod in mine.known] == ["y"]
    calls.clear()
    cluster.change("x", ready=False)
    await turn()
    assert calls == []
    cluster.change("y", ready=False)
    await turn()
    assert len(calls) == 1
    end()


async def test_the_answer_to_a_write_is_seen_by_its_elections_at_once(cluster, pods):
    """Also when it makes a pod concern one."""
    mine = election(pods, NOBODY)
    end = mine.listen(lambda: None)
    await turn()
    with cluster.delaying_watches():
        mine.learn(cluster.change("a", labels={"incumbent.dev/billing": "leader"}))
        assert [pod.name for pod in mine.known] == ["a"]
        mine.learn(cluster.change("a", labels={}))
        assert not mine.known
    end()


async def test_of_many_that_see_no_pods_one_asks_why(cluster, pods):
    """The others wait for it, and do not ask once the pods are there."""
    cluster.add(make_pod("x"))
    asked = []

    class Slow:
        async def list_pods(self, _namespace, _selector):
            asked.append(1)
            pods.pods = {}
            await asyncio.sleep(0)

    pods._cluster = Slow()
    await asyncio.gather(*(election(pods, name=f"e{number}").probe() for number in range(5)))
    assert len(asked) == 1


async def test_who_asks_why_no_pods_are_seen_is_told(cluster, pods):
    """Everybody, for as long as none are seen."""
    with cluster.refusing("list_pods", error=Forbidden("no right")):
        for _ in range(2):
            with pytest.raises(Forbidden):
                await election(pods).probe()


async def test_a_pod_whose_end_was_seen_is_gone_for_certain(cluster, pods, monkeypatch):
    """That it is missing from a list, or that one of its name ended, says nothing about it."""
    monkeypatch.setattr(pods_cache, "REMEMBERED", 2)
    mine = election(pods)
    with listening(pods):
        await turn()
        with cluster.unreachable():
            cluster.delete("b")
            await turn()
        await turn()
        assert not pods.pods.keys() & {"b"}
        assert not mine.gone("uid-b")
        for number in range(3):
            cluster.delete("a")
            cluster.add(make_pod("a", uid=f"anew-{number}"))
            await turn()
        assert [mine.gone(uid) for uid in ("uid-a", "anew-0", "anew-1", "anew-2")] == [
            False,  # forgotten
            True,
            True,
            False,
        ]


# What a tenant can make large


MUCH = {f"much-{number}": "x" * 60 for number in range(3000)}


def size(thing, seen=None):
    """Return the bytes that a value keeps in memory, with all that hangs on it."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (type, asyncio.Task)) or callable(thing):
        return 0
    seen.add(id(thing))
    parts = [thing.__dict__] if hasattr(thing, "__dict__") else []
    parts += [getattr(thing, name, None) for name in getattr(thing, "__slots__", ())]
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts += thing
    return sys.getsizeof(thing) + sum(size(part, seen) for part in parts)


def kept(pods):
    """Return the bytes that the pods of a namespace take, by their election too."""
    known = [list(election.known) for election in pods._listeners]
    return size([pods.pods, pods._gone, pods._cut, pods._asked, known])


@pytest.mark.parametrize("kind", ("labels", "annotations"))
@pytest.mark.parametrize("how", ("listed", "watched", "learnt"))
async def test_a_pod_with_much_on_it_costs_as_much_as_another(cluster, pods, kind, how):
    """Whoever may label pods could otherwise take the memory of everybody's operator."""
    selector = {"matchLabels": {"app": "x"}}
    if how == "listed":
        cluster.add(make_pod("c", labels={"app": "x"}))
    with listening(pods, selector):
        await turn()
        cluster.add(make_pod("c", labels={"app": "x"}))
        await turn()
        before = kept(pods)
        large = replace(cluster.pods[NAMESPACE, "c"], **{kind: {"app": "x", **MUCH}})
        if kind == "annotations":
            large = replace(large, labels={"app": "x"})
        if how == "learnt":
            pods.learn(large)
        else:
            cluster.add(large)
            await turn()
        assert pods.pods["c"].labels["app"] == "x"
        assert kept(pods) < before + 2000


async def test_what_elections_ask_for_is_kept_of_a_pod_with_much_on_it(cluster, pods):
    """Selector, leader label, token, and the annotations that count for every election."""
    asked = {
        "labels": {"app": "x", "tier": "y", "incumbent.dev/billing": "leader"},
        "annotations": {
            "incumbent.dev/billing.token": "7",
            "incumbent.dev/exclude": "true",
            "incumbent.dev/priority": "3",
        },
    }
    expressions = [{"key": "tier", "operator": "Exists"}]
    selector = {"matchLabels": {"app": "x"}, "matchExpressions": expressions}
    cluster.add(make_pod("c", **{kind: {**MUCH, **values} for kind, values in asked.items()}))
    with listening(pods, selector):
        await turn()
        pod = pods.pods["c"]
        assert {"labels": pod.labels, "annotations": pod.annotations} == asked


async def test_an_election_that_asks_for_more_is_shown_no_pods_before_they_are_listed_again(
    cluster, pods, monkeypatch
):
    """A label that was not kept would look as if it were not there."""
    monkeypatch.setattr(pods_cache, "PAUSE", 0.01)
    cluster.add(make_pod("c", labels={"app": "x", "zone": "z", **MUCH}))
    nowhere = {"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}
    with listening(pods, {"matchLabels": {"app": "x"}}):
        await turn()
        late = election(pods, nowhere, name="late")
        changes = []
        end = late.listen(lambda: changes.append({pod.name for pod in late.known}))
        assert late.all is None
        assert not late.known
        await asyncio.sleep(0.05)
        assert late.all is not None
        assert {pod.name for pod in late.known} == {"a", "b"}
        assert cluster.operations.count("watch_pods") == 2
        assert {"a", "b", "c"} not in changes
        end()


async def test_a_selector_that_asks_for_more_is_answered_after_a_list(cluster, pods, monkeypatch):
    """So it is with one that is changed."""
    monkeypatch.setattr(pods_cache, "PAUSE", 0.01)
    cluster.add(make_pod("c", labels={"app": "x", "zone": "z", **MUCH}))
    mine = election(pods, {"matchLabels": {"app": "x"}})
    end = mine.listen(lambda: None)
    await turn()
    assert {pod.name for pod in mine.known} == {"c"}
    mine.resource = election(pods, {"matchLabels": {"zone": "z"}}).resource
    assert mine.all is None
    await asyncio.sleep(0.05)
    assert {pod.name for pod in mine.known} == {"c"}
    end()


async def test_elections_that_come_together_list_once(cluster, pods, monkeypatch):
    """And none does if no pod has much on it, or is asked for nothing new."""
    monkeypatch.setattr(pods_cache, "PAUSE", 0.01)
    with listening(pods, {"matchLabels": {"app": "x"}}):
        await turn()
        ends = [
            election(pods, {"matchLabels": {f"a-{n}": ""}}, name=f"e-{n}").listen(lambda: None)
            for n in range(20)
        ]
        await asyncio.sleep(0.05)
        assert cluster.operations.count("watch_pods") == 1
        cluster.add(make_pod("c", labels={"app": "x", **MUCH}))
        await turn()
        ends += [
            election(pods, {"matchLabels": {f"b-{n}": ""}}, name=f"f-{n}").listen(lambda: None)
            for n in range(20)
        ]
        await asyncio.sleep(0.05)
        assert cluster.operations.count("watch_pods") == 2
        for end in ends:
            end()
        assert len(pods._asked) == 5
