"""The account of docs/nats.md, with exactly its rights and without each, and rotated logins."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nkeys
import pytest

from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from elections import LEADER, Election, condition_of, with_bucket
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.campaign.records import Record
from incumbent.campaign.wire import headers_of
from incumbent.errors import BucketDenied, BucketError
from incumbent.nats import jetstream
from incumbent.nats.connection import NatsAccess, NatsBucket, NatsConnection
from natslogins import GENERATIONS, LOGINS, credentials, flags_from, key, login, operator_mode
from operatorprocess import SOURCES, OperatorProcess
from waiting import PATIENCE, until

DOCS = Path(__file__).parents[2] / "docs" / "nats.md"
BUCKET = "LEADER_ELECTION"
INBOX = "_INBOX.>"
ACCOUNT, IN_DOMAIN = re.findall(r"```conf\n(.*?)```", DOCS.read_text(), re.DOTALL)
"""What the page tells to put into a server's configuration."""
CREATE = f"$JS.API.STREAM.CREATE.KV_{BUCKET}"
WRITE = f"$KV.{BUCKET}.>"
GRANT = "grant it to our user, as docs/nats.md says"
ADMIN = "{ user: admin, password: admin }"


def subjects_of(text: str) -> list[str]:
    """Return the subjects of a configuration."""
    return re.findall(r'"([^"]+)"', text)


def without(config: str, *subjects: str) -> str:
    """Return a configuration that lacks some subjects."""
    for subject in subjects:
        assert config.count(f'"{subject}"') == 1
        config = config.replace(f'"{subject}"', '"none"')  # an empty list would allow everything
    return config


def account(*, more: Iterable[str] = (), missing: Iterable[str] = ()) -> str:
    """Return the account of the page with more or fewer subjects, and an administrator in it."""
    config = ACCOUNT.replace("publish: [", "publish: [ " + " ".join(f'"{s}",' for s in more))
    return without(config, *missing).replace("users: [", f"users: [ {ADMIN},")


@asynccontextmanager
async def connected(
    server: NatsServer, user: str = "", **access: object
) -> AsyncIterator[NatsConnection]:
    """A connection to a server, whether it is up or not."""
    url = server.url.replace("//", f"//{user}@") if user else server.url
    async with NatsConnection(NatsAccess([url], **access)) as connection:
        yield connection


async def create_bucket(server: NatsServer, *, ttl: float = 60) -> None:
    """Create the bucket as the administrator."""
    async with connected(server, "admin:admin") as admin:
        await admin.wait_connected()
        await admin.create_bucket(BUCKET, ttl=ttl, replicas=1)


async def campaign(bucket: NatsBucket, key: str = "shop.billing") -> None:
    """Do everything to a bucket that an operator does."""
    seen: list[Sighting] = []
    end = bucket.watch(key, seen.append)
    revision = 0
    try:
        await until(lambda: seen)
        for value in ("create", "renew", "hand over"):
            answer = await bucket.write(key, value, expected=revision, headers={}, timeout=2)
            assert answer.outcome is Outcome.STORED, answer
            revision = answer.revision
        await until(lambda: seen[-1].entry.revision == revision)
        assert isinstance((await bucket.read(key, timeout=2)).entry, Record)
        answer = await bucket.remove(key, expected=revision, headers={}, timeout=2)
        assert answer.outcome is Outcome.STORED, answer
        await until(lambda: seen[-1].entry.revision == answer.revision)
        assert (bucket.problem, bucket.denied) == (None, {})
    finally:
        end()


async def refusal(connection: NatsConnection, key: str = "shop.billing") -> BucketError | None:
    """Try the same, and return what the election is told."""
    bucket = connection.bucket(BUCKET)
    end = bucket.watch(key, lambda _: None)
    try:
        await until(lambda: bucket.problem or bucket.settings)
        if bucket.problem is None:
            await bucket.write(key, "a", expected=0, headers={}, timeout=2)
        await until(lambda: bucket.problem or bucket.denied)
        return bucket.problem or bucket.denied[key]
    finally:
        end()


# The account


async def test_the_account_is_enough_for_everything(tmp_path: Path) -> None:
    """Before and after a restart of the server, and for the commands, but not for more."""
    server = NatsServer(tmp_path, config=account())
    async with server, connected(server, "incumbent:change-me") as connection:
        await create_bucket(server)
        await connection.wait_connected()
        bucket = connection.bucket(BUCKET)
        await campaign(bucket)
        await server.restart()
        await until(lambda: not connection.problem)
        await campaign(bucket, "shop.other")
        with pytest.raises(BucketDenied, match="refuses us the subject"):
            await connection.bucket("OTHER").info()


