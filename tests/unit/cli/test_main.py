import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from incumbent import validation
from incumbent.cli import main as cli
from incumbent.errors import ConfigurationError
from incumbent.settings import Settings

OPERATOR = Path(cli.__file__).parents[1]
LONG_IMPORTS = {"aiohttp", "kopf", "kubernetes", "nats", "prometheus_client", "structlog"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Hide whatever the developer has set."""
    for name in [name for name in os.environ if name.startswith("INCUMBENT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings_of(monkeypatch):
    """Return a function that calls the operator and returns the settings that it is run with."""
    ran = []
    configured = []
    operation = SimpleNamespace(run=lambda settings, *, version: ran.append(settings) or 0)
    logs = SimpleNamespace(configure=lambda *args, **kwargs: configured.append((args, kwargs)))
    monkeypatch.setattr("incumbent.controller.process", operation, raising=False)
    monkeypatch.setitem(sys.modules, "incumbent.controller.process", operation)
    monkeypatch.setattr("incumbent.logs.configure", logs.configure)

    def call(*flags, **environment):
        result = CliRunner().invoke(cli.main, ["operator", *flags], env=environment)
        assert result.exit_code == 0, result.output
        [settings] = ran
        assert configured == [((settings.log_format,), {"level": settings.log_level})]
        return settings

    call.operation = operation
    return call


def refused(*flags, **environment):
    """Call the operator with what it refuses, and return the sentence."""
    result = CliRunner().invoke(cli.main, ["operator", *flags], env=environment)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


def test_without_flags_the_settings_are_the_defaults(settings_of):
    """The command line has no defaults of its own."""
    assert settings_of() == Settings()


CASES = (
    ("--nats-url", "tls://a:4222", {"nats_urls": ("tls://a:4222",)}),
    ("--nats-url", "a:4222", {"nats_urls": ("nats://a:4222",)}),
    ("--nats-url", "nats://u:p@a", {"nats_urls": ("nats://u:p@a",)}),
    ("--nats-url", "wss://[::1]:443/x", {"nats_urls": ("wss://[::1]:443/x",)}),
    ("--nats-creds", __file__, {"nats_creds": Path(__file__)}),
    ("--nats-nkey", __file__, {"nats_nkey": Path(__file__)}),
    ("--nats-token-file", __file__, {"nats_token_file": Path(__file__)}),
    ("--nats-tls-ca", __file__, {"nats_tls_ca": Path(__file__)}),
    ("--nats-domain", "hub", {"nats_domain": "hub"}),
    ("--nats-inbox-prefix", "_INBOX_ops.a", {"nats_inbox_prefix": "_INBOX_ops.a"}),
    ("--nats-connect-timeout", "500ms", {"nats_connect_timeout": 0.5}),
    ("--bucket-max-bytes", "64MiB", {"bucket_max_bytes": 64 * 2**20}),
    ("--bucket-max-bytes", "1Gi", {"bucket_max_bytes": 2**30}),
    ("--bucket-max-bytes", "65536", {"bucket_max_bytes": 65536}),
    ("--bucket", "B-1_b", {"bucket": "B-1_b"}),
    ("--bucket-ttl", "1m", {"bucket_ttl": 60.0}),
    ("--bucket-ttl", "10", {"bucket_ttl": 10.0}),
    ("--bucket-replicas", "3", {"bucket_replicas": 3}),
    ("--site", "east", {"site": "east"}),
    ("--replica", "incumbent-0", {"replica": "incumbent-0"}),
    ("--namespace", "shop", {"namespaces": ("shop",)}),
    ("--without-finalizer", "shop", {"without_finalizer": ("shop",)}),
    ("--label-prefix", "example.com", {"label_prefixes": ("example.com",)}),
    ("--label-prefix", "example.com/", {"label_prefixes": ("example.com",)}),
    ("--allow-lock", "shop/B/global.*", {"allow_locks": ("shop/B/global.*",)}),
    ("--max-elections-per-namespace", "0", {"max_elections_per_namespace": 0}),
    ("--http-address", "127.0.0.1:0", {"http_address": "127.0.0.1:0"}),
    ("--log-format", "text", {"log_format": "text"}),
    ("--log-level", "DEBUG", {"log_level": "debug"}),
    ("--kubeconfig", "/a:/b", {"kubeconfig": "/a:/b"}),
    ("--context", "kind-a", {"context": "kind-a"}),
)


@pytest.mark.parametrize(("flag", "value", "expected"), CASES)
def test_flags(settings_of, flag, value, expected):
    """Each flag reaches its setting."""
    assert settings_of(flag, value) == replace(Settings(), **expected)


@pytest.mark.parametrize(("flag", "value", "expected"), CASES)
def test_environment(settings_of, flag, value, expected):
    """Each flag can be a variable named after it."""
    name = "INCUMBENT_" + flag.removeprefix("--").replace("-", "_").upper()
    assert settings_of(**{name: value}) == replace(Settings(), **expected)


@pytest.mark.parametrize("flag", ("--nats-tls-first", "--create-bucket", "--release-on-exit"))
def test_switches(settings_of, flag):
    """Switches are off until they are given."""
    name = flag.removeprefix("--").replace("-", "_")
    assert settings_of(flag) == replace(Settings(), **{name: True})


@pytest.mark.parametrize(("value", "expected"), (("true", True), ("1", True), ("false", False)))
def test_switches_in_the_environment(settings_of, value, expected):
    """A switch in the environment has a value."""
    assert settings_of(INCUMBENT_CREATE_BUCKET=value).create_bucket is expected


def test_pairs(settings_of):
    """User and password, and certificate and key, go together."""
    settings = settings_of(
        "--nats-user", "u", "--nats-password-file", __file__,
        "--nats-tls-cert", __file__, "--nats-tls-key", __file__,
    )  # fmt: skip
    assert (settings.nats_user, settings.nats_password_file) == ("u", Path(__file__))
    assert settings.nats_tls_cert == settings.nats_tls_key == Path(__file__)


def test_lists_are_repeated_as_flags(settings_of):
    """A repeatable flag keeps the order in which it was given."""
    settings = settings_of("--nats-url", "nats://b", "--nats-url", "nats://a")
    assert settings.nats_urls == ("nats://b", "nats://a")


def test_lists_are_separated_by_commas_in_the_environment(settings_of):
    """Blanks and a comma at the end are no part of the list."""
    settings = settings_of(INCUMBENT_NAMESPACE="b, a,", INCUMBENT_LABEL_PREFIX="example.com")
    assert settings.namespaces == ("b", "a")
    assert settings.label_prefixes == ("example.com",)


def test_a_flag_wins_over_the_environment(settings_of):
    """What is typed counts more than what is inherited."""
    assert settings_of("--bucket", "A", INCUMBENT_BUCKET="B").bucket == "A"


def test_an_empty_variable_is_none(settings_of):
    """A manifest may set a variable to nothing."""
    assert settings_of(INCUMBENT_SITE="", INCUMBENT_NAMESPACE="") == Settings()


URL = "write it like nats://host:4222, with the scheme nats, tls, ws or wss"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    (
        (("--nats-url", "http://a"), URL),
        (("--nats-url", "nats://"), URL),
        (("--nats-url", "nats://a:b"), URL),
        (("--nats-url", "nats://a:99999"), URL),
        (("--nats-url", "nats://a,nats://b"), "give the flag once for each"),
        (("--nats-creds", "/no/such"), "'/no/such' does not exist"),
        (("--nats-creds", "/"), "is a directory"),
        (("--nats-nkey", "/no/such"), "'/no/such' does not exist"),
        (("--nats-token-file", "/no/such"), "'/no/such' does not exist"),
        (("--nats-tls-ca", "/no/such"), "'/no/such' does not exist"),
        (("--nats-user", "u"), "--nats-user and --nats-password-file must be given together."),
        (
            ("--nats-password-file", __file__),
            "--nats-user and --nats-password-file must be given together.",
        ),
        (("--nats-tls-cert", __file__), "--nats-tls-cert and --nats-tls-key must be given"),
        (("--nats-tls-key", __file__), "--nats-tls-cert and --nats-tls-key must be given"),
        (
            ("--nats-creds", __file__, "--nats-token-file", __file__),
            "only one way to log in to NATS: give --nats-creds or --nats-token-file, not both.",
        ),
        (
            ("--nats-url", "nats://u:hidden@a", "--nats-nkey", __file__),
            "give --nats-nkey or a user in --nats-url, not both.",
        ),
        (
            ("--nats-creds", __file__, "--nats-token-file", __file__, "--nats-nkey", __file__),
            "give one of --nats-creds, --nats-nkey, --nats-token-file.",
        ),
        (("--nats-domain", "a.b"), "'a.b' is not a valid name"),
        *(
            (("--nats-inbox-prefix", prefix), f"{prefix!r} is not a prefix of inboxes")
            for prefix in ("a.>", "a.*", "a.", ".a", "a b", "a..b", ">")
        ),
        (("--nats-connect-timeout", "0"), "it must be from 0.1 to 60 seconds"),
        (("--nats-connect-timeout", "2m"), "it must be from 0.1 to 60 seconds"),
        (("--nats-connect-timeout", "soon"), "'soon' is not a duration"),
        (("--bucket-max-bytes", "64MB"), "'64MB' is not a size; write it like 64MiB"),
        (("--bucket-max-bytes", "-1"), "'-1' is not a size"),
        (("--bucket-max-bytes", "64"), "64 is too small for a bucket; it must be at least 64KiB"),
        (("--bucket", "a.b"), "letters, digits, '-' and '_'"),
        (("--bucket-ttl", "soon"), "'soon' is not a duration; write it like 30s"),
        (("--bucket-ttl", "500ms"), "it must be from 1 second to 1 hour"),
        (("--bucket-ttl", "2h"), "it must be from 1 second to 1 hour"),
        (("--bucket-replicas", "2"), "'2' is not one of '1', '3', '5'"),
        (("--site", "a/b"), "'a/b' is not a valid name"),
        (("--replica", "a b"), "'a b' is not a valid name"),
        (("--namespace", "A"), "'A' is not the name of a namespace"),
        (("--namespace", "a,b"), "Give the flag once for each."),
        (("--label-prefix", "Example"), "write a domain name, like example.com"),
        (("--label-prefix", "a/b"), "write a domain name, like example.com"),
        (("--label-prefix", "a." * 126 + "bc"), "write a domain name, like example.com"),
        (("--label-prefix", "kubernetes.io"), "'kubernetes.io' belongs to Kubernetes"),
        (("--label-prefix", "apps.k8s.io/"), "'apps.k8s.io/' belongs to Kubernetes"),
        (("--http-address", "8080"), "write it like :8080, 127.0.0.1:8080 or [::1]:8080"),
        (("--log-format", "xml"), "'xml' is not one of 'json', 'text'"),
        (("--log-level", "loud"), "'loud' is not one of"),
        (("--nats-ulr", "nats://a"), "No such option '--nats-ulr'"),
        (("nats://a",), "unexpected extra argument"),
    ),
)
def test_what_cannot_work_is_refused_with_a_sentence(flags, sentence):
    """The exit code is 2, and the last line on standard error says what to do."""
    refusal = refused(*flags)
    assert sentence in refusal
    assert "hidden" not in refusal


def test_a_refusal_names_the_variable(settings_of):
    """Who set a variable is not left to look for a flag."""
    assert "'INCUMBENT_BUCKET_TTL'" in refused(INCUMBENT_BUCKET_TTL="soon")


@pytest.mark.parametrize("value", (",", " ", " , "))
@pytest.mark.parametrize("name", ("INCUMBENT_NATS_URL", "INCUMBENT_NAMESPACE"))
def test_a_list_of_nothing_is_refused(name, value):
    """No list at all would mean all namespaces; whoever sets a variable means something."""
    assert name in refused(**{name: value})


@pytest.mark.parametrize(
    "url",
    (
        "http://u:hidden@a",
        "nats://u:hid/den@a:b",
        "u:hidden@",
        "nats://u:hidden@a:b",
        "nats://u:hid@den@a",
        "nats://u:12/hidden@a",
        "nats://u:hidden",
    ),
)
def test_a_refused_url_does_not_show_its_password(url):
    """Nothing of it is repeated, for nobody knows where its password ends."""
    for refusal in (refused("--nats-url", url), refused(INCUMBENT_NATS_URL=url)):
        assert "This is not the URL of a NATS server: " in refusal
        assert "hid" not in refusal


@pytest.mark.parametrize(
    "urls", (("nats://u:hidden@a", "nats://b"), ("nats://u:hidden@a", "nats://u:hid@b"))
)
def test_servers_with_different_logins_are_refused(urls):
    """A server that NATS names would get any of them."""
    refusal = refused(*(f"--nats-url={url}" for url in urls))
    assert "have different logins, or only some of them have one: give the same" in refusal
    assert "hid" not in refusal


@pytest.mark.parametrize("value", ("nats://u:hid,den@a", "nats://u:12,hidden@a", "tok,hidden@a"))
def test_a_comma_in_a_password_does_not_make_two_servers(value):
    """The variable is a list, and neither part of such a password is used."""
    refusal = refused(INCUMBENT_NATS_URL=value)
    assert "hid" not in refusal
    assert "den" not in refusal


@pytest.mark.parametrize("flag", (f"--nats-tls-ca={__file__}", "--nats-tls-first"))
def test_tls_that_a_url_cannot_have_is_refused(flag):
    """Who asks for TLS is not sent through a websocket without."""
    assert "write wss, or give no flag for TLS" in refused("--nats-url=ws://a", flag)


def test_what_cannot_work_is_a_sentence_later_too(settings_of):
    """An error in the configuration that only the running operator finds ends it the same way."""

    def run(_, *, version):
        msg = "Cannot listen at :1: Permission denied."
        raise ConfigurationError(msg)

    settings_of.operation.run = run
    result = CliRunner().invoke(cli.main, ["operator"])
    assert result.exit_code == 2
    assert result.stderr == "Error: Cannot listen at :1: Permission denied.\n"


def test_the_exit_code_is_that_of_the_operator(settings_of):
    """Whatever the operator returns is what the shell sees."""
    settings_of.operation.run = lambda _, *, version: 7
    assert CliRunner().invoke(cli.main, ["operator"]).exit_code == 7


@pytest.mark.parametrize(
    ("text", "seconds"),
    (
        ("30s", 30.0),
        ("1m", 60.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("30", 30.0),
        ("0", 0.0),
    ),
)
def test_durations(text, seconds):
    """Durations are written as in Go; a plain number is one of seconds."""
    assert validation.duration(text) == seconds


@pytest.mark.parametrize("text", ("", "s", "-1s", "1 s", "1d", "1s30", "1m30", ".5s", "1e3", "inf"))
def test_what_is_no_duration(text):
    """Everything else is refused, also what could be guessed."""
    with pytest.raises(ConfigurationError, match="not a duration"):
        validation.duration(text)


@pytest.mark.parametrize("arguments", (("--help",), ("operator", "--help"), ("--version",)))
def test_help_and_version_import_little(arguments):
    """Neither kopf nor nats nor kubernetes is imported to say what the program does."""
    code = (
        "import json, sys\n"
        "from incumbent.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(json.dumps([*sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, cwd=OPERATOR,
    )  # fmt: skip
    imported = set(json.loads(result.stdout.splitlines()[-1]))
    assert not imported & LONG_IMPORTS


@pytest.mark.parametrize("arguments", (("--version",), ("operator", "--version")))
def test_version(arguments):
    """Program and command say the version alike."""
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0
    assert result.output == f"incumbent {cli.version()}\n"


@pytest.fixture(params=("1.2.3", None))
def installed(request, monkeypatch):
    """Install another version of the package, or none, and return what `--version` says of it."""

    def version(_):
        if request.param is None:
            raise PackageNotFoundError
        return request.param

    monkeypatch.setattr("importlib.metadata.version", version)
    return request.param or "(not installed)"


def test_the_operator_is_told_the_version(installed, settings_of):
    """It says the same one as `--version`, and runs from a checkout that is not installed, too."""
    told = []
    settings_of.operation.run = lambda _, *, version: told.append(version) or 0
    result = CliRunner().invoke(cli.main, ["operator"])
    assert result.exit_code == 0, result.output
    assert told == [installed]
    assert CliRunner().invoke(cli.main, ["--version"]).output == f"incumbent {installed}\n"


def test_help_lists_the_commands():
    """Every command of the table is listed, with examples above."""
    help_text = CliRunner().invoke(cli.main, ["--help"]).output
    words = " ".join(help_text.split())
    for name, (_, text) in cli.COMMANDS.items():
        assert f" {name} {text}" in words
    assert "  Examples:\n    incumbent operator --nats-url" in help_text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists(name):
    """The table names commands that can be imported and say what they do."""
    result = CliRunner().invoke(cli.main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: main {name}" in result.output


def test_an_unknown_command_is_refused():
    """A misspelt command is a bad argument."""
    result = CliRunner().invoke(cli.main, ["operate"])
    assert result.exit_code == 2
    assert "No such command 'operate'" in result.stderr


def test_every_setting_has_a_flag_and_a_variable():
    """What can be set can be set by either, and the help says so."""
    help_text = CliRunner().invoke(cli.main, ["operator", "--help"], terminal_width=200).output
    for field in fields(Settings):
        [option] = [p for p in cli.operator.params if p.name == field.name]
        flag = option.opts[0].removeprefix("--")
        variable = "INCUMBENT_" + flag.replace("-", "_").upper()
        assert option.envvar == variable
        assert variable in help_text


def test_the_package_can_be_run():
    """`python -m incumbent` is the same program."""
    result = subprocess.run(
        [sys.executable, "-m", "incumbent", "--version"],
        capture_output=True, text=True, check=True, cwd=OPERATOR,
    )  # fmt: skip
    assert result.stdout == f"incumbent {cli.version()}\n"
