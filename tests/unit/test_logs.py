import asyncio
import json
import logging
import re
import warnings

import pytest
import structlog

from incumbent import display, logs

SEED = "SU" + "A2" * 28
TOKEN = "eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl"


@pytest.fixture
def configure(capsys):
    """Return a function that sets logging up and returns what reads the lines written since."""

    def configure(form="json", level="info"):
        logs.configure(form, level=level)

        def lines():
            written = capsys.readouterr()
            assert written.out == ""
            texts = written.err.splitlines()
            return [json.loads(text) for text in texts] if form == "json" else texts

        return lines

    return configure


def ours():
    return structlog.get_logger("incumbent.nats.connection")


def test_our_events(configure):
    """An event is a name and fields, with the time in UTC."""
    lines = configure()
    ours().info("nats.connected", server="nats://a:4222", tries=3)
    [line] = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "logger": "incumbent.nats.connection",
        "event": "nats.connected",
        "server": "nats://a:4222",
        "tries": 3,
    }


def test_what_every_line_has_comes_first(configure):
    """People who read JSON find time, level, logger and event where they expect them."""
    lines = configure()
    ours().info("nats.connected", a=1)
    [line] = lines()
    assert [*line] == ["timestamp", "level", "logger", "event", "a"]


@pytest.mark.parametrize("name", ("kopf.objects", "nats.aio.client", "aiohttp.server", "asyncio"))
def test_libraries_look_alike(configure, name):
    """A record of a library has the same fields."""
    lines = configure()
    logging.getLogger(name).warning("Retrying in %s s", 3)
    [line] = lines()
    assert re.fullmatch(r"\S+Z", line.pop("timestamp"))
    assert line == {"level": "warning", "logger": name, "event": "Retrying in 3 s"}


def test_a_record_of_kopf_names_its_object(configure):
    """Namespace and name are fields, for kopf does not write them into the message."""
    lines = configure()
    reference = {"namespace": "shop", "name": "billing", "uid": "1", "kind": "LeaderElection"}
    logging.getLogger("kopf.objects").error("Failed.", extra={"k8s_ref": reference})
    logging.getLogger("kopf.objects").error("Failed.", extra={"k8s_ref": {"name": "a"}})
    first, second = lines()
    assert (first["namespace"], first["name"]) == ("shop", "billing")
    assert second["name"] == "a"
    assert "namespace" not in second


def test_a_message_is_one_line(configure):
    """What a library writes into further lines becomes a field."""
    lines = configure()
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task 1>")
    [line] = lines()
    assert line["event"] == "Task exception was never retrieved"
    assert line["detail"] == "future: <Task 1>"


@pytest.mark.parametrize(("closed", "lines"), ((True, 0), (False, 1)))
def test_an_error_on_a_connection_that_we_closed_is_no_line(configure, closed, lines):
    """Whoever gives an answer up closes its connection, and TLS has more to say by then."""
    written = configure()
    logging.getLogger("asyncio").error(
        "Fatal error on SSL protocol\ntransport: <TCPTransport closed=%s>", closed
    )
    assert len(written()) == lines


@pytest.mark.parametrize(("error", "lines"), ((ConnectionResetError, 0), (ValueError, 1)))
def test_a_client_that_is_gone_is_no_line(configure, error, lines):
    """Strangers may end a connection at any moment, and as often as they like."""
    written = configure()
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=error("gone"))
    assert len(written()) == lines


def test_warnings_are_logged(configure):
    """A warning of Python is a line like all others."""
    lines = configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind the gap", stacklevel=1)
    [line] = lines()
    assert line["logger"] == "py.warnings"
    assert "mind the gap" in line["event"]


@pytest.mark.parametrize(
    ("level", "expected"),
    (
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ),
)
def test_levels(configure, level, expected):
    """Our lines below the level are not written."""
    lines = configure(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(ours(), name)("it.happened")
    assert [line["level"] for line in lines()] == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    (
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ),
)
def test_levels_of_libraries(configure, level, expected):
    """Libraries say what is wrong; what is right they say on `debug` only."""
    lines = configure(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("kopf.objects"), name)("It happened.")
    assert [line["level"] for line in lines()] == expected


class Access:
    """Something that no one thought of as text."""

    def __repr__(self):
        return "Access(url='nats://user:hidden@a')"


