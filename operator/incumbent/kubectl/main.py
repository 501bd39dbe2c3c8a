"""The plugin's command line.

As in `incumbent.cli.main`, each `--help` and each completion takes the time of the imports here and
in the modules of the commands. Therefore these import neither kubernetes nor nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import click

from incumbent.cli.main import Commands, shown_version
from incumbent.kubectl.options import PROGRAM, SETTINGS, connection_flags

COMMANDS = {
    "status": ("incumbent.kubectl.status:status", "Show all about one election on one screen."),
    "who": ("incumbent.kubectl.who:who", "Print the pod that leads."),
    "wait": ("incumbent.kubectl.who:wait", "Wait until a pod leads."),
    "step-down": ("incumbent.kubectl.change:step_down", "Ask the leader to let another pod lead."),
    "suspend": ("incumbent.kubectl.change:suspend", "Let nobody lead until it is resumed."),
    "resume": ("incumbent.kubectl.change:resume", "End a suspension."),
    "history": ("incumbent.kubectl.history:history", "List who led before, and why no longer."),
    "doctor": (
        "incumbent.kubectl.doctor.command:doctor",
        "Look for what is wrong, and say what to do.",
    ),
}
"""Each command's name, the place of its `click.Command`, and its short description."""


class Plugin(Commands):
    """The commands of the plugin."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = COMMANDS


@click.group(cls=Plugin, context_settings=SETTINGS)
@connection_flags
@shown_version()
@click.pass_context
def main(context: click.Context, /, **connection: Any) -> None:
    """Look at elections of Incumbent, and move the office.

    The flags that say where Kubernetes is are those of kubectl, before or behind the command.

    \b
    Examples:
      kubectl incumbent status billing
      kubectl exec "$(kubectl incumbent who billing -o name)" -- ./report
      kubectl incumbent step-down billing --to billing-2
    """  # noqa: D301  # not an escape but click's mark for "do not wrap"
    context.obj = connection


def run() -> None:
    """Run the program `kubectl-incumbent`."""
    main(prog_name=PROGRAM)
