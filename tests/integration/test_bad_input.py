"""Whatever is wrong around the operator is told in a sentence, and heals without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys

import nats
import pytest
import pytest_asyncio
from nats.js.api import StreamConfig, StreamSource

from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from elections import LEADER, Election, condition_of, with_bucket
from operatorprocess import SOURCES, OperatorProcess

RULES = [
    {
        "apiGroups": ["incumbent.dev"],
        "resources": ["leaderelections"],
        "verbs": ["get", "list", "watch", "patch"],
    },
    {
        "apiGroups": ["incumbent.dev"],
        "resources": ["leaderelections/status"],
        "verbs": ["patch"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
]
"""What the operator needs in a namespace of its own."""


@pytest.fixture(autouse=True)
def no_traceback(request):
    """Whatever happens, no log line is a traceback, and no code of ours broke."""
    yield
    for value in request.node.funcargs.values():
        if isinstance(value, OperatorProcess):
            assert "Traceback" not in value.log
            assert ".broke" not in value.log


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(site, nats_server, shared_namespace, tmp_path_factory):
    """An operator that the tests share whose bucket is wrong."""
    async with OperatorProcess(
        site,
        tmp_path_factory.mktemp("operator"),
        nats_url=nats_server.url,
        arguments=(
            f"--namespace={shared_namespace}",
            f"--allow-lock={shared_namespace}/B*/{shared_namespace}.*",
        ),
    ) as process:
        yield process


@pytest.fixture
def shared(kube, operator, shared_namespace):
    """The election of a test, not created yet, for the operator that the tests share."""
    return Election(kube, shared_namespace, f"web-{secrets.token_hex(4)}")


@pytest.fixture
async def jetstream(nats_server):
    """JetStream on the shared server."""
    client = await nats.connect(nats_server.url)
    yield client.jetstream()
    await client.close()


@pytest.fixture
def start(new_operator):
    """Return a function that makes an operator which creates its bucket."""

    def make(url, *arguments, **options):
        return new_operator(url, *with_bucket(6), *arguments, **options)

    return make


def bucket(name, **config):
    """Return the configuration of a bucket that is fine, but for what is given."""
    defaults = {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "max_msgs_per_subject": 1,
        "max_age": 6,
        "duplicate_window": 1,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
    }
    return StreamConfig(**{**defaults, **config})


async def told(election, operator, reason, *words):
    """Wait until conditions, event and log say the same, in a sentence; return the sentence."""
    condition = await election.wait_reason(reason)
    assert condition["status"] == "False"
    for word in words:
        assert word in condition["message"]
    event = await election.wait_event(reason)
    assert (event["type"], event["note"]) == ("Warning", condition["message"])
    status = await election.status()
    assert "leader" not in status
    await operator.wait_said(json.dumps(condition["message"])[1:-1])
    return condition["message"]


LIMITS = ("max_msg_size", "max_bytes")


# The bucket


async def test_unknown_bucket(shared, operator, jetstream):
    """A bucket that does not exist is waited for."""
    name = f"B{secrets.token_hex(4)}"
    await shared.add_pods("one")
    await shared.create(bucket=name)
    words = (
        "the operator's default bucket",
        "delete the election and create it again",
        "create this one",
    )
    await told(shared, operator, "BucketNotFound", f"no bucket {name}", *words)

    await jetstream.add_stream(bucket(name))

    assert await shared.wait_leader(timeout=5) == "one"


@pytest.mark.parametrize(
    ("config", "words"),
    (
        ({"max_age": 0}, "at least 1 second, this bucket has none"),
        ({"max_age": 0.5}, "at least 1 second, it is 0.5 s"),
        ({"max_age": 7200}, "at most 1 hour, it is 7200 s"),
    ),
)
async def test_bucket_with_impossible_ttl(shared, operator, jetstream, config, words):
    """A TTL beyond the limits is told with the limit; another bucket of that name will do."""
    name = f"B{secrets.token_hex(4)}"
    await jetstream.add_stream(bucket(name, **{"duplicate_window": 0.1, **config}))
    await shared.add_pods("one")
    await shared.create(bucket=name)
    await told(shared, operator, "BucketInvalid", words)
    stalled = await shared.wait_reason("BucketInvalid", kind="Stalled")
    assert stalled["status"] == "True"

    await jetstream.delete_stream(f"KV_{name}")
    await jetstream.add_stream(bucket(name))

    assert await shared.wait_leader() == "one"


@pytest.mark.parametrize(
    ("config", "words"),
    (
        ({"max_msg_size": 64}, "message size exceeds maximum allowed"),
        ({"max_bytes": 100, "discard": "new"}, "maximum bytes exceeded"),
    ),
    ids=("for this record", "for any"),
)
async def test_bucket_without_room(shared, operator, jetstream, config, words):
    """Nobody can lead, and the server's reason is told; a higher limit is enough."""
    name = f"B{secrets.token_hex(4)}"
    await jetstream.add_stream(bucket(name, **config))
    await shared.add_pods("one")
    await shared.create(bucket=name)
    await told(shared, operator, "BucketInvalid", words, "raise that limit")

    await jetstream.update_stream(bucket(name, **{**config, **dict.fromkeys(LIMITS, -1)}))

    assert await shared.wait_leader(timeout=10) == "one"