SECRETS = (
    {"server": "nats://user:hidden@a:4222"},
    {"server": "nats://hidden@a:4222"},
    {"servers": ["nats://a:4222", "tls://user:hid@den@b:4222"]},
    {"servers": "nats://u:hidden@a:4222,nats://u:hidden@b:4222"},
    {"password": "hidden"},
    {"nats_token": "hidden"},
    {"headers": {"Authorization": "hidden"}},
    {"options": {"tls": [{"client-secret": "hidden"}]}},
    {"seed": b"hidden"},
    {"text": f"the seed is {SEED}."},
    {"text": f"the token is {TOKEN}."},
    {"text": "Authorization: Bearer hidden"},
    {"problem": ValueError("nats://user:hidden@a:4222")},
    {"access": Access()},
)


@pytest.mark.parametrize("form", ("json", "text"))
@pytest.mark.parametrize("fields", SECRETS)
def test_credentials_never_appear(configure, form, fields):
    """Neither under a telling name, nor in the middle of a text, at any depth, in any object."""
    lines = configure(form)
    ours().info("it.happened", **fields)
    [line] = map(str, lines())
    assert "***" in line
    assert not re.search(f"hidden|den@|{SEED}|{TOKEN}", line)


@pytest.mark.parametrize("level", ("info", "debug"))
@pytest.mark.parametrize("text", ("nats://user:hidden@a:4222", SEED, TOKEN, "Bearer hidden"))
def test_credentials_in_messages_and_exceptions_never_appear(configure, level, text):
    """What a library writes is looked at as well, and so is a traceback."""
    lines = configure(level=level)
    try:
        int(text)
    except ValueError:
        logging.getLogger("nats").exception("failed: %s\n%s", text, text)
    [line] = map(str, lines())
    assert line.count("***") >= 3
    assert text not in line


@pytest.mark.parametrize(
    "harmless",
    (
        {"token": 4711},
        {"password_file": "/run/secrets/password"},
        {"server": "nats://a:4222"},
        {"text": "to admin@example.com"},
        {"holder": "7f3a91c2/shop/billing-6f9-abcde"},
        {"missing": None, "ready": True, "seconds": 1.5},
    ),
)
def test_what_is_no_credential_appears(configure, harmless):
    """A fencing token is a number and no secret; nor is the name of a file."""
    lines = configure()
    ours().info("it.happened", **harmless)
    [line] = lines()
    assert harmless.items() <= line.items()


@pytest.mark.parametrize("logger", (ours(), logging.getLogger("kopf.objects")))
def test_an_exception_is_its_type_and_message(configure, logger):
    """Nobody is shown a traceback who did not ask for it."""
    lines = configure()
    try:
        _ = {}["key"]
    except KeyError as error:
        logger.exception("it.failed")
        logger.warning("it.failed", exc_info=error)
        logger.warning("it.failed", exc_info=True, stack_info=True)
    written = lines()
    assert [line["error"] for line in written] == ["KeyError: 'key'"] * 3
    for line in written:
        assert "exception" not in line
        assert "Traceback" not in json.dumps(line)
        assert "stack" not in json.dumps(line)


@pytest.mark.parametrize("logger", (ours(), logging.getLogger("kopf.objects")))
def test_a_traceback_is_a_field_on_debug(configure, logger):
    """On `debug` it is there, in a field of its own."""
    lines = configure(level="debug")
    try:
        _ = {}["key"]
    except KeyError:
        logger.exception("it.failed")
    [line] = lines()
    assert line["event"] == "it.failed"
    assert line["error"] == "KeyError: 'key'"
    assert line["exception"].startswith("Traceback (most recent call last):\n")


async def test_an_exception_in_the_loop_is_a_line(configure):
    """What nobody caught is one line of asyncio's."""
    lines = configure()
    asyncio.get_running_loop().call_soon(int, "x")
    await asyncio.sleep(0)
    [line] = lines()
    assert line["logger"] == "asyncio"
    assert line["event"].startswith("Exception in callback int(")
    assert line["error"].startswith("ValueError: invalid literal")


def test_text(configure):
    """Text has the same in one line: time, level, event, fields."""
    lines = configure("text")
    ours().info("nats.connected", server="nats://a:4222")
    [line] = lines()
    assert re.match(
        r"\d{4}-\S+Z \[info     \] nats.connected +\[incumbent.nats.connection\] server=", line
    )
    assert "\x1b" not in line


def test_fields_of_a_task_are_on_its_lines(configure):
    """What was bound for a task is on every line that it writes."""
    lines = configure()
    with structlog.contextvars.bound_contextvars(namespace="shop", name="billing"):
        ours().info("it.happened")
    [line] = lines()
    assert (line["namespace"], line["name"]) == ("shop", "billing")