@pytest.mark.parametrize("missing", subjects_of(ACCOUNT))
async def test_each_right_is_needed(tmp_path: Path, missing: str) -> None:
    """Without it the election is told the subject, and what to do."""
    server = NatsServer(tmp_path, config=account(missing=[missing]))
    async with server, connected(server, "incumbent:change-me") as connection:
        await create_bucket(server)
        error = await refusal(connection)

    assert isinstance(error, BucketDenied)
    subject = missing.replace(">", "shop.billing") if missing == WRITE else missing
    verb = "to subscribe to" if missing == INBOX else "the subject"
    way = f"give another --nats-inbox-prefix, or {GRANT}" if missing == INBOX else GRANT
    assert str(error) == f"NATS refuses us {verb} {subject}: {way}"


async def test_the_right_to_create_is_only_needed_for_that(tmp_path: Path) -> None:
    """With it there is a bucket; without it the sentence says which subject is missing."""
    server = NatsServer(tmp_path, config=account())
    async with server, connected(server, "incumbent:change-me") as connection:
        await connection.wait_connected()
        with pytest.raises(BucketDenied, match=re.escape(CREATE)):
            await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        error = await refusal(connection)
        sentence = f"NATS refuses us the subject {CREATE}: {GRANT}"
        assert str(error) == f"there is no bucket {BUCKET}, and it cannot be created: {sentence}"

    server = NatsServer(tmp_path, config=account(more=[CREATE]))
    async with server, connected(server, "incumbent:change-me") as connection:
        await connection.wait_connected()
        await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        await campaign(connection.bucket(BUCKET))


async def test_the_same_rights_in_a_jwt_are_enough(tmp_path: Path) -> None:
    """An operator key and an account of JWTs make no difference."""
    config, ours = operator_mode()
    *publish, subscribe = subjects_of(ACCOUNT)
    user = key(31, nkeys.PREFIX_BYTE_USER)
    rights = {"pub": {"allow": [*publish, CREATE]}, "sub": {"allow": [subscribe]}}
    for name, limits in (("full", rights), ("short", rights | {"pub": {"allow": publish[:-1]}})):
        (tmp_path / name).write_text(credentials(ours, user, **limits))
    server = NatsServer(tmp_path, config=config)
    async with server, connected(server, creds=tmp_path / "full") as connection:
        await connection.wait_connected()
        await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        await campaign(connection.bucket(BUCKET))
        async with connected(server, creds=tmp_path / "short") as other:
            error = await refusal(other)
    assert str(error) == f"NATS refuses us the subject $KV.{BUCKET}.shop.billing: {GRANT}"


@asynccontextmanager
async def behind_a_leaf(folder: Path, permissions: str) -> AsyncIterator[NatsConnection]:
    """A user with these rights on a leaf node, whose hub has the bucket."""
    leaves = free_port()
    hub = NatsServer(
        folder / "hub", name="hub", domain="hub",
        config=f"leafnodes {{ listen: 127.0.0.1:{leaves} }}",
    )  # fmt: skip
    remote = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaves}" }} ] }}'
    users = f"{{ user: incumbent, password: change-me\n{permissions} }}"
    leaf = NatsServer(
        folder / "leaf", name="leaf", domain="leaf",
        config=f"{remote}\nauthorization {{ users: [ {users}, {ADMIN} ] }}",
    )  # fmt: skip
    async with hub, leaf:
        async with connected(leaf, "admin:admin", domain="hub") as admin:
            await admin.wait_connected()
            async with asyncio.timeout(PATIENCE):
                while True:  # until the leaf node is connected, which its port does not tell
                    try:
                        await admin.create_bucket(BUCKET, ttl=60, replicas=1)
                        break
                    except BucketError:
                        await asyncio.sleep(0.05)
        async with connected(leaf, "incumbent:change-me", domain="hub") as connection:
            yield connection


async def test_the_rights_with_a_domain_are_enough(tmp_path: Path) -> None:
    """All subjects are of the domain, those of the keys, too."""
    async with behind_a_leaf(tmp_path, IN_DOMAIN) as connection:
        await connection.wait_connected()
        await campaign(connection.bucket(BUCKET))


