"""`kubectl_complete-incumbent`, the program that completes command lines for kubectl.

kubectl runs it with the words after `kubectl incumbent`. The last word may be incomplete. The
program prints one completion on each line, with an optional description after a tab. The last line
is a colon and a number that says what else the shell may offer (`pkg/cmd/plugin_completion.go`).

The program runs kubectl to read the cluster. kubectl is installed and has the right credentials,
and it answers faster than the Python client of Kubernetes can be imported.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete

from incumbent import terminal
from incumbent.validation import DOMAIN

NO_FILES = 4
"""cobra's `ShellCompDirectiveNoFileComp`: do not offer files where there are no candidates."""
FILES = 0

WITHIN = "2s"
"""Time limit of one request. A user who presses the tabulator key does not wait long."""

_FLAGS = {
    "kubeconfig": "--kubeconfig",
    "context": "--context",
    "cluster": "--cluster",
    "user": "--user",
    "server": "--server",
    "token": "--token",
    "certificate_authority": "--certificate-authority",
    "tls_server_name": "--tls-server-name",
    "as_user": "--as",
    "as_uid": "--as-uid",
    "namespace": "--namespace",
}

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def from_cluster(what: str) -> Complete:
    """Return a completer for names of `elections`, `namespaces`, or `pods` that may lead."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        access = _access(ctx)
        if what == "pods":
            return _pods(ctx, access, incomplete)
        if what == "namespaces":
            return _named(_ask("get", "namespaces", "-o=name", *access), incomplete)
        form = '{range .items[*]}{.metadata.name}{"\\t"}'
        form += '{.status.conditions[?(@.type=="Ready")].message}{"\\n"}{end}'
        return _named(_ask("get", "leaderelections", f"-o=jsonpath={form}", *access), incomplete)

    return complete


def from_kubeconfig(what: str) -> Complete:
    """Return a completer for names of `contexts`, `clusters` or `users`."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        file = _given(ctx, "kubeconfig")
        access = [f"--kubeconfig={file}"] if file else []
        arguments = ["-o=name"] if what == "contexts" else []
        lines = _ask("config", f"get-{what}", *arguments, *access)
        return _items(lines if arguments else lines[1:], incomplete)  # the other lists have a title

    return complete


def candidates(words: Sequence[str]) -> list[CompletionItem]:
    """Return the completions of the last word after `kubectl incumbent`."""
    from incumbent.kubectl.main import main  # noqa: PLC0415  # it imports this module
    from incumbent.kubectl.options import PROGRAM  # noqa: PLC0415

    *before, incomplete = words or [""]
    return ShellComplete(main, {}, PROGRAM, "").get_completions(before, incomplete)


def run() -> None:
    """Run the program `kubectl_complete-incumbent`."""
    found = candidates(sys.argv[1:])
    files = any(item.type == "file" for item in found)
    for item in found:
        if item.type == "plain":
            about = " ".join((item.help or "").split())
            terminal.show_candidate(item.value, about)
    terminal.show(f":{FILES if files else NO_FILES}")


def _pods(ctx: click.Context, access: list[str], incomplete: str) -> list[CompletionItem]:
    """Complete the pods that carry the label of the election named before them."""
    # A flag that still lacks its value keeps click from giving the arguments their names.
    name = ctx.params.get("name") or next(iter(ctx.args), "")
    if not name:
        return []
    prefix = "leader=" if ctx.command.name == "wait" else ""
    if not incomplete.startswith(prefix):
        return _items(["leader", "leader="], incomplete)
    label = _ask("get", "leaderelection", name, "-o=jsonpath={.status.labelKey}", *access)
    if not label:
        return []
    form = '{range .items[*]}{.metadata.name}{"\\t"}{.metadata.labels.'
    form += label[0].replace(".", "\\.") + '}{"\\n"}{end}'
    lines = _ask("get", "pods", f"--selector={label[0]}", f"-o=jsonpath={form}", *access)
    return _items([prefix + line for line in lines], incomplete)


def _named(lines: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Return the names of objects. Messages with a line feed lead to other lines, too."""
    found = _items(lines, incomplete)
    return [item for item in found if re.fullmatch(DOMAIN, item.value)]


def _items(lines: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Return the completions from lines, with a kind before or a text after each name."""
    items = []
    for line in lines:
        name, _, about = line.partition("\t")
        value = name.rpartition("/")[2].strip()
        if value.startswith(incomplete):
            items.append(CompletionItem(value, help=about or None))
    return items


def _ask(*arguments: str) -> list[str]:
    """Return the lines that kubectl prints; an empty list if it fails."""
    try:
        done = subprocess.run(  # noqa: S603  # the user's own kubectl, without a shell
            ["kubectl", f"--request-timeout={WITHIN}", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _access(ctx: click.Context) -> list[str]:
    """Return the connection flags for kubectl."""
    flags = [f"{flag}={given}" for name, flag in _FLAGS.items() if (given := _given(ctx, name))]
    flags += [f"--as-group={group}" for group in _given(ctx, "as_groups") or ()]
    if _given(ctx, "insecure_skip_tls_verify"):
        flags.append("--insecure-skip-tls-verify")
    return flags


def _given(ctx: click.Context, name: str) -> Any:
    """Return a flag's value, given before or after the command."""
    found: Any = None
    where: click.Context | None = ctx
    while where is not None and not found:
        found = where.params.get(name)
        where = where.parent
    return found
