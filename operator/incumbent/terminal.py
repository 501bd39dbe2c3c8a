"""All that commands print goes through here (the linter holds that); log lines through `logs`.

What a command prints contains text of other people: see `display`.
"""

from __future__ import annotations

import json
from typing import Any

import click

from incumbent import display


def show(*lines: str, err: bool = False) -> None:
    """Print lines, each of which stays one line whatever is in it.

    Args:
        lines: without line feeds at their ends; none prints nothing.
        err: whether they go to standard error.
    """
    if lines:
        _print("\n".join(map(display.line, lines)), err=err)


def show_candidate(value: str, about: str) -> None:
    """Print how a command line may go on, for kubectl: with a tab before what is said about it."""
    _print("\t".join(map(display.line, filter(None, (value, about)))))


def show_data(value: Any, output: str) -> None:
    """Print a value as JSON or YAML, exactly: text of others is escaped as these formats have it.

    Args:
        value: what JSON can hold.
        output: `json`, as kubectl indents it; `line` for JSON on one line; or `yaml`.
    """
    _print(data(value, output))


def data(value: Any, output: str) -> str:
    """Return a value as `show_data` prints it."""
    if output == "yaml":
        import yaml  # noqa: PLC0415  # not needed for anything else

        text = str(yaml.safe_dump(value, sort_keys=True, default_flow_style=False))
        return text.rstrip("\n")
    text = json.dumps(value, indent=4 if output == "json" else None)
    return text.replace("\x7f", "\\u007f")  # the one control character that json leaves


def agreed(question: str) -> None:
    """Ask a question that is answered by y or n.

    Raises:
        click.Abort: the answer is not y.
    """
    click.confirm(display.line(question), abort=True, err=True)  # noqa: TID251  # see above


def _print(text: str, *, err: bool = False) -> None:
    click.echo(text, err=err)  # noqa: TID251  # the one place that may
