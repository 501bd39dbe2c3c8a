"""What commands print of other people's text: all commands, with every text of others hostile."""

import asyncio
import functools
import json
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from incumbent import terminal
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.campaign.records import BucketInfo, Peer, Record
from incumbent.cli import bucket as cli_bucket
from incumbent.cli import session as cli_session
from incumbent.cli.flags import Failure, Refusal
from incumbent.display import line
from incumbent.errors import Forbidden
from incumbent.kubectl import client, main
from incumbent.kubectl import options as kubectl_options
from incumbent.kubectl.doctor import cluster
from incumbent.kubernetes.objects import Pod

HOSTILE = st.text(
    st.sampled_from("ab \x1b\x07\x9b\n\r\t\x7f\u202e\u200b\u0301\u05d0\u3164\ud800"),
    min_size=1,
    max_size=20,
).map("x{}x".format)
TAME = "x"
TIME = "2026-11-24T11:59:00Z"


def election(text):
    """Return an election in whose status everything is somebody else's."""
    condition = {"status": "False", "reason": text, "message": text, "lastTransitionTime": TIME}
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "generation": 1}
    return {
        "apiVersion": "incumbent.dev/v1alpha1",
        "kind": "LeaderElection",
        "metadata": metadata | {"annotations": {"incumbent.dev/step-down": text, "note": text}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {
            "observedGeneration": 1,
            "holder": text,
            "token": 7,
            "site": text,
            "steward": {"replica": text},
            "bucket": {"name": text, "ttlSeconds": 30, "replicas": 3},
            "leader": {"podName": text, "podUID": "1", "nodeName": text, "acquiredTime": TIME},
            "labelKey": "incumbent.dev/web",
            "conditions": [
                {"type": kind, **condition}
                for kind in ("Ready", "BucketReady", "LabelsInSync", "Stalled", text)
            ],
        },
    }


class _Server:
    """An API server in which every text is somebody else's."""

    namespace = "shop"

    def __init__(self, text):
        self.text = text
        self.connection = SimpleNamespace(access=self.access)

    async def access(self):
        return SimpleNamespace(server=self.text)

    async def election(self, name):
        return election(self.text)

    async def list_elections(self, namespace):
        return [election(self.text)]

    async def get_election(self, namespace, name):
        return election(self.text)

    async def patch_election(self, name, patch, *, dry_run):
        return election(self.text)

    async def watch_election(self, name):
        yield election(self.text)

    async def events(self, found):
        return [{"eventTime": TIME, "type": self.text, "reason": self.text, "note": self.text}]

    async def get_pod(self, namespace, name):
        return None

    async def list_pods(self, namespace, selector):
        labels = {"app": "web", "incumbent.dev/web": "leader"}
        annotations = {"incumbent.dev/web.token": self.text}
        return [
            Pod("shop", f"pod-{self.text}", "2", "1", labels=labels, annotations=annotations),
            Pod("shop", "other", "3", "1", labels=labels | {"incumbent.dev/web": self.text}),
        ]

    async def ask(self, method, path, *, query=None, body=None):
        if path == "/version":
            return {"gitVersion": self.text}
        if path.endswith("/history"):
            term = {
                "token": self.text,
                "holder": self.text,
                "from": TIME,
                "to": TIME,
                "cause": self.text,
                "how": self.text,
                "exact": True,
            }
            return {"problem": self.text, "terms": [term, {**term, "how": None}]}
        if path == "/api/v1/services":
            return {"items": [{"metadata": {"namespace": "ops", "name": "incumbent"}}]}
        if path == "/apis/incumbent.dev":
            return {"versions": [{"version": "v1alpha1"}]}
        if path.startswith(("/apis/apiextensions", "/apis/apps")):
            raise Forbidden(self.text)
        if "accessreviews" in path:
            return {"status": {"allowed": False}}
        return {"metadata": {}, "items": [election(self.text)]}


PLUGIN = (
    "status web",
    "who web",
    "who web --output=name",
    "wait web --for=leader",
    "wait web --for=leader=other --timeout=0",
    "step-down web --no-wait",
    "step-down web --to=other",
    "suspend web",
    "resume web --dry-run=client",
    "history web",
    "doctor",
)


def called(arguments, text):
    """Return all that a command of the plugin prints."""
    server = _Server(text)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(cluster, "LOOK_AGAIN", 0)
        patches.setattr(kubectl_options, "SAY_AFTER", 3600)

        def run(work, _, options):
            with client.said_by_click():
                return asyncio.run(work(server, **options)) or 0

        patches.setattr(client, "run", run)
        result = CliRunner().invoke(main.main, arguments.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


@functools.cache
def number_of_lines(arguments):
    """Return how many lines a command prints of a plain text."""
    return len(called(arguments, TAME).split("\n"))


@pytest.mark.parametrize("arguments", PLUGIN)
@settings(max_examples=10)
@given(text=HOSTILE)
def test_no_command_of_the_plugin_prints_what_a_terminal_obeys(arguments, text):
    """Its lines are as many as with a plain text, and in none is anything but text."""
    lines = called(arguments, text).split("\n")
    assert lines == [line(one) for one in lines]
    assert len(lines) == number_of_lines(arguments) > 1


def test_every_command_of_the_plugin_is_among_them():
    """A new one must be, too."""
    assert {arguments.partition(" ")[0] for arguments in PLUGIN} == {*main.COMMANDS}


@pytest.mark.parametrize("output", ("json", "yaml"))
@pytest.mark.parametrize("arguments", ("status web", "who web", "suspend web"))
@settings(max_examples=10)
@given(text=HOSTILE)
def test_data_is_exact(arguments, output, text):
    """JSON and YAML say what there is, by escapes of their own."""
    found = called(f"{arguments} --output={output}", text)
    assert [*map(line, found.split("\n"))] == found.split("\n")
    value = (json.loads if output == "json" else yaml.safe_load)(found)
    shown = value["pod"] if arguments == "who web" else (value.get("status") or value)["holder"]
    assert shown == text


class _Bucket:
    """A bucket in which every text is somebody else's."""

    problem = None

    def __init__(self, text):
        self.text, self.name = text, text
        self.record = Record(7, text, 7, replica=text, site=text)

    async def info(self):
        return BucketInfo(
            name=self.text,
            ttl=30,
            history=1,
            replicas=3,
            created=self.text,
            markers=True,
            mirror=False,
            clustered=True,
            server_time=0,
            risks=(self.text,),
        )

    async def peers(self):
        return [Peer(self.text, leader=True), Peer(self.text, offline=True)]

    async def read(self, key, *, timeout):
        return Sighting(self.record, 1.0)

    async def remove(self, key, **_):
        return SimpleNamespace(outcome=Outcome.STORED)

    def follow(self, see):
        see("web", Sighting(self.record, 1.0))
        see("", Sighting(self.record))
        return lambda: None


def looked(command, text, capsys, **options):
    """Return what a command on a bucket prints."""

    @asynccontextmanager
    async def connected(_):
        yield SimpleNamespace(bucket=lambda _: _Bucket(text))

    async def work():
        session = cli_session.Session(None, "B", json=False)
        async with asyncio.timeout(0.2):
            await command.callback.__wrapped__(session, **options)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(cli_session.Session, "connected", connected)
        patches.setattr(cli_session.Session, "warn", lambda _: None)
        try:
            asyncio.run(work())
        except TimeoutError:
            assert command is cli_bucket.watch
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "options"),
    (
        (cli_bucket.list_keys, {}),
        (cli_bucket.info, {"key": "web"}),
        (cli_bucket.evict, {"key": "web", "yes": True}),
        (cli_bucket.watch, {"key": None}),
    ),
)
@pytest.mark.parametrize(
    "text", ("x\x1b[2Jx", "x\nKEY x", "x\u202ex", "x   9   1 s", "x\u200b\u0301\u05d0x", "x\ud800x")
)
def test_no_command_on_a_bucket_prints_what_a_terminal_obeys(command, options, text, capsys):
    """The same for the commands that need no Kubernetes."""
    lines = looked(command, text, capsys, **options).split("\n")
    assert lines == [line(one) for one in lines]
    assert len(lines) == len(looked(command, TAME, capsys, **options).split("\n")) > 1


def test_a_holder_forges_no_column(capsys):
    """Its spaces do not look like those between columns."""
    [_, row, _] = looked(cli_bucket.list_keys, "x   999   0.1 s", capsys).split("\n")
    assert re.split(r" {3,}", row) == ["web", r"x \x20\x20999 \x20\x200.1 s", "7", "1.0 s"]


def test_an_error_is_one_line():
    """What ends a program quotes answers of servers."""
    for error in (Failure("a\x1b[2J\nb"), Refusal("a\x1b[2J\nb")):
        assert error.format_message() == r"a\x1b[2J\nb"


def test_a_question_is_one_line(monkeypatch):
    """So nobody agrees to something else."""
    asked = []
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question))
    terminal.agreed("Evict x\x1b[2J\n from web?")
    assert asked == [r"Evict x\x1b[2J\n from web?"]


def test_doctor_is_looked_at_whole():
    """Its findings quote the status, the pods and the API server."""
    text = called("doctor", TAME)
    for topic in ("Kubernetes", "Definition", "Rights", "Operator", "shop/web"):
        assert topic in text