async def test_interval_that_the_ttl_does_not_allow(shared, operator, jetstream):
    """An interval is judged with the bucket's TTL, and told when it does not fit."""
    name = f"B{secrets.token_hex(4)}"
    await jetstream.add_stream(bucket(name))
    await shared.add_pods("one")
    await shared.create(bucket=name, campaign={"intervalSeconds": 6})
    await told(shared, operator, "CampaignInvalid", "interval of 6 s", "4.9 s at most")

    await shared.patch(campaign={"intervalSeconds": 2})

    assert await shared.wait_leader(timeout=5) == "one"


async def test_mirror(shared, operator, jetstream):
    """A mirror cannot be written conditionally, so it holds no election."""
    origin, name = (f"B{secrets.token_hex(4)}" for _ in range(2))
    await jetstream.add_stream(bucket(origin))
    mirror = StreamSource(name=f"KV_{origin}")
    await jetstream.add_stream(
        StreamConfig(name=f"KV_{name}", mirror=mirror, max_msgs_per_subject=1, max_age=6)
    )
    await shared.create(bucket=name)
    await told(shared, operator, "BucketInvalid", name, "mirror")


# NATS


async def test_nats_away_at_the_start(election, start, tmp_path):
    """The process is not ready, the election says why, and both go on when NATS comes."""
    server = NatsServer(tmp_path / "late")
    operator = start(server.url)
    await operator.start(ready=False)
    await operator.wait_said("site.found")
    await election.add_pods("one")
    await election.create()
    await told(election, operator, "BucketUnreachable", f"127.0.0.1:{server.port}", "refused")
    status, text = await operator.readyz()
    assert status == 503
    assert "refused" in text

    async with server:
        await operator.wait_ready()
        assert await election.wait_leader(timeout=5) == "one"


async def test_nats_that_is_too_old(election, start, tmp_path):
    """The version that is needed is told; after the upgrade everything works."""
    port = free_port()

    async def greet(reader, writer):
        info = {"server_id": "x", "version": "2.10.22", "max_payload": 1048576, "proto": 1}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        with contextlib.suppress(OSError):
            await writer.drain()
            await reader.read()
        writer.close()

    operator = start(f"nats://127.0.0.1:{port}")
    async with await asyncio.start_server(greet, "127.0.0.1", port):
        await operator.start(ready=False)
        await election.add_pods("one")
        await election.create()
        await told(election, operator, "BucketUnreachable", "2.10.22", "2.11 or newer")
        status, text = await operator.readyz()
        assert (status, "2.11 or newer" in text) == (503, True)

    async with NatsServer(tmp_path / "new", port=port):
        await operator.wait_ready()
        assert await election.wait_leader(timeout=5) == "one"


