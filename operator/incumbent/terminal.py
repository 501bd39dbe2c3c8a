"""The output of commands. They print only through this module, which the linter checks.

Log lines go through `logs`. The output contains text from other people, see `display`.
"""

from __future__ import annotations

import json
from typing import Any

import click

from incumbent import display


def show(*lines: str, err: bool = False) -> None:
    """Print lines. Line feeds and other control characters inside a line are escaped.

    Args:
        lines: the lines, without line feeds at their ends. Without lines, nothing is printed.
        err: whether to print to standard error.
    """
    if lines:
        _print("\n".join(map(display.line, lines)), err=err)


def show_candidate(value: str, about: str) -> None:
    """Print a completion of a command line for kubectl: the value, a tab and its description."""
    _print("\t".join(map(display.line, filter(None, (value, about)))))


def show_data(value: Any, output: str) -> None:
    """Print a value exactly, as JSON or YAML. Only the escapes of these formats are used.

    Args:
        value: any value that JSON can represent.
        output: `json`, indented like kubectl's; `line`, for JSON on one line; or `yaml`.
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
    """Ask the user a question with the answers y and n.

    Raises:
        click.Abort: the answer is not y.
    """
    click.confirm(display.line(question), abort=True, err=True)  # noqa: TID251  # see above


def _print(text: str, *, err: bool = False) -> None:
    click.echo(text, err=err)  # noqa: TID251  # the only place that may
