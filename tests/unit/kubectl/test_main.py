"""The command line of the plugin, before anything is asked of a server."""

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from incumbent.kubectl import client
from incumbent.kubectl import main as cli
from incumbent.kubectl import options as kubectl_options
from incumbent.kubectl.printing import now

OPERATOR = Path(cli.__file__).parents[2]
LONG_IMPORTS = {"aiohttp", "kopf", "kubernetes", "nats", "prometheus_client", "structlog", "yaml"}


@pytest.fixture
def called(monkeypatch):
    """Return a function that calls the plugin, and returns what reaches the client."""
    calls = []

    def run(work, connection, options):
        calls.append((work.__name__, connection, options))
        return 0

    monkeypatch.setattr(client, "run", run)

    def call(*arguments):
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        [(name, connection, options)] = calls
        return name, {flag: value for flag, value in connection.items() if value}, options

    return call


def refused(*arguments, code=2):
    """Call the plugin with what it refuses, and return the sentence."""
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("Error: ")
    return sentence.removeprefix("Error: ")


@pytest.mark.parametrize(
    "arguments", (("--help",), ("--version",), *((name, "--help") for name in cli.COMMANDS))
)
def test_help_imports_little(arguments):
    """Neither kubernetes nor nats is imported to say what a command does."""
    code = (
        "import json, sys\n"
        "from incumbent.kubectl.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(json.dumps([*sys.modules]))\n"
    )
    assert not imported(code, *arguments) & LONG_IMPORTS


@pytest.mark.parametrize(
    "words", ((), ("",), ("step-down", "--"), *((name, "--") for name in cli.COMMANDS))
)
def test_completion_imports_little(words):
    """Commands and flags are completed before any client of a server could be imported."""
    code = (
        "import json, sys\n"
        "from incumbent.kubectl.completion import run\n"
        "run()\n"
        "print(json.dumps([*sys.modules]))\n"
    )
    assert not imported(code, *words) & LONG_IMPORTS


def imported(code, *arguments):
    """Run Python code whose last line of output is a list of modules."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, cwd=OPERATOR,
    )  # fmt: skip
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_help_lists_the_commands():
    """Every command of the table is listed, under the name that people type."""
    help_text = CliRunner().invoke(cli.main, ["--help"], prog_name=kubectl_options.PROGRAM).output
    words = " ".join(help_text.split())
    assert words.startswith("Usage: kubectl incumbent ")
    for name, (_, text) in cli.COMMANDS.items():
        assert f" {name} {text}" in words


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists(name):
    """Each one says what it does, with examples, and takes kubectl's connection flags."""
    result = CliRunner().invoke(cli.main, [name, "--help"], prog_name=kubectl_options.PROGRAM)
    assert result.exit_code == 0
    assert f"Usage: kubectl incumbent {name} " in result.output
    assert f"Examples:\n    kubectl incumbent {name}" in result.output
    assert "--request-timeout" in result.output


def test_entry_points():
    """What is installed as a program exists."""
    project = tomllib.loads((OPERATOR.parent / "pyproject.toml").read_text())["project"]
    for name in ("kubectl-incumbent", "kubectl_complete-incumbent"):
        module, _, function = project["scripts"][name].partition(":")
        assert callable(getattr(import_module(module), function))


def test_connection_flags_reach_the_client(called):
    """Each flag of kubectl has its place."""
    _, connection, _ = called(
        "who", "billing", "-n", "shop", "--kubeconfig", "/a:/b", "--context", "c", "--cluster", "k",
        "--user", "u", "-s", "https://h", "--token", "t", "--certificate-authority", __file__,
        "--insecure-skip-tls-verify", "--tls-server-name", "n", "--as", "a", "--as-group", "g",
        "--as-group", "h", "--as-uid", "1", "--request-timeout", "1m",
    )  # fmt: skip
    assert connection == {
        "namespace": "shop", "kubeconfig": "/a:/b", "context": "c", "cluster": "k", "user": "u",
        "server": "https://h", "token": "t", "certificate_authority": Path(__file__),
        "insecure_skip_tls_verify": True, "tls_server_name": "n", "as_user": "a",
        "as_groups": ("g", "h"), "as_uid": "1", "request_timeout": 60.0,
    }  # fmt: skip


def test_connection_flags_before_the_command(called):
    """They may stand before the command, and those behind it win."""
    _, connection, _ = called("-n", "a", "--context", "c", "who", "billing", "-n", "b")
    assert connection == {"namespace": "b", "context": "c"}


@pytest.mark.parametrize(
    "text",
    (
        "billing",
        "leaderelection/billing",
        "lelec/billing",
        "leaderelection.incumbent.dev/billing",
        "leaderelections.incumbent.dev/billing",
    ),
)
def test_names_as_kubectl_prints_them(called, text):
    """What `-o name` printed can be given back."""
    assert called("who", text)[2]["name"] == "billing"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (("who", "a/b"), "'a/b' is not the name of a LeaderElection"),
        (("who", "../x"), "'../x' is not the name of a LeaderElection"),
        (("who", "A"), "'A' is not the name of a LeaderElection"),
        (("who",), "Missing argument 'NAME'"),
        (("who", "a", "b"), "unexpected extra argument (b)"),
        (("who", "a", "-n", "B"), "'B' is not the name of a namespace"),
        (("who", "a", "-o", "wide"), "'wide' is not one of"),
        (("who", "a", "--as-group", "g"), "--as-group and --as-uid need --as"),
        (("who", "a", "--certificate-authority", "/no"), "'/no' does not exist"),
        (("who", "a", "--request-timeout", "soon"), "'soon' is not a duration"),
        (("wait", "a"), "Missing option '--for'"),
        (("wait", "a", "--for", "condition=Ready"), "write --for leader, or --for leader=POD"),
        (("wait", "a", "--for", "leader="), "write --for leader, or --for leader=POD"),
        (("wait", "a", "--for", "leader=A/B"), "'A/B' is not the name of a pod"),
        (("step-down", "a", "--to", "../x"), "'../x' is not the name of a pod"),
        (("step-down", "a", "--dry-run", "yes"), "'yes' is not one of"),
        (("suspend", "a", "--timeout", "1s"), "No such option '--timeout'"),
        (("doctor", "--service-account", "x"), "NAMESPACE/NAME"),
        (("who", "a", "--kubeconfig", "/no/such"), "The kubeconfig /no/such does not exist"),
        (
            ("doctor", "--nats-user", "u", "--server", "https://127.0.0.1:1"),
            "--nats-user and --nats-password-file must be given together.",
        ),
        (("leave",), "No such command 'leave'"),
    ),
)
def test_what_cannot_work_is_refused_with_a_sentence(arguments, sentence, monkeypatch, tmp_path):
    """The exit code is 2, and the last line on standard error says what is wrong."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert sentence in refused(*arguments)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS.keys() - {"doctor", "history"}))
def test_an_api_server_that_is_away_is_a_sentence(name, monkeypatch, tmp_path):
    """Whatever is asked, one sentence says that nobody answers, and the exit code is 1."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    more = ("--for", "leader") if name == "wait" else ()
    sentence = refused(name, "billing", *more, "--server", "https://127.0.0.1:1", code=1)
    assert sentence.startswith("The API server cannot be reached: GET /apis/")


def test_now_has_a_time_zone():
    """Times are compared with those of the API server, which are in UTC."""
    assert now().utcoffset() is not None