async def test_wrong_credentials(election, start, tmp_path):
    """A refused login is told without the password, and a corrected file is read."""
    password = tmp_path / "password"
    password.write_text("guessed")
    config = 'authorization { user: operator, password: "right" }'
    async with NatsServer(tmp_path / "closed", config=config) as server:
        operator = start(server.url, "--nats-user=operator", f"--nats-password-file={password}")
        await operator.start(ready=False)
        await election.add_pods("one")
        await election.create()
        message = await told(election, operator, "BucketUnreachable", "refuses the login")
        status, text = await operator.readyz()
        assert (status, message in text) == (503, True)
        assert "guessed" not in operator.log

        password.write_text("right")

        await operator.wait_ready()
        assert await election.wait_leader(timeout=5) == "one"


# Kubernetes


async def test_missing_definition_of_the_resource(private_plane, private_nats, tmp_path):
    """Without the CRD the process waits, says so, and goes on when it is applied."""
    site = private_plane.site
    arguments = ("--create-bucket", "--bucket-ttl=6s")
    operator = OperatorProcess(site, tmp_path, nats_url=private_nats.url, arguments=arguments)
    try:
        await operator.start(ready=False)
        await operator.wait_said("CustomResourceDefinition")
        status, text = await operator.readyz()
        assert status == 503
        assert "CustomResourceDefinition of LeaderElection installed?" in text

        async with Kube(site) as kube:
            definition = SOURCES.parent / "crds" / "leaderelections.yaml"
            await kube.apply_definitions(definition.read_text())
            await operator.wait_ready()
            election = Election(kube, "default")
            await election.create()
            await election.wait_reason("NoCandidates")
            await election.delete()
            await election.wait_gone()
        assert "Traceback" not in operator.log
    finally:
        operator.kill()


async def test_process_that_waits_ends_politely(site, namespace, start):
    """SIGTERM ends it also before anything has come, without a word of failure."""
    config = site.kubeconfig_for("operator", server=f"127.0.0.1:{free_port()}")
    operator = start(f"nats://127.0.0.1:{free_port()}", kubeconfig=config)
    await operator.start(ready=False)
    await operator.wait_said("operator.waiting")
    popen = operator.process._popen

    await operator.process.stop()

    assert popen.returncode == 0
    assert operator.lines("operator.stopped")


class Account:
    """A service account, whose rights a test can change."""

    def __init__(self, kube, namespace):
        self.kube = kube
        self.namespace = namespace
        self.roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"

    async def create(self, rules):
        """Create it with these rights, and return a kubeconfig file."""
        await self.kube.create(
            f"/api/v1/namespaces/{self.namespace}/serviceaccounts", {"metadata": {"name": "robot"}}
        )
        role = {"metadata": {"name": "robot"}, "rules": rules}
        await self.kube.create(f"{self.roles}/roles", role)
        subject = {"kind": "ServiceAccount", "name": "robot", "namespace": self.namespace}
        binding = {
            "metadata": {"name": "robot"},
            "subjects": [subject],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "robot",
            },
        }
        await self.kube.create(f"{self.roles}/rolebindings", binding)
        token = await self.kube.service_account_token(self.namespace, "robot")
        return self.kube.site.kubeconfig_for(f"robot-{self.namespace}", token=token)

    async def allow(self, rules):
        """Change its rights."""
        await self.kube.patch(f"{self.roles}/roles/robot", {"rules": rules})


def without(resource, verb):
    """Return the rules without one verb."""
    kept = [rule for rule in RULES if resource not in rule["resources"]]
    (rule,) = (rule for rule in RULES if resource in rule["resources"])
    verbs = [other for other in rule["verbs"] if other != verb]
    return [*kept, {**rule, "verbs": verbs}] if verbs else kept


