"""Who led before, as the operator answers behind the API server."""

import asyncio
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from incumbent.errors import Forbidden, NotFound
from incumbent.kubectl import client, history, main
from incumbent.kubectl.options import OPERATOR_LABELS

LATEST = {
    "token": 9,
    "holder": "here/shop/web-b",
    "site": "here",
    "from": "2026-11-24T11:59:00.100Z",
    "to": None,
    "cause": None,
    "how": "HandedOver",
    "exact": True,
    "led": [{"from": "2026-11-24T11:59:01Z", "to": None, "exact": True}],
}
FIRST = {
    "token": 1,
    "holder": "here/shop/web-a",
    "site": "here",
    "from": "2026-11-24T11:58:00.100Z",
    "to": LATEST["from"],
    "cause": "handed over",
    "how": None,
    "exact": False,
    "led": [
        {"from": "2026-11-24T11:58:00Z", "to": "2026-11-24T11:58:20Z", "exact": True},
        {"from": "2026-11-24T11:58:30Z", "to": LATEST["from"], "exact": False},
    ],
}
STRANGER = {**FIRST, "token": None, "holder": "machine-1", "to": None, "cause": "lost"}
del STRANGER["led"]  # as of an operator of an earlier version
ALL = "/api/v1/services"


def at(service):
    """Return the path of the history behind a Service."""
    namespace, name = service.split("/")
    return (
        f"/api/v1/namespaces/{namespace}/services/{name}:http/proxy/v1/elections/shop/web/history"
    )


def services(*names):
    """Return a list of Services."""
    parts = [name.split("/") for name in names]
    return {"items": [{"metadata": {"namespace": one, "name": two}} for one, two in parts]}


@pytest.fixture
def call(monkeypatch):
    """Return a function that calls the command with an API server that answers so."""

    def run(answers, *arguments):
        asked = []

        async def ask(_, path, *, query):
            asked.append((path, query))
            answer = answers[path]
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def election(_):
            return {}

        server = SimpleNamespace(ask=ask, election=election, namespace="shop")
        monkeypatch.setattr(
            client, "run", lambda work, _, options: asyncio.run(work(server, **options)) or 0
        )
        result = CliRunner().invoke(main.main, ["history", "web", *arguments])
        return result, asked

    return run


def terms(*found, problem=None):
    """Return what an operator answers."""
    return {"namespace": "shop", "name": "web", "problem": problem, "terms": [*found]}


def test_terms(call, monkeypatch):
    """One line for each term; what is not known for sure is marked."""
    monkeypatch.setattr(history, "now", lambda: datetime(2026, 11, 24, 12, 4, 1, tzinfo=UTC))
    answers = {ALL: services("ops/incumbent"), at("ops/incumbent"): terms(LATEST, FIRST, STRANGER)}
    result, asked = call(answers)
    rows = [re.split(r" {3,}", line) for line in result.stdout.splitlines()]
    assert rows == [
        ["FROM", "TO", "LED", "HOLDER", "TOKEN", "BEGAN", "ENDED"],
        [LATEST["from"], "now", "5m", "here/shop/web-b", "9", "HandedOver"],
        [
            f"~{FIRST['from']}",
            FIRST["to"],
            "~50s",
            "here/shop/web-a",
            "1",
            "unknown",
            "handed over",
        ],
        [f"~{FIRST['from']}", "unknown", "unknown", "machine-1", "none", "unknown", "lost"],
    ]
    assert asked == [
        (ALL, {"labelSelector": OPERATOR_LABELS}),
        (at("ops/incumbent"), {"limit": "20"}),
    ]


def test_a_service_that_is_named(call):
    """Then it is not looked for, which needs a right for the whole cluster."""
    result, asked = call(
        {at("a/b"): terms(FIRST)}, "--service", "a/b", "--limit", "1", "--no-headers"
    )
    assert result.stdout.count("\n") == 1
    assert asked == [(at("a/b"), {"limit": "1"})]


def test_the_operator_that_looks_after_the_election(call):
    """Where there are several, each is asked until one knows it."""
    answers = {
        ALL: services("a/one", "b/two"),
        at("a/one"): NotFound("no such election"),
        at("b/two"): terms(LATEST),
    }
    result, _ = call(answers)
    assert "web-b" in result.stdout


@pytest.mark.parametrize(
    ("answers", "sentence"),
    (
        ({ALL: services()}, "No Service has the labels app.kubernetes.io/part-of=incumbent"),
        ({ALL: Forbidden("no right")}, "Name the operator's Service by --service"),
        (
            {ALL: services("a/b"), at("a/b"): NotFound("no")},
            "No operator knows of a history of web; asked were those behind a/b",
        ),
        (
            {ALL: services("a/b"), at("a/b"): terms(problem="the history is off")},
            "the history is off",
        ),
    ),
)
def test_why_there_is_none(call, answers, sentence):
    """The exit code is 1, and a sentence says what to do."""
    result, _ = call(answers)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert result.stdout == ""


def test_terms_may_be_missing(call):
    """What there is, is shown, and the problem beside it."""
    answers = {ALL: services("a/b"), at("a/b"): terms(FIRST, problem="the stream is away")}
    result, _ = call(answers)
    assert "Terms may be missing: the stream is away" in result.stderr
    assert "web-a" in result.stdout


def test_no_terms_yet(call):
    """A young election has none, which is no failure."""
    result, _ = call({ALL: services("a/b"), at("a/b"): terms()})
    assert result.exit_code == 0
    assert "No terms of web are known" in result.stderr
