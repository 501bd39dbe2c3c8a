"""The pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
_ENDS = {"|", "||", "&&", ";", "&"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, without the indentation of its fence."""

    page: str
    line: int
    language: str
    text: str
    heading: str
    """The last one before it."""

    def __str__(self) -> str:
        """Say where it is."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """What a reader types, in a block of the language `console`."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def pages() -> list[Path]:
    """Return all pages in git, and new ones."""
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md")
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in sorted(names.split()) if (path := ROOT / name).exists()]


def blocks() -> Iterator[Block]:
    """Return all blocks of all pages."""
    for path in pages():
        text = path.read_text()
        for match in _FENCE.finditer(text):
            headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
            yield Block(
                str(path.relative_to(ROOT)),
                text.count("\n", 0, match.start()) + 1,
                match[2].strip(),
                textwrap.dedent(match[3]),
                headings[-1] if headings else "",
            )


def programs(command: str) -> Iterator[list[str]]:
    """Return program and arguments of each part of a command, also of those in `$(…)`."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    part: list[str] = []
    for token in [*lexer, ";"]:
        if inner := re.fullmatch(r"\$\((.*)\)", token):
            yield from programs(inner[1])
        if token not in _ENDS:
            part.append(token)
        elif part:
            yield part
            part = []