@pytest.fixture
def account(kube, namespace):
    """A service account of the test, not created yet."""
    return Account(kube, namespace)


@pytest.mark.parametrize("verb", ("list", "patch"))
async def test_right_on_pods_is_missing(election, account, private_nats, start, verb):
    """The conditions name the right, and the labels follow when it is granted."""
    config = await account.create(without("pods", verb))
    operator = start(private_nats.url, "--site=here", kubeconfig=config)
    await operator.start()
    await election.add_pods("one")
    await election.create()

    await told(election, operator, "PermissionDenied", "A right is missing", verb, "pods")
    labels = await election.wait_reason("LabelsNotWritten", kind="LabelsInSync")
    assert "A right is missing" in labels["message"]

    await account.allow(RULES)

    assert await election.wait_leader() == "one"
    await election.wait_reason("LabelsWritten", kind="LabelsInSync")
    await election.wait_reason("NotStalled", kind="Stalled")


@pytest.mark.parametrize(
    ("resource", "verb"),
    (
        ("leaderelections", "watch"),
        ("leaderelections", "patch"),
        ("leaderelections", "get"),
    ),
)
async def test_other_right_is_missing(election, account, private_nats, start, resource, verb):
    """Where no condition can tell, the log does; the process lives, and heals."""
    config = await account.create(without(resource, verb))
    operator = start(private_nats.url, "--site=here", kubeconfig=config)
    await operator.start(ready=False)
    await election.add_pods("one")
    await election.create()
    await operator.wait_said("is forbidden")
    await asyncio.sleep(1)
    assert operator.process.running

    await account.allow(RULES)

    await election.wait_leader(timeout=15)
    await election.wait_labels({"one": LEADER})


async def test_right_to_emit_events_is_missing(election, account, private_nats, start):
    """Everything works but the events, and the log tells which one was lost."""
    config = await account.create(without("events", "create"))
    operator = start(private_nats.url, "--site=here", kubeconfig=config)
    await operator.start()
    await election.add_pods("one")
    await election.create()
    await election.wait_leader()
    await operator.wait_said("event.lost")
    (line,) = operator.lines("event.lost")
    assert line["reason"] == "LeaderElected"
    assert "is forbidden" in line["problem"]


async def test_name_of_the_site_cannot_be_read(account, private_nats, start):
    """The process ends with a sentence that names the flag to give."""
    config = await account.create(RULES)
    operator = start(private_nats.url, kubeconfig=config)
    await operator.start(ready=False)
    popen = operator.process._popen

    assert await asyncio.to_thread(popen.wait, 20) == 2

    last = operator.log.splitlines()[-1]
    assert "kube-system" in last
    assert "--site" in last


async def test_label_prefix_that_is_not_allowed(shared, operator):
    """A label key under a foreign prefix is not touched before the flag allows it."""
    await shared.add_pods("one")
    await shared.create(label={"key": "example.com/leader"})
    condition = await shared.wait_reason("PermissionDenied")
    assert "--label-prefix example.com" in condition["message"]
    (pod,) = (await shared.pods()).values()
    assert "example.com/leader" not in pod["metadata"]["labels"]
    stalled = condition_of(await shared.kube.get(shared.path), "Stalled")
    assert stalled["status"] == "True"


# The command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        (("--kubeconfig=/no/such/file",), "does not exist"),
        (("--kubeconfig={config}", "--http-address=127.0.0.1:{port}"), "Cannot listen"),
    ),
)
def test_flag_that_cannot_work(site, nats_server, arguments, words):
    """The process ends with code 2 and one sentence."""
    values = {"config": site.kubeconfig, "port": nats_server.port}
    command = [sys.executable, "-m", "incumbent", "operator"]
    command += [argument.format(**values) for argument in arguments]
    environment = {"PYTHONPATH": str(SOURCES), "PATH": ""}
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert found.returncode == 2
    last = found.stderr.splitlines()[-1]
    assert words in last
    assert "Traceback" not in found.stderr
