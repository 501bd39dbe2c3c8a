"""Run a control plane from a terminal: ``python -m controlplane build | up | env | down``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from controlplane import build, shared
from controlplane.processes import ControlPlaneError

_FOLDER = Path(__file__).parents[2] / ".run"


def main() -> int:
    """Do what the arguments say, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m controlplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build what is missing in the cache")
    for name, text in (
        ("up", "start a control plane and NATS in the background, and print the exports"),
        ("env", "print the exports for the shell, for: eval $(…)"),
        ("down", "stop what `up` started"),
        ("serve", "run in the foreground; `up` starts this"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--folder", type=Path, default=_FOLDER, help="for state and logs")
        if name == "serve":
            command.add_argument("--until-unused", action="store_true", help="until all users end")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except ControlPlaneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "build":
            build.programs()
            build.helms()
            build.lease()
        case "up":
            build.programs()
            if not shared.running(arguments.folder.absolute()):
                sys.stderr.write("Starting etcd, Kubernetes and NATS: 5 s.\n")
            _print_exports(shared.start(arguments.folder.absolute()))
        case "env":
            found = shared.running(arguments.folder.absolute())
            if not found:
                msg = "No control plane runs; start one with `make up`."
                raise ControlPlaneError(msg)
            _print_exports(found)
        case "down":
            stopped = shared.stop(arguments.folder.absolute())
            sys.stderr.write("Stopped.\n" if stopped else "Nothing runs.\n")
        case _:
            shared.serve(arguments.folder.absolute(), until_unused=arguments.until_unused)
    return 0


def _print_exports(running: shared.Running) -> None:
    folder = Path(running.site.kubectl).parent
    exports = {
        "KUBECONFIG": str(running.site.kubeconfig),
        "INCUMBENT_NATS_URL": running.nats_url,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }
    for name, value in exports.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    sys.exit(main())
