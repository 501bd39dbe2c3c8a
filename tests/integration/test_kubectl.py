"""`kubectl incumbent` as people call it, with a real kubectl, API server, operator and NATS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import shlex
import socket
import sys

import pytest
import pytest_asyncio
import structlog
import yaml
from click.testing import CliRunner
from nats import connect

from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from elections import LEADER, Election, Store, with_bucket
from incumbent import logs
from incumbent.kubectl import main as cli
from incumbent.kubectl import options
from operatorprocess import SOURCES, OperatorProcess

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

TTL = 5.0
HISTORY = "INCUMBENT_HISTORY"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
"""A command in a block of the documentation, and what it prints."""
DOCUMENT = SOURCES.parent / "docs" / "kubectl.md"
PROGRAMS = {
    "kubectl-incumbent": "from incumbent.kubectl.main import run",
    "kubectl_complete-incumbent": "from incumbent.kubectl.completion import run",
}
LITTLE = {
    "permissions": {
        "publish": ["$JS.API.STREAM.INFO.KV_ELECTIONS", "$JS.API.STREAM.MSG.GET.KV_ELECTIONS"],
        "subscribe": ["_INBOX.>"],
    }
}
"""What a NATS user may do that can neither watch nor write."""


class Shell:
    """Where kubectl and the plugin are called, in a namespace."""

    def __init__(self, site, folder, namespace):
        self.site = site
        self.namespace = namespace
        self.bin = folder / "bin"
        self.kubeconfig = folder / "kubeconfig"
        config = yaml.safe_load(site.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = namespace
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.bin.mkdir()
        (self.bin / "kubectl").symlink_to(site.kubectl)
        for name, code in PROGRAMS.items():
            program = self.bin / name
            command = shlex.join([sys.executable, "-c", f"{code}; run()"])
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            program.chmod(0o755)
        self.environment = {
            **{name: text for name, text in os.environ.items() if "INCUMBENT" not in name},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCES),
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(folder / "cache"),
        }

    async def start(self, *arguments, **environment):
        """Start a program."""
        return await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment | environment,
        )

    async def __call__(self, *arguments, code=0, output="", **environment):
        """Call the plugin, and return what it prints: on standard error, if it is to fail.

        In this process, for a new one takes a second to import what it needs. `output` may be
        "stdout", to have that all the same.
        """
        result = await asyncio.to_thread(
            CliRunner().invoke,
            cli.main,
            arguments,
            env=self.environment | environment,
            prog_name=options.PROGRAM,
        )
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit | None)
        return result.stderr if code and not output else result.stdout

    async def kubectl(self, *arguments):
        """Call kubectl, and return what it prints."""
        process = await self.start("kubectl", *arguments)
        printed, complaint = await process.communicate()
        assert process.returncode == 0, complaint
        return printed.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def namespaces(site):
    """The namespace of most tests of this file, and one for the documentation."""
    async with Kube(site) as kube:
        names = [f"plugin-{secrets.token_hex(4)}" for _ in range(2)]
        for name in names:
            await kube.namespace(name)
        yield names
        for name in names:
            await kube.delete(f"/api/v1/namespaces/{name}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nats(tmp_path_factory):
    """A NATS server with the operator's user and one that may do little."""
    users = [{"user": "operator", "password": "o"}, {"user": "little", "password": "l", **LITTLE}]
    config = f"authorization: {json.dumps({'users': users})}"
    async with NatsServer(tmp_path_factory.mktemp("nats"), config=config) as server:
        yield server


def url_for(server, user):
    """Return the URL with which a user logs in."""
    return server.url.replace("://", f"://{user}:{user[0]}@")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(site, nats, namespaces, tmp_path_factory):
    """The operator of all tests of this file, behind a Service, with a stream for the history."""
    async with store_on_operator(nats) as store:
        await store.jetstream.add_stream(
            name=HISTORY, subjects=[f"{HISTORY}.>"], max_msgs_per_subject=200
        )
    port = free_port()
    process = OperatorProcess(
        site,
        tmp_path_factory.mktemp("operator"),
        nats_url=url_for(nats, "operator"),
        arguments=(
            *(f"--namespace={name}" for name in namespaces),
            *with_bucket(TTL),
            f"--history-stream={HISTORY}",
            f"--http-address=:{port}",
        ),
    )
    process.url = f"http://127.0.0.1:{port}"
    async with process, Kube(site) as kube:
        await publish(kube, namespaces[0], port)
        yield process
        assert not process.complaints


