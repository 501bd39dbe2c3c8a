"""Moving the office: what is asked of the operator, and what is said of its answer."""

import asyncio
from copy import deepcopy
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from incumbent.cli.flags import Failure
from incumbent.errors import ClusterUnreachable
from incumbent.kubectl import change, client, main
from incumbent.kubectl.change import merged
from incumbent.kubectl.client import Client
from incumbent.kubernetes.answers import Expired
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import STEP_DOWN, STEP_DOWN_TERM

REASONS = {"Leading": "True", "LedElsewhere": "True", "NoCandidates": "False"}


def election(leader="a", token=1, *, reason="Leading", requested=None, mode="Managed"):
    """Return an election."""
    ready = {"type": "Ready", "status": REASONS[reason], "reason": reason, "message": "told"}
    status = {"token": token, "conditions": [ready]}
    if leader:
        status["leader"] = {"podName": leader, "podUID": f"uid-{leader}"}
    annotations = {} if requested is None else {STEP_DOWN: requested}
    return {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": annotations},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "mode": mode},
        "status": status,
    }


def pod(name):
    """Return a pod that can lead."""
    return Pod("shop", name, f"uid-{name}", "1", labels={"app": "web"}, created="2026")


@pytest.fixture
def step_down(monkeypatch):
    """Return a function that asks for a step-down, and shows the election as it goes on."""
    monkeypatch.setattr(change, "SETTLED_WITHIN", 0.05)

    def run(*later, before=None, pods=("a", "b", "c"), flags=()):
        patches = []

        class Server:
            namespace = "shop"

            async def election(self, _):
                return before or election()

            async def get_pod(self, _, name):
                return pod(name) if name in pods else None

            async def list_pods(self, *_):
                return [pod(name) for name in pods]

            async def patch_election(self, _, patch, *, dry_run):
                patches.append((patch, dry_run))
                return merged(election(), patch)

            async def watch_election(self, _):
                for shown in later:
                    yield shown
                await asyncio.sleep(60)

            def missing(self, name):
                return Failure(f"There is no {name}")

        monkeypatch.setattr(
            client, "run", lambda work, _, options: asyncio.run(work(Server(), **options)) or 0
        )
        return CliRunner().invoke(main.main, ["step-down", "web", *flags]), patches

    return run


REQUEST = {"metadata": {"annotations": {STEP_DOWN: "", STEP_DOWN_TERM: None}}}


def test_another_pod_leads(step_down):
    """The request is one patch, also where an old one left its mark."""
    result, patches = step_down(election(requested=""), election("b", 2, requested=""))
    assert result.stdout == "b leads web after a, with token 2\n"
    assert patches == [(REQUEST, False)]


@pytest.mark.parametrize(
    ("later", "flags", "code", "said"),
    (
        ([election("c", 2)], ("--to", "b"), 1, "web is led by the pod c, and not b"),
        ([election("a", 2)], (), 0, "a leads web again, with token 2: no other pod could"),
        ([election(None, reason="LedElsewhere")], (), 0, "web is led elsewhere: told"),
        ([election()], (), 1, "a still leads web: the operator did not carry the request out"),
        ([election(None, reason="NoCandidates")], (), 1, "Nobody leads web: told (NoCandidates)"),
        (
            [election(requested="")],
            ("--timeout", "100ms"),
            124,
            "Not within 0.1 s: a still leads web; the request stays",
        ),
        ([], ("--timeout", "0"), 124, "Not within 0 s: a still leads web; the request stays"),
        ([election(requested=""), None], (), 1, "There is no web"),
    ),
)
def test_how_it_ends(step_down, later, flags, code, said):
    """Each end has a sentence, and only what was wanted is a success."""
    result, _ = step_down(*later, flags=flags)
    assert result.exit_code == code
    assert said in result.output


def test_the_status_may_follow(step_down):
    """The request may be gone before the status shows the new leader."""
    result, _ = step_down(election(requested=""), election(), election("b", 2))
    assert result.stdout == "b leads web after a, with token 2\n"


@pytest.mark.parametrize(
    ("before", "sentence"),
    (
        (
            election(mode="Observed"),
            "The members of web campaign themselves (mode Observed): ask a",
        ),
        (election(None, reason="NoCandidates"), "No pod of this cluster can step down: Nobody"),
        (election(None, reason="LedElsewhere"), "step down: web is led elsewhere"),
    ),
)
def test_who_cannot_be_asked(step_down, before, sentence):
    """Then nothing is changed."""
    result, patches = step_down(before=before)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert patches == []


def test_nobody_else_can_lead(step_down):
    """That is said, and asked all the same, for another cluster may take over."""
    result, patches = step_down(election("a", 2), pods=("a",))
    assert "No other pod of this cluster can lead web" in result.stderr
    assert patches


def test_without_waiting(step_down):
    """The request is all there is."""
    result, patches = step_down(flags=("--no-wait", "--to", "b"))
    assert result.stdout == "leaderelection.incumbent.dev/web asked to step down from a to b\n"
    assert patches[0][0]["metadata"]["annotations"][STEP_DOWN] == "b"


def test_merge_patches():
    """As RFC 7396 has them: null removes, objects are merged, all else is replaced."""
    target = {"a": {"b": 1, "c": 2}, "d": [1], "e": 1}
    patch = {"a": {"b": None, "x": {"y": None, "z": 1}}, "d": [2], "e": {"f": 1}}
    before = deepcopy(target)
    assert merged(target, patch) == {"a": {"c": 2, "x": {"z": 1}}, "d": [2], "e": {"f": 1}}
    assert target == before


async def test_a_watch_goes_on(monkeypatch, capsys):
    """It begins with a list, and again after whatever may have hidden a change."""
    monkeypatch.setattr(client, "AGAIN", 0)
    versions = iter(range(100))
    away = iter([False, True, False])
    ends = iter([ClusterUnreachable("it is away"), Expired("old"), None])

    async def ask(*_, **__):
        if next(away, False):
            msg = "still away"
            raise ClusterUnreachable(msg)
        return {"metadata": {"resourceVersion": str(next(versions))}, "items": []}

    async def changes(_, __, version, **___):
        yield "MODIFIED", {"metadata": {"resourceVersion": f"{version}+"}}
        yield "BOOKMARK", {"metadata": {"resourceVersion": f"{version}++"}}
        if end := next(ends, None):
            raise end

    monkeypatch.setattr(client, "changes", changes)
    server = SimpleNamespace(connection=None, requests=SimpleNamespace(ask=ask))
    for name in ("_watched", "_list_again"):
        setattr(server, name, getattr(Client, name).__get__(server))
    seen = []
    async for kind, found in Client.follow(server, "/x", {}):
        seen.append((kind, found["metadata"]["resourceVersion"]))
        if len(seen) == 7:
            break
    assert seen == [
        ("LIST", "0"),
        ("MODIFIED", "0+"),
        ("LIST", "1"),
        ("MODIFIED", "1+"),
        ("LIST", "2"),
        ("MODIFIED", "2+"),
        ("MODIFIED", "2+++"),
    ]
    assert capsys.readouterr().err == "it is away; waiting for it\n"