@pytest.mark.parametrize("missing", subjects_of(IN_DOMAIN))
async def test_each_right_with_a_domain_is_needed(tmp_path: Path, missing: str) -> None:
    """The sentence names the subject as it is with the domain."""
    async with behind_a_leaf(tmp_path, without(IN_DOMAIN, missing)) as connection:
        error = await refusal(connection)
    assert isinstance(error, BucketDenied)
    assert missing.removesuffix(">") in str(error)


async def test_a_right_that_is_granted_later_is_noticed(tmp_path: Path) -> None:
    """The server takes its configuration anew, and the connection stays."""
    reads = f"$JS.API.STREAM.MSG.GET.KV_{BUCKET}"
    config = account(missing=[WRITE, reads])
    server = NatsServer(tmp_path, config=config)
    async with server, connected(server, "incumbent:change-me") as connection:
        await create_bucket(server)
        bucket = connection.bucket(BUCKET)
        end = bucket.watch("shop.billing", lambda _: None)
        await until(lambda: isinstance(bucket.problem, BucketDenied))
        await bucket.write("shop.billing", "a", expected=0, headers={}, timeout=2)
        assert list(bucket.denied) == ["shop.billing"]

        file = tmp_path / "nats.conf"
        file.write_text(file.read_text().replace(config, account()))
        os.kill(server.process.pid, signal.SIGHUP)
        await until(lambda: bucket.problem is None)
        await campaign(bucket)
        end()


# The commands


async def call(server: NatsServer, *arguments: str, user: str = "incumbent") -> tuple[int, str]:
    """Run a command as the user; return its exit code and all that it wrote."""
    environment = {name: text for name, text in os.environ.items() if "INCUMBENT" not in name}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "incumbent", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment
        | {
            "PYTHONPATH": str(SOURCES),
            "INCUMBENT_NATS_URL": server.url.replace("//", f"//{user}:change-me@"),
        },
    )
    async with asyncio.timeout(3 * PATIENCE):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_commands_need_no_more(tmp_path: Path) -> None:
    """Those that look need no right to write, and a member only that for its own key."""
    reader = account(missing=[WRITE]).replace("incumbent", "reader")
    member = account(more=[f"$KV.{BUCKET}.nightly"], missing=[WRITE])
    (reader_user,) = re.findall(r"\{\s+user: reader.*?\n      \}", reader, re.DOTALL)
    config = member.replace("users: [", f"users: [ {reader_user}, ")
    async with NatsServer(tmp_path, config=config) as server:
        await create_bucket(server)
        assert await call(server, "run", "nightly", "--", "echo", "ran") == (0, "ran\n")
        async with connected(server, "admin:admin") as admin:
            await admin.wait_connected()
            bucket = admin.bucket(BUCKET)
            latest = (await bucket.read("nightly", timeout=2)).entry.revision
            await bucket.write("nightly", "somebody", expected=latest, headers={}, timeout=2)
        for arguments in (("list",), ("info", "nightly")):
            code, output = await call(server, *arguments, user="reader")
            assert code == 0
            assert "somebody" in output
        code, output = await call(server, "evict", "nightly", "--yes", user="reader")
        assert (code, f"refuses us the subject $KV.{BUCKET}.nightly" in output) == (1, True)
        code, output = await call(server, "evict", "nightly", "--yes")
        assert (code, output) == (0, "somebody was evicted from nightly\n")


# The operator


@pytest.mark.parametrize("missing", (*subjects_of(ACCOUNT), CREATE))
async def test_the_operator_tells_which_right_is_missing(
    tmp_path: Path, election: Election, new_operator: Callable[..., OperatorProcess], missing: str
) -> None:
    """In the conditions; and goes on by itself when it is granted."""
    port, granted = free_port(), () if missing != CREATE else (CREATE,)
    config = account(missing=[missing] if missing != CREATE else [])
    reason = "PermissionDenied" if missing != CREATE else "BucketNotFound"
    async with NatsServer(tmp_path / "nats", config=config, port=port) as server:
        flags = ("--create-bucket", "--bucket-ttl=5s") if missing == CREATE else ()
        if missing != CREATE:
            await create_bucket(server, ttl=5)
        await election.add_pods("one", "two")
        await election.create()
        url = server.url.replace("//", "//incumbent:change-me@")
        operator = new_operator(url, *flags)
        await operator.start(ready=False)
        subject = f"$KV.{BUCKET}.{election.key}" if missing == WRITE else missing
        for kind in ("Ready", "BucketReady"):
            # That the bucket is missing is seen before its creation was refused.
            found = await election.kube.until(
                election.path, lambda f, kind=kind: subject in condition_of(f, kind)["message"]
            )
            condition = condition_of(found, kind)
            assert (condition["status"], condition["reason"]) == ("False", reason)
            assert condition["message"].endswith(GRANT)
        assert LEADER not in (await election.labels()).values()
    async with NatsServer(tmp_path / "nats", config=account(more=granted), port=port):
        await election.wait_leader()
        await election.wait_reason("BucketFound", kind="BucketReady")