async def publish(kube, namespace, port):
    """Make a Service like the chart's, for a program on this machine.

    An API server connects to pods only, so there is one with our address, and to no loopback
    address: a datagram socket tells our other one, and sends nothing for that.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    labels = {"app.kubernetes.io/part-of": "incumbent", "app.kubernetes.io/component": "operator"}
    container = {"name": "main", "image": "none.invalid/none"}
    pods = f"/api/v1/namespaces/{namespace}/pods"
    pod = await kube.create(
        pods,
        {
            "metadata": {"name": "incumbent"},
            "spec": {"schedulerName": "nobody", "containers": [container]},
        },
    )
    await kube.patch(
        f"{pods}/incumbent/status", {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    )
    await kube.create(
        f"/api/v1/namespaces/{namespace}/services",
        {
            "metadata": {"name": "incumbent", "labels": labels},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
        },
    )
    target = {"kind": "Pod", "name": "incumbent", "namespace": namespace}
    endpoint = {"addresses": [address], "conditions": {"ready": True}}
    await kube.create(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        {
            "metadata": {
                "name": "incumbent-1",
                "labels": {"kubernetes.io/service-name": "incumbent"},
            },
            "addressType": "IPv4",
            "endpoints": [
                {**endpoint, "targetRef": {**target, "uid": pod["metadata"]["uid"]}},
            ],
            "ports": [{"name": "http", "port": port}],
        },
    )
    # An API server of Kubernetes 1.35 or older looks for the addresses in the Endpoints.
    subset = {
        "addresses": [{"ip": address, "targetRef": {**target, "uid": pod["metadata"]["uid"]}}],
        "ports": [{"name": "http", "port": port}],
    }
    unmirrored = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    await kube.create(
        f"/api/v1/namespaces/{namespace}/endpoints",
        {"metadata": {"name": "incumbent", "labels": unmirrored}, "subsets": [subset]},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def election(site, operator, namespaces):
    """An election with three pods; each test leaves it with some leader."""
    async with Kube(site) as kube:
        found = Election(kube, namespaces[0], "billing")
        await found.lead("1", "2", "3")
        yield found


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch):
    """Let the commands, which run in this process, say no more than if they ran in one of theirs.

    They would set up the log of the process for good.
    """
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def shell(site, namespaces, tmp_path_factory):
    """Where the plugin is called."""
    return Shell(site, tmp_path_factory.mktemp("shell"), namespaces[0])


async def others(election):
    """Return the full names of the leader, and of the pods that do not lead."""
    await election.wait_leader()
    labels = await election.labels()
    (leader,) = [name for name, label in labels.items() if label == LEADER]
    return f"billing-{leader}", sorted(f"billing-{name}" for name in labels if name != leader)


async def test_who_and_status(shell, election):
    """Both tell who the labels show."""
    leader, rest = await others(election)
    assert await shell("who", "billing") == f"{leader}\n"
    about = json.loads(await shell("who", "billing", "-o", "json"))
    assert (about["pod"], about["token"]) == (leader, (await election.status())["token"])
    seen = json.loads(await shell("status", "billing", "-o", "json"))
    assert seen["leader"] == about
    assert [pod["name"] for pod in seen["pods"] if pod["leads"]] == [leader]
    assert {pod["name"] for pod in seen["pods"] if pod["next"]} < {*rest}
    assert "LeaderElected" in {event["reason"] for event in seen["events"]}


async def test_step_down_to_a_pod(shell, election):
    """The office moves to the pod that is named, and the sentence has the new token."""
    leader, (to, *_) = await others(election)
    said = await shell("step-down", "billing", "--to", to)
    token = (await election.status())["token"]
    assert said == f"{to} leads billing after {leader}, with token {token}\n"
    assert (await others(election))[0] == to
    assert await shell("step-down", "billing", "--to", to) == f"{to} leads billing already\n"


async def test_step_down_to_nobody_in_particular(shell, election):
    """Somebody else leads, and the object that is printed is the one of afterwards."""
    leader, rest = await others(election)
    after = json.loads(await shell("step-down", "billing", "-o", "json"))
    assert after["status"]["leader"]["podName"] in rest
    assert leader != (await others(election))[0]


async def test_step_down_to_who_cannot_lead(shell, election):
    """The reason is told, and nothing is asked of the operator."""
    leader, (to, *_) = await others(election)
    short = to.removeprefix("billing-")
    assert "there is none" in await shell("step-down", "billing", "--to", "nix", code=1)
    await election.annotate_or_label(short, annotations={"incumbent.dev/exclude": "true"})
    try:
        said = await shell("step-down", "billing", "--to", to, code=1)
    finally:
        await election.annotate_or_label(short, annotations={"incumbent.dev/exclude": None})
    assert f"The pod {to} cannot lead billing: its annotation incumbent.dev/exclude" in said
    assert (await others(election))[0] == leader


@pytest.mark.parametrize("dry_run", ("client", "server"))
async def test_dry_runs_change_nothing(shell, election, dry_run):
    """They print what would be, and neither spec nor annotations change."""
    before = await election.kube.get(election.path)
    flag = f"--dry-run={dry_run}"
    mark = {"client": "(dry run)", "server": "(server dry run)"}[dry_run]
    suspended = "leaderelection.incumbent.dev/billing suspended"
    assert await shell("suspend", "billing", flag) == f"{suspended} {mark}\n"
    would = yaml.safe_load(await shell("suspend", "billing", flag, "-o", "yaml"))
    assert would["spec"]["suspend"] is True
    assert mark in await shell("step-down", "billing", flag)
    assert mark in await shell("resume", "billing", flag)
    after = await election.kube.get(election.path)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert "annotations" not in after["metadata"]


async def test_suspend_wait_resume(shell, election):
    """Nobody leads while it is suspended, and whoever waits is told why, and then who does."""
    await shell("suspend", "billing")
    await election.wait_reason("Suspended")
    assert "(no change)" in await shell("suspend", "billing")
    assert "Nobody leads billing: the election is suspended" in await shell(
        "who", "billing", code=1
    )
    for limit, say in (("0", 0), ("1500ms", 1)):
        said = await shell("wait", "billing", "--for=leader", "--timeout", limit, code=124)
        assert said.count("Waiting: Nobody leads billing: the election is suspended") == say
    assert "No pod of this cluster can step down" in await shell("step-down", "billing", code=1)
    waiting = await shell.start(
        "kubectl-incumbent", "wait", "billing", "--for=leader", "-o", "name"
    )
    await waiting.stderr.readuntil(b"Waiting: Nobody leads billing")
    await shell("resume", "billing")
    printed, _ = await waiting.communicate()
    assert printed.decode() == f"pod/{(await others(election))[0]}\n"


async def test_history(shell, election):
    """The operator is asked through the API server; the newest term is the present one."""
    leader, _ = await others(election)
    found = json.loads(await shell("history", "billing", "-o", "json"))
    latest = found["terms"][0]
    assert latest["holder"].endswith(f"/{leader}")
    assert latest["token"] == (await election.status())["token"]
    assert latest["to"] is None
    row = (await shell("history", "billing", "--limit", "1", "--no-headers")).split()
    assert row[:2] == [latest["from"], "now"]
    assert row[3:5] == [latest["holder"], str(latest["token"])]
    flags = ("--service", f"{shell.namespace}/incumbent")
    assert json.loads(await shell("history", "billing", *flags, "-o", "json")) == found
    assert "-o" not in await shell("history", "billing", "--service", "default/nix", code=1)


async def test_what_is_not_there(shell, election):
    """There is a sentence for a missing election, for every command."""
    for command in ("who", "status", "step-down", "suspend", "resume", "history"):
        assert "There is no LeaderElection nix in" in await shell(command, "nix", code=1)
    assert "There is no LeaderElection nix" in await shell("wait", "nix", "--for=leader", code=1)


async def test_rights_that_are_missing(shell, election):
    """The right is named, and credentials that nobody knows are said to be that."""
    said = await shell("who", "billing", "--as", "nobody", code=1)
    assert 'User "nobody" cannot get resource "leaderelections"' in said
    assert "does not accept the credentials" in await shell(
        "who", "billing", "--token", "x", code=1
    )
    said = await shell("doctor", "--as", "nobody")
    assert "you may not get, list, watch, patch leaderelections.incumbent.dev" in said
    acting = ("--as", "somebody", "--as-group", "a", "--as-group", "system:masters")
    assert await shell("who", "billing", *acting) == await shell("who", "billing")


async def test_access_without_a_kubeconfig(shell, election, tmp_path):
    """A URL, a token and a certificate are enough."""
    site = shell.site
    login = ("--certificate-authority", site.ca, "--token", site.tokens["admin"])
    flags = ("--server", site.url, *login, "--namespace", shell.namespace)
    nothing = {"KUBECONFIG": str(tmp_path / "none")}
    assert await shell("who", "billing", *flags, **nothing) == await shell("who", "billing")


async def test_access_by_a_plugin_for_credentials(shell, election, tmp_path):
    """A kubeconfig may name a program that has the token."""
    config = yaml.safe_load(shell.kubeconfig.read_text())
    api = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": api, "kind": "ExecCredential"}
    answer["status"] = {"token": shell.site.tokens["admin"]}
    login = {"apiVersion": api, "command": "echo", "args": [json.dumps(answer)]}
    config["users"][0]["user"] = {"exec": {**login, "interactiveMode": "Never"}}
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    flags = ("--kubeconfig", str(file))
    assert await shell("who", "billing", *flags) == await shell("who", "billing")


async def test_doctor_is_content(shell, election, nats):
    """Nothing is wrong, in the cluster or in NATS, and looking leaves nothing in the bucket."""
    url = url_for(nats, "operator")
    async with store_on_operator(nats) as store:
        said = await shell("doctor", "--strict", "--nats-url", url)
        latest = await store.latest(election.key)
    assert said.endswith("\nno problems, no warnings\n")
    assert "the login may read, watch and write the keys" in said
    assert latest.value.endswith((await others(election))[0])


async def test_doctor_finds_what_is_wrong(shell, election, operator, nats):
    """Without an operator: labels and records; without rights: those; and each has a remedy."""
    leader, (other, *_) = await others(election)
    operator.process.pause()
    try:
        await election.set_label(other.removeprefix("billing-"), LEADER)
        async with store_on_operator(nats) as store:
            await store.until(election.key, lambda message: not (message and message.value))
        flags = ("--nats-url", url_for(nats, "little"), "--service-account", "default/default")
        found = json.loads(await shell("doctor", *flags, "-o", "json", code=4, output="stdout"))
    finally:
        operator.process.resume()
        await election.wait_labels(
            {
                n.removeprefix("billing-"): LEADER if n == leader else "candidate"
                for n in (leader, other, *_)
            }
        )
    texts = {finding["text"] for finding in found if finding["level"] == "problem"}
    assert f"2 pods carry the leader label: {', '.join(sorted((leader, other)))}" in texts
    assert any("default may not get, list, watch, patch pods in" in text for text in texts)
    assert any("NATS refuses us the subject $KV.ELECTIONS" in text for text in texts)
    assert all(finding["todo"] for finding in found if finding["level"] == "problem")


@contextlib.asynccontextmanager
async def store_on_operator(server):
    """Connect to the bucket as the operator's user."""
    client = await connect(url_for(server, "operator"))
    try:
        yield Store(client)
    finally:
        await client.close()