def test_it_can_be_set_up_again(configure):
    """The last call counts, and nothing is written twice."""
    configure("text", "debug")
    lines = configure("json", "info")
    ours().debug("it.happened")
    ours().info("it.happened")
    [line] = lines()
    assert line["level"] == "info"


HOSTILE = "a\x1b[2J\n2026-11-24T12:00:00Z [info] forged\x9b\u202eb"


@pytest.mark.parametrize("level", ("info", "debug"))
def test_text_of_others_is_escaped_for_people(configure, level):
    """A holder, a bucket or an answer neither reaches the terminal as a command nor is a line."""
    lines = configure("text", level)
    error = ValueError(HOSTILE)
    ours().warning(
        HOSTILE, holder=HOSTILE, peers=[HOSTILE], more={HOSTILE: HOSTILE}, exc_info=error
    )
    logging.getLogger("nats").warning("%s", HOSTILE)
    written = lines()
    assert all(line == display.line(line) for line in written)
    assert len([line for line in written if line.startswith("2026-11-24")]) == 0
    assert sum("forged" in line and line[:1].isdigit() for line in written) == 2


def test_text_of_others_is_exact_for_programs(configure):
    """JSON has escapes of its own."""
    lines = configure("json", "info")
    ours().warning("seen", holder=HOSTILE)
    [line] = lines()
    assert line["holder"] == HOSTILE


class Lines:
    """Lines of log records through a limit, at a time that the test sets."""

    def __init__(self):
        self.now = 0.0
        self._limit = logs.Limit(clock=lambda: self.now)

    def write(
        self, times, event="election.won", *, logger="incumbent.campaigner.campaigner", **fields
    ):
        """Write lines; return the fields of those that came through."""
        messages = [{"event": event, **fields} for _ in range(times)]
        records = [logging.makeLogRecord({"name": logger, "msg": msg}) for msg in messages]
        return [record.msg for record in records if self._limit.filter(record)]


def test_a_namespace_writes_so_many_lines_and_no_more():
    """One that flaps for an hour has its burst and its rate, not a line for each change."""
    lines, written = Lines(), 0
    for lines.now in range(3600):
        written += len(lines.write(50, namespace="shop"))
    assert written == pytest.approx(logs.BURST + 3600 * logs.RATE, rel=0.01)


def test_a_line_says_how_many_before_it_were_suppressed():
    lines = Lines()
    lines.write(logs.BURST + 7, namespace="shop")
    lines.now = 1.0
    first, second = lines.write(2, namespace="shop")
    assert first["suppressed"] == 7
    assert "suppressed" not in second


@pytest.mark.parametrize(
    "fields", ({"namespace": "shop"}, {"election": "shop/billing"}, {"key": "shop.billing"})
)
def test_lines_of_other_namespaces_and_of_the_operator_are_written_all_the_same(fields):
    lines = Lines()
    assert len(lines.write(logs.BURST + 1, **fields)) == logs.BURST
    assert not lines.write(1, "pass.failed", namespace="shop")
    assert lines.write(1, namespace="bank")
    assert lines.write(1, "nats.unreachable", logger="incumbent.nats.connection")


def test_an_event_that_names_no_namespace_is_limited_on_its_own():
    """Such as one line for each bucket that somebody invents."""
    lines = Lines()
    assert len(lines.write(logs.BURST + 1, "bucket.problem", bucket="x")) == logs.BURST
    assert lines.write(1, "nats.connected")


def test_a_library_is_limited_whatever_it_says():
    """Such as the HTTP server about requests of strangers."""
    limit = logs.Limit(clock=lambda: 0.0)
    records = [
        logging.makeLogRecord({"name": "aiohttp.server", "msg": f"Bad request {number}"})
        for number in range(logs.BURST + 1)
    ]
    assert sum(map(limit.filter, records)) == logs.BURST


def test_what_is_configured_is_limited(configure, monkeypatch):
    monkeypatch.setattr(logs, "RATE", 1e-9)  # the test may take seconds
    lines = configure()
    for _ in range(logs.BURST + 10):
        ours().info("election.won", namespace="shop")
    assert len(lines()) == logs.BURST


def test_debugging_is_not_limited(configure):
    lines = configure(level="debug")
    for _ in range(logs.BURST + 10):
        ours().info("election.won", namespace="shop")
    assert len(lines()) == logs.BURST + 10