@pytest.mark.timeout(90)
async def test_the_operator_works_with_the_account(
    site, election: Election, new_operator: Callable[..., OperatorProcess], tmp_path: Path
) -> None:
    """Elected, renewed past the TTL, handed over, reconnected, released: the whole job."""
    server = NatsServer(tmp_path / "nats", config=account())
    async with server:
        await create_bucket(server, ttl=3)
        operator = new_operator(server.url.replace("//", "//incumbent:change-me@"))
        await operator.start()
        first = await election.lead("one", "two")
        token = (await election.status())["token"]
        await asyncio.sleep(4)  # the record would have lapsed
        assert (await election.status())["token"] == token

        await election.kube.delete(election.pod_path(first))
        second = await election.wait_leader(other_than=first)
        await server.restart()
        await operator.wait_said("nats.connected", times=2)
        assert await election.wait_leader() == second
        await election.kube.delete(election.pod_path(second))
        await election.wait_reason("NoCandidates")
        async with connected(server, "admin:admin") as admin:
            await admin.wait_connected()
            entry = (await admin.bucket(BUCKET).read(election.key, timeout=2)).entry
        assert entry.cause.value == "released"
        await election.delete()
        await election.wait_gone()
    assert "refuses us" not in operator.log


# What administrators ask for


PREFIX = "_INBOX_ops"
INBOX_OF_OURS = account().replace('"_INBOX.>"', f'"{PREFIX}.>"')


async def test_an_inbox_of_its_own_is_all_that_a_user_may_subscribe_to(tmp_path: Path) -> None:
    """Nobody else in the account hears what is answered then."""
    server = NatsServer(tmp_path, config=INBOX_OF_OURS)
    async with server:
        await create_bucket(server)
        async with connected(server, "incumbent:change-me", inbox_prefix=PREFIX) as connection:
            await connection.wait_connected()
            await campaign(connection.bucket(BUCKET))
        async with connected(server, "incumbent:change-me", inbox_prefix="_OTHER") as connection:
            await until(lambda: "refuses us to subscribe to _OTHER.>: give" in connection.problem)
        async with connected(server, "incumbent:change-me") as connection:
            await until(lambda: "refuses us to subscribe to _INBOX.>: give" in connection.problem)
            assert "--nats-inbox-prefix" in connection.problem


@pytest.mark.timeout(90)
async def test_the_operator_works_with_an_inbox_of_its_own(
    site, election: Election, new_operator: Callable[..., OperatorProcess], tmp_path: Path
) -> None:
    """So do the commands: the flag is one of all that connect."""
    async with NatsServer(tmp_path / "nats", config=INBOX_OF_OURS) as server:
        await create_bucket(server)
        url = server.url.replace("//", "//incumbent:change-me@")
        flags = (f"--nats-url={url}", f"--nats-inbox-prefix={PREFIX}", "--nats-connect-timeout=1s")
        operator = new_operator(url, *flags[1:])
        await operator.start()
        leader = await election.lead()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "incumbent", "list", *flags, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )  # fmt: skip
        assert leader in (await process.communicate())[0].decode()
        assert process.returncode == 0


LIMITED = """accounts { A { users: [ { user: op, password: op } ], jetstream {
    max_store: 1G, max_mem: 100M, max_bytes_required: true } } }"""


@pytest.mark.parametrize(("max_bytes", "limit"), ((None, 64 * 2**20), (2**20, 2**20)))
async def test_a_bucket_has_a_limit_where_the_account_requires_one(
    tmp_path: Path, max_bytes: int | None, limit: int
) -> None:
    """A default one, unless another was asked for."""
    server = NatsServer(tmp_path, config=LIMITED)
    async with server, connected(server, "op:op") as connection:
        await connection.wait_connected()
        await connection.create_bucket(BUCKET, ttl=60, replicas=1, max_bytes=max_bytes)
        await campaign(connection.bucket(BUCKET))
        answer = await connection.request(f"$JS.API.STREAM.INFO.KV_{BUCKET}", b"", timeout=2)
        assert answer["config"]["max_bytes"] == limit