async def test_kubectl_completes(shell, election):
    """Kubectl finds the program for completions, and prints what it offers."""
    leader, rest = await others(election)
    for words, offered in (
        (("who", ""), "billing"),
        (("who", "-n", shell.namespace[:-1]), shell.namespace),
        (("step-down", "billing", "--to", rest[0][:-1]), rest[0]),
        (("wait", "billing", "--for", f"leader={leader}"), f"leader={leader}"),
        (("who", "--context", ""), shell.site.name),
    ):
        found: set[str] = set()
        for _ in range(5):  # a busy API server may take longer than a person would wait
            printed = (await shell.kubectl("__complete", "incumbent", *words)).splitlines()
            assert printed[-1] == ":4"
            found |= {line.partition("\t")[0] for line in printed[:-1]}
            if offered in found:
                break
        assert offered in found


async def test_the_documentation_is_true(site, operator, namespaces, tmp_path):
    """Every command of docs/kubectl.md prints what is written there, but for times and tokens."""
    async with Kube(site) as kube:
        election = Election(kube, namespaces[1], "billing")
        await election.lead("1", "2", "3")
        shell = Shell(site, tmp_path, namespaces[1])
        name = (await election.status())["site"]
        for block in re.findall(BLOCK, DOCUMENT.read_text()):
            for command, expected in re.findall(COMMAND, block):
                process = await shell.start("sh", "-c", f"{{ {command}; }} 2>&1")
                printed = (await process.communicate())[0].decode()
                printed = printed.replace(election.namespace, "shop").replace(name, "7f3a91c2")
                assert plain(printed) == plain(expected), command
            if "resume billing" in block:
                await election.wait_leader()


def plain(text):
    """Return an output without what differs: ages, tokens, times, addresses, versions."""
    for pattern, instead in (
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\b(\d+[smhd])+\b", "AGE"),
        (r"https://\S+", "URL"),
        (r"\bv\d+\.\d+\.\d+\b", "VERSION"),
        (r"\b\d+\.\d+\.\d+(\.\d+)?", "NUMBER"),
        (r"(?<!code)(?<=\s)\d+(?=\s|$)", "NUMBER"),
        (r"[ \t]+", " "),
        (r" $", ""),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.strip().splitlines()
