"""What the shell is offered, with a program in the place of kubectl that notes how it is called."""

import sys
from pathlib import Path

import pytest

from incumbent.kubectl import completion

ELECTIONS = "billing\tpod billing-1 leads\nweb\t\n"
ANSWERS = {
    "get leaderelections": ELECTIONS,
    "get leaderelection billing": "incumbent.dev/billing",
    "get pods": "billing-1\tleader\nbilling-2\tcandidate\n",
    "get namespaces": "namespace/default\nnamespace/shop\n",
    "config get-contexts": "kind-a\nkind-b\n",
    "config get-clusters": "NAME\ncluster-a\n",
    "config get-users": "NAME\nuser-a\n",
}
PROGRAM = """#!{python}
import sys
from pathlib import Path

words = [word for word in sys.argv[1:] if not word.startswith("-")]
with Path({log!r}).open("a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
sys.stdout.write({answers!r}.get(" ".join(words), ""))
"""


@pytest.fixture
def kubectl(monkeypatch, tmp_path):
    """Put the program first in the PATH, and return the file with its calls."""
    program, log = tmp_path / "kubectl", tmp_path / "log"
    program.write_text(PROGRAM.format(python=sys.executable, log=str(log), answers=ANSWERS))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return log


def complete(*words):
    """Return the candidates."""
    return [item.value for item in completion.candidates(words)]


@pytest.mark.parametrize(
    ("words", "candidates"),
    (
        (("s",), ["status", "step-down", "suspend"]),
        (("who", ""), ["billing", "web"]),
        (("who", "w"), ["web"]),
        (("who", "-n", ""), ["default", "shop"]),
        (("who", "--namespace=s"), ["shop"]),
        (("-n", "s"), ["shop"]),
        (("who", "--context", ""), ["kind-a", "kind-b"]),
        (("who", "--cluster", ""), ["cluster-a"]),
        (("who", "--user", ""), ["user-a"]),
        (("who", "billing", "-o", "n"), ["name"]),
        (("step-down", "billing", "--to", ""), ["billing-1", "billing-2"]),
        (("step-down", "--to", ""), []),
        (("wait", "billing", "--for", "l"), ["leader", "leader="]),
        (("wait", "billing", "--for", "leader="), ["leader=billing-1", "leader=billing-2"]),
        (("step-down", "billing", "--dry-run", ""), ["none", "client", "server"]),
        (("step-down", "billing", "--dry"), ["--dry-run"]),
    ),
)  # fmt: skip
def test_candidates(kubectl, words, candidates):
    """Commands, flags and their values, elections, pods, namespaces and contexts are offered."""
    assert complete(*words) == candidates


def test_kubectl_is_asked_with_the_same_access(kubectl):
    """The connection flags are passed on, wherever they stand, and no request takes long."""
    complete("--kubeconfig", "f", "-n", "shop", "who", "--as", "me", "--as-group", "us", "")
    (call,) = kubectl.read_text().splitlines()
    for flag in (
        "--kubeconfig=f", "--namespace=shop", "--as=me", "--as-group=us", "--request-timeout=2s",
    ):  # fmt: skip
        assert flag in call.split()


def run(capsys, monkeypatch, *words):
    """Run the program, and return its lines."""
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-incumbent", *words])
    completion.run()
    return capsys.readouterr().out.splitlines()


def test_the_protocol(kubectl, capsys, monkeypatch):
    """A candidate a line, with a tab before its description; then what the shell may do."""
    assert run(capsys, monkeypatch, "who", "") == ["billing\tpod billing-1 leads", "web", ":4"]


def test_files_are_offered_where_files_are_asked_for(capsys, monkeypatch):
    """Then the shell completes them by itself."""
    assert run(capsys, monkeypatch, "who", "--kubeconfig", "") == [":0"]


@pytest.mark.parametrize("words", (("who", ""), ("who", "--context", ""), ("who", "-n", "")))
def test_without_kubectl_nothing_is_offered(monkeypatch, capsys, tmp_path, words):
    """Neither a traceback nor a message disturbs the command line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(capsys, monkeypatch, *words) == [":4"]


def test_a_kubectl_that_fails_offers_nothing(monkeypatch, tmp_path):
    """As without a cluster."""
    program = Path(tmp_path / "kubectl")
    program.write_text("#!/bin/sh\necho half-\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert complete("who", "") == []


@pytest.mark.parametrize("words", ((), ("nonsense", ""), ("who", "a", "b", "c", ""), ("--x", "")))
def test_nonsense_is_no_traceback(kubectl, capsys, monkeypatch, words):
    """Whatever was typed, the last line is the directive."""
    assert run(capsys, monkeypatch, *words)[-1] == ":4"