async def test_a_bucket_has_the_limit_that_was_asked_for(tmp_path: Path) -> None:
    """Also where none is required; without a word there is none."""
    async with NatsServer(tmp_path) as server, connected(server) as connection:
        await connection.wait_connected()
        for max_bytes, limit in ((None, -1), (2**20, 2**20)):
            name = f"LIMIT_{limit}"
            await connection.create_bucket(name, ttl=60, replicas=1, max_bytes=max_bytes)
            answer = await connection.request(f"$JS.API.STREAM.INFO.KV_{name}", b"", timeout=2)
            assert answer["config"]["max_bytes"] == limit


async def test_a_bucket_that_is_nearly_full_says_so_in_time(tmp_path: Path) -> None:
    """Before it takes no further records; old servers do not even renew those that they have."""
    async with NatsServer(tmp_path) as server, connected(server) as connection:
        await connection.wait_connected()
        await connection.create_bucket(BUCKET, ttl=60, replicas=1, max_bytes=65536)
        bucket, value = connection.bucket(BUCKET), "a" * 1000
        await bucket.write("k-00", value, expected=0, headers={}, timeout=2)
        assert (await bucket.info()).risks == ()
        for number in range(10, 100):
            risks = (await bucket.info()).risks
            answer = await bucket.write(f"k-{number}", value, expected=0, headers={}, timeout=2)
            if answer.outcome is not Outcome.STORED:
                break
        assert "raise its max_bytes" in risks[0]
        assert "raise that limit" in str(bucket.denied[f"k-{number}"])


async def test_a_bucket_with_the_default_limit_takes_a_record_of_the_longest_kind(
    tmp_path: Path,
) -> None:
    """How much one takes on the server is what the default is reckoned with."""
    async with NatsServer(tmp_path) as server, connected(server) as connection:
        await connection.wait_connected()
        await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        record = Record(1, f"{'s' * 253}/{'n' * 63}/{'p' * 253}", 10**18, replica="r" * 253,
                        site="s" * 253, pod_uid="u" * 36, sent_at=1e9, wait=1e9)  # fmt: skip
        answer = await connection.bucket(BUCKET).write(
            "k" * 300, record.holder, expected=0, headers=headers_of(record), timeout=2
        )
        assert answer.outcome is Outcome.STORED
        answer = await connection.request(f"$JS.API.STREAM.INFO.KV_{BUCKET}", b"", timeout=2)
        assert 35_000 * answer["state"]["bytes"] <= jetstream.DEFAULT_MAX_BYTES


# Rotation, and secrets


async def everything_shown(operator: OperatorProcess, election: Election) -> str:
    """Return all that the operator tells anybody."""
    shown = [operator.log, str(await election.kube.get(election.path))]
    shown.append(str(await election.events()))
    async with aiohttp.ClientSession(operator.url) as session:
        for path in ("/livez", "/readyz", "/metrics", "/v1/elections"):
            async with session.get(path) as answer:
                shown.append(await answer.text())
    shown.append(str(await operator.election(election.namespace, election.name)))
    return "\n".join(shown)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", LOGINS)
async def test_a_login_is_never_shown_and_may_be_rotated(
    site,
    election: Election,
    new_operator: Callable[..., OperatorProcess],
    tmp_path: Path,
    kind: str,
) -> None:
    """Neither the right nor a wrong one; new files are taken up with the leader in office."""
    old, new = (login(kind, tmp_path, generation=number) for number in GENERATIONS)
    port, client, folder = free_port(), tmp_path / "client", tmp_path / "nats"
    secrets = [*old.secrets, *new.secrets, site.tokens["operator"]]
    async with NatsServer(folder, config=old.config, port=port) as server:
        operator = new_operator(
            old.url(server.url),
            *flags_from(old.install(client)),
            *with_bucket(60),
            "--log-level=debug",
        )
        await operator.start()
        leader = await election.lead()
        token = (await election.status())["token"]
        shown = await everything_shown(operator, election)
    async with NatsServer(folder, config=new.config, port=port):
        condition = await election.wait_reason("BucketUnreachable", kind="BucketReady")
        await operator.wait_said(old.refusal)
        shown += condition["message"] + await everything_shown(operator, election)
        if new.files:
            new.install(client)
            await election.wait_reason("BucketFound", kind="BucketReady")
            shown += await everything_shown(operator, election)
            assert await election.wait_leader() == leader
            assert (await election.status())["token"] == token

    assert f"127.0.0.1:{port}" in shown
    assert not [secret for secret in secrets if secret in shown]
