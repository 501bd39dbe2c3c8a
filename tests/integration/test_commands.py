"""The commands on any bucket, as people run them, on a real NATS server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from click.testing import CliRunner

import incumbent
from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from incumbent import Election, NatsAccess, clock
from incumbent.cli import main
from incumbent.nats.connection import NatsConnection
from waiting import PATIENCE, until

KEY = "nightly"
TTL = 3.0
NAMES = (f"COMMANDS_{number}" for number in itertools.count())
SOURCES = Path(incumbent.__file__).parents[1]


class Shell:
    """Where the commands are called: with a server and a bucket in the environment."""

    def __init__(self, server: NatsServer, bucket: str):
        self.server = server
        self.bucket = bucket
        self.store = None
        self._environment = {
            **{name: text for name, text in os.environ.items() if "INCUMBENT" not in name},
            "PYTHONPATH": str(SOURCES),
            "INCUMBENT_NATS_URL": server.url,
            "INCUMBENT_BUCKET": bucket,
        }
        self._running = []

    async def start(self, *arguments, **environment):
        """Start a command."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "incumbent", *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment | environment,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    async def call(self, *arguments, **environment):
        """Run a command; return its exit code, and what it wrote on both outputs."""
        return await self.end(await self.start(*arguments, **environment))

    async def end(self, process):
        """Wait for the end of a command; return the same."""
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def json(self, *arguments):
        """Return what a command says as JSON."""
        code, out, err = await self.call(*arguments, "-o", "json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def member(self, identity, key=KEY):
        """Return another member of the election."""
        return Election(self.server.url, self.bucket, key, identity)

    async def kill(self):
        """Leave no process behind."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            await process.wait()


@pytest.fixture
async def shell(nats_server):
    """A shell, with a bucket of its own."""
    async with NatsConnection(NatsAccess([nats_server.url])) as connection:
        await connection.wait_connected()
        shell = Shell(nats_server, next(NAMES))
        await connection.create_bucket(shell.bucket, ttl=TTL, replicas=1)
        shell.store = connection.bucket(shell.bucket)
        yield shell
        await shell.kill()


@asynccontextmanager
async def leading(election):
    """A member that leads."""
    async with election, asyncio.timeout(PATIENCE):
        await election.won()
        yield election


async def line_of(process):
    """Return the next line of output."""
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode().strip()


async def released(shell, key=KEY):
    entry = (await shell.store.read(key, timeout=2)).entry
    return entry.cause.value == "released"


@asynccontextmanager
async def held(shell, key, value):
    """A member that knows nothing of ours: it writes again and again."""

    async def write():
        while True:
            await put(shell, key, value)
            await asyncio.sleep(TTL / 4)

    await put(shell, key, value)
    writing = asyncio.create_task(write())
    yield
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing


async def put(shell, key, value):
    client = await nats.connect(shell.server.url)
    try:
        values = await client.jetstream().key_value(shell.bucket)
        await values.put(key, value)
    finally:
        await client.close()


# run


async def test_run_passes_everything_on(shell):
    """Arguments, environment, output, exit code; and the key is released."""
    script = 'echo "$INCUMBENT_KEY $INCUMBENT_TOKEN $1 $2"; echo oh >&2; exit 7'
    code, out, err = await shell.call("run", KEY, "--", "sh", "-c", script, "x", "--name", "-o")
    assert (code, out, err) == (7, f"{KEY} 1 --name -o\n", "oh\n")
    assert await released(shell)


@pytest.mark.parametrize(
    ("command", "expected", "sentence"),
    (
        (("sh", "-c", "kill -KILL $$"), 137, ""),
        (("no-such-command",), 127, "no-such-command cannot be started: No such file"),
        (("/etc/passwd",), 126, "/etc/passwd cannot be started: Permission denied"),
    ),
)
async def test_run_ends_with_the_exit_codes_of_a_shell(shell, command, expected, sentence):
    """Killed, not found, not executable; the key is released all the same."""
    code, out, err = await shell.call("run", KEY, "--", *command)
    assert (code, out) == (expected, "")
    assert sentence in err
    assert len(err.splitlines()) == bool(sentence)
    assert await released(shell)


async def test_run_ends_the_command_on_loss_and_starts_it_when_it_wins_again(shell):
    """SIGTERM at first, SIGKILL after the grace time, then a new one with a greater token."""
    script = 'trap "echo told" TERM; echo "began $INCUMBENT_TOKEN"; while :; do sleep 0.1; done'
    process = await shell.start("run", KEY, "--grace", "500ms", "--", "sh", "-c", script)
    assert await line_of(process) == "began 1"
    assert (await shell.call("evict", KEY, "--yes"))[0] == 0
    assert await line_of(process) == "told"
    again = await line_of(process)
    assert again.startswith("began ")
    assert int(again.removeprefix("began ")) > 1


async def test_run_tells_the_command_by_signals(shell):
    """SIGUSR1 when leadership is won, SIGUSR2 when it is lost; it is never ended."""
    script = (
        'trap "echo won" USR1; trap "echo lost" USR2; trap "echo bye; exit 3" TERM; echo began;'
        " while :; do sleep 0.1; done"
    )
    process = await shell.start("run", KEY, "--on-loss", "signal", "--", "sh", "-c", script)
    assert [await line_of(process) for _ in range(2)] == ["began", "won"]
    assert (await shell.call("evict", KEY, "--yes"))[0] == 0
    assert [await line_of(process) for _ in range(2)] == ["lost", "won"]
    process.terminate()
    assert await line_of(process) == "bye"
    assert (await shell.end(process))[0] == 3
    assert await released(shell)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
async def test_run_forwards_signals_and_releases_the_key(shell, number):
    """The command decides how it ends, and the successor leads at once."""
    script = f'trap "echo bye; exit 5" {number.name[3:]}; echo began; while :; do sleep 0.1; done'
    process = await shell.start("run", KEY, "--", "sh", "-c", script)
    assert await line_of(process) == "began"
    process.send_signal(number)
    code, out, err = await shell.end(process)
    assert (code, out, err) == (5, "bye\n", "")
    assert await released(shell)


async def test_run_that_waits_for_its_turn_ends_on_a_signal(shell):
    """The exit code says so; nothing was started."""
    async with leading(shell.member("other")) as other:
        process = await shell.start("run", KEY, "--name", "second", "--", "echo", "started")
        await asyncio.sleep(2)
        process.terminate()
        code, out, _ = await shell.end(process)
        assert abs(code) in {143, signal.SIGTERM}  # the latter if it had not connected yet
        assert out == ""
        assert other.is_leader


# file


async def test_file_exists_while_this_machine_leads(shell, tmp_path):
    """With all that a script needs; renewals move its deadline, the end removes it."""
    path = tmp_path / "leader.json"
    process = await shell.start("file", path, KEY, "--name", "here")
    await until(path.exists)
    first = json.loads(path.read_text())
    assert first | {"deadline": "", "bootDeadline": 0} == {
        "key": KEY,
        "identity": "here",
        "token": 1,
        "deadline": "",
        "boot": clock.epoch(),
        "bootDeadline": 0,
    }
    assert 0 < first["bootDeadline"] - clock.now() < TTL
    deadline = datetime.fromisoformat(first["deadline"])
    assert timedelta() < deadline - datetime.now(UTC) < timedelta(seconds=TTL)
    code, out, err = await shell.call("file", path, "--check")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\S+ is fresh for another \d\.\d s\n", out)
    await until(lambda: json.loads(path.read_text())["deadline"] > first["deadline"])
    process.terminate()
    assert await shell.end(process) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    assert await released(shell)


async def test_file_is_removed_on_loss_and_comes_back(shell, tmp_path):
    """An eviction removes it within moments."""
    path = tmp_path / "leader.json"
    process = await shell.start("file", path, KEY)
    await until(path.exists)
    assert (await shell.call("evict", KEY, "--yes"))[0] == 0
    await until(lambda: not path.exists())
    await until(path.exists)
    assert json.loads(path.read_text())["token"] > 1
    process.terminate()
    assert (await shell.end(process))[0] == 0


OLD = '{"key": "k", "identity": "a", "token": 1, "deadline": "2036-01-01T00:00:00+00:00"}'
STALE = json.dumps({**json.loads(OLD), "boot": clock.epoch(), "bootDeadline": 1.0})
OF_EARLIER_VERSION = (
    "Error: leader.json gives its deadline by the time of day only, as an earlier version wrote it:"
    " start `incumbent file` of this version\n"
)


@pytest.mark.parametrize(
    ("content", "out", "err"),
    (
        (None, "there is no leader.json: this machine does not lead\n", ""),
        (STALE, "leader.json is stale: its deadline passed ", ""),
        (OLD, "", OF_EARLIER_VERSION),
        ("text", "", "Error: leader.json is not a file of `incumbent file`\n"),
        ("[]", "", "Error: leader.json is not a file of `incumbent file`\n"),
        ('{"deadline": 5}', "", "Error: leader.json is not a file of `incumbent file`\n"),
        ("[" * 100_000, "", "Error: leader.json is not a file of `incumbent file`\n"),
    ),
    ids=("missing", "stale", "old", "text", "list", "no time", "deep"),
)
async def test_check_says_whether_a_file_counts(shell, tmp_path, content, out, err):
    """Exit code 1 unless it is fresh; no server is asked."""
    path = tmp_path / "leader.json"
    if content is not None:
        path.write_text(content)
    nowhere = {"INCUMBENT_NATS_URL": f"nats://127.0.0.1:{free_port()}"}
    code, said, complained = await shell.call("file", path, "--check", **nowhere)
    assert code == 1
    assert said.replace(f"{tmp_path}/", "").startswith(out)
    assert complained.replace(f"{tmp_path}/", "") == err
    if not err:
        code, said, _ = await shell.call("file", path, "--check", "-o", "json", **nowhere)
        assert (code, json.loads(said)["fresh"]) == (1, False)


async def test_file_replaces_its_own_leftover_and_nothing_else(shell, tmp_path):
    """A file of somebody else is left alone."""
    path = tmp_path / "leader.json"
    path.write_text("precious")
    code, out, err = await shell.call("file", path, KEY)
    assert (code, out) == (2, "")
    assert "leader.json is not a file of `incumbent file`; remove it" in err
    assert path.read_text() == "precious"
    path.write_text('{"deadline": "2026-01-01T00:00:00+00:00"}')
    async with leading(shell.member("other")):
        process = await shell.start("file", path, KEY, "--name", "second")
        await until(lambda: not path.exists())
        process.terminate()
        await shell.end(process)


# list, info, evict, watch


async def test_list_and_info_show_who_holds_what(shell):
    """Members of ours with a token, anybody else without, and nobody."""
    assert await shell.json("list") == []
    async with leading(shell.member("here")) as election, held(shell, "other", b"some\x1bbody"):
        code, out, err = await shell.call("list")
        assert (code, err) == (0, "")
        title, *rows = [re.split(r"\s{2,}", line) for line in out.splitlines()]
        assert title == ["KEY", "HOLDER", "TOKEN", "RENEWED AGO"]
        assert [row[:2] for row in rows] == [[KEY, "here"], ["other", r"some\x1bbody"]]
        assert rows[0][2] == str(election.token)
        code, out, err = await shell.call("info", KEY)
        assert (code, err) == (0, "")
        assert f"Bucket    {shell.bucket}, created " in out
        assert "TTL       3 s\n" in out
        assert "Holder    here\n" in out
        assert f"Token     {election.token}\n" in out
        assert "WARNING   a TTL under 5 s (3 s) makes short disturbances elections" in out
        shown = await shell.json("info", KEY)
        assert shown["election"]["holder"] == "here"
        assert shown["election"]["token"] == election.token
        assert (shown["ttlSeconds"], shown["history"], shown["markers"]) == (TTL, 1, True)
        assert shown["warnings"]
    # The marker of the release lives for a TTL only.
    text, shown = await asyncio.gather(shell.call("info", KEY), shell.json("info", KEY))
    assert re.search(r"^Holder    nobody\b", text[1], re.MULTILINE)
    assert shown["election"]["holder"] is None


async def test_info_warns_of_what_is_risky(shell):
    """History, TTL and markers, as Choria does."""
    client = await nats.connect(shell.server.url)
    try:
        await client.jetstream().create_key_value(bucket=f"{shell.bucket}_2", history=5, ttl=120)
    finally:
        await client.close()
    shown = await shell.json("info", "--bucket", f"{shell.bucket}_2")
    assert "election" not in shown
    assert shown["warnings"] == [
        "history should be 1, it is 5",
        "a TTL over 1 minute (120 s) makes failovers slow",
        "without limit markers an expiry is noticed later",
    ]


async def test_evict_takes_the_key(shell):
    """The holder steps down; a second time there is nobody."""
    async with leading(shell.member("here")) as election:
        code, out, err = await shell.call("evict", KEY)
        assert (code, out) == (1, "")
        assert err.startswith("Evict here from nightly? [y/N]: ")
        assert election.is_leader
        assert await shell.json("evict", KEY, "--yes") == {"key": KEY, "evicted": "here"}
        await election.lost()
        code, out, err = await shell.call("evict", "vacant", "--yes")
        assert (code, out, err) == (1, "", "Error: nobody holds vacant\n")


async def test_watch_shows_every_change_once(shell):
    """Who holds the key now, then each change, but no renewal."""
    async with leading(shell.member("first")) as first:
        text = await shell.start("watch", KEY)
        process = await shell.start("watch", "-o", "json")
        assert (await line_of(text)).endswith(f"  {KEY}  first")
        seen = [json.loads(await line_of(process))]
        await asyncio.sleep(1.5)
        await first.stop()
        seen.append(json.loads(await line_of(process)))
        assert (await line_of(text)).endswith(f"  {KEY}  vacant (released)")
    async with leading(shell.member("second")):
        seen.append(json.loads(await line_of(process)))
    assert [(one["key"], one["holder"], one["cause"]) for one in seen] == [
        (KEY, "first", None),
        (KEY, None, "released"),
        (KEY, "second", None),
    ]
    for watch in (text, process):
        watch.send_signal(signal.SIGINT)
        code, _, err = await shell.end(watch)
        assert (code, err) == (130, "")


async def test_watch_ends_with_its_reader(shell):
    """A pipe that is closed ends it at the next line."""
    async with leading(shell.member("first")) as first:
        process = await shell.start("watch")
        await line_of(process)
        process.stdout._transport.close()
        await first.stop()
        async with asyncio.timeout(PATIENCE):
            await process.wait()
        assert process.returncode == 1


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (("run", "k k", "--", "true"), "'k k' is not a valid key; it must consist of"),
        (("run", KEY), "Missing argument 'CMD...'"),
        (("run", KEY, "--grace", "soon", "--", "true"), "'soon' is not a duration"),
        (("run", KEY, "--name", "", "--", "true"), "'' is not a valid identity"),
        (("list", "--nats-url", "http://n"), "This is not the URL of a NATS server"),
        (("list", "--bucket", "a.b"), "'a.b' is not a valid name"),
        (("list", "-o", "yaml"), "'yaml' is not one of 'text', 'json'"),
        (("info", "k*"), "'k*' is not a valid key"),
        (("evict",), "Missing argument 'KEY'"),
        (("list", "--nats-user", "u"), "--nats-user and --nats-password-file must be given"),
    ),
)
def test_bad_input_gets_one_sentence(arguments, sentence):
    """And exit code 2, before anything is connected."""
    result = CliRunner().invoke(main.main, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (("/run/x",), "Error: name the KEY of the election, or give --check.\n"),
        (("/no/such/x", KEY), "Error: /no/such cannot be written; choose another PATH.\n"),
    ),
)
async def test_file_needs_a_key_and_a_folder(shell, arguments, sentence):
    """One sentence, exit code 2."""
    assert await shell.call("file", *arguments) == (2, "", sentence)


@pytest.mark.parametrize("command", (("list",), ("info",), ("evict", KEY, "--yes"), ("watch",)))
async def test_a_bucket_that_is_not_there_is_an_error(shell, command):
    """One sentence, exit code 1."""
    code, out, err = await shell.call(*command, "--bucket", "NOT_THERE")
    assert (code, out) == (1, "")
    [sentence] = err.splitlines()
    assert sentence.startswith("Error: ")
    assert "NOT_THERE" in sentence


async def test_nats_that_is_away_is_an_error_within_seconds(shell):
    """One sentence that names the server, exit code 1."""
    port = free_port()
    began = time.monotonic()
    code, out, err = await shell.call("list", "--nats-url", f"nats://127.0.0.1:{port}")
    assert time.monotonic() - began < 9  # 5 s, and Python's start on a busy machine
    assert (code, out) == (1, "")
    assert err == f"Error: NATS at 127.0.0.1:{port} cannot be reached: connection refused\n"


async def test_who_campaigns_waits_for_nats_and_says_so(shell):
    """On standard error: standard output belongs to the command."""
    port = free_port()
    process = await shell.start("run", KEY, "--nats-url", f"127.0.0.1:{port}", "--", "true")
    async with asyncio.timeout(PATIENCE):
        line = (await process.stderr.readline()).decode()
    assert "nats.unreachable" in line
    assert "cannot be reached: connection refused" in line
    process.terminate()
    _, out, _ = await shell.end(process)
    assert out == ""
