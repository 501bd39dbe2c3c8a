"""The READMEs of the test programs name only what exists: targets, options, paths, names."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from docpages import ROOT, blocks, programs

TESTS = ROOT / "tests"
PROGRAMS = ("controlplane", "simulation", "model", "chaos", "e2e")
COMMANDS = {"controlplane": ("build", "up", "env", "down", "serve")}
"""Programs with commands, which have options of their own."""
ROOTS = {"tests", "docs", "operator", "bench", "demo", "charts", "crds", "requirements", ".ci"}
FILE = r"[\w.-]+\.(?:py|md|yaml|json|toml|mod|sum)"
WRITTEN = {"build/e2e", "e2e.json"}
"""What a run writes."""
READ = {"E2E"}
"""Variables that no recipe names, because a program reads them from its environment."""


def readme(program: str) -> Path:
    """Return the page about a program."""
    return TESTS / program / "README.md"


def commands(program: str) -> list[str]:
    """Return what a reader types: the commands of the blocks, and those between backquotes."""
    page = f"tests/{program}/README.md"
    found = [one for block in blocks() if block.page == page for one in block.commands]
    return [*found, *(one for one in quoted(program) if re.match(r"make \S|python -m ", one))]


def quoted(program: str) -> list[str]:
    """Return what stands between backquotes, outside blocks."""
    text = re.sub(r"^```.*?^```$", "", readme(program).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@functools.cache
def options(program: str) -> set[str]:
    """Return the options of a program and of its commands, as its help texts have them."""
    known: set[str] = set()
    for command in ((), *((name,) for name in COMMANDS.get(program, ()))):
        shown = subprocess.run(
            [sys.executable, "-m", program, *command, "--help"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS)))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        known |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown))
    return known


def recipe(target: str) -> str:
    """Return the lines of a target in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{re.escape(target)}:.*\n(?:\t.*\n)*", makefile, re.MULTILINE)
    assert found, f"there is no target {target}"
    return found[0]


def check_make(arguments: list[str]) -> None:
    """Look for target and variables, and for the options of the program that the target runs."""
    words = [word for word in arguments if not word.startswith("-")]
    text = "".join(recipe(word) for word in words if "=" not in word)
    runs = re.search(r"-m ([a-z0-9]+)", text)
    for word in words:
        name, is_variable, value = word.partition("=")
        if not is_variable:
            continue
        assert re.search(rf"\$\((?:if |or )?{name}\b", text) or name in READ, f"no {name}"
        assert name not in {"NAME", "PLANTED"} or value == "1" or named(value), value
        if name == "ARGS" and runs:
            check_options(runs[1], shlex.split(value))


def check_options(program: str, arguments: list[str]) -> None:
    """Look for options in the help texts of a program."""
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= options(program), given - options(program)


@functools.cache
def sources() -> str:
    """Return the source of all tests but this one, of their support, and of the operator."""
    files = [path for folder in (TESTS, ROOT / "operator") for path in folder.rglob("*.py")]
    return "\n".join(path.read_text() for path in files if path.name != Path(__file__).name)


def named(words: str) -> bool:
    """Whether the sources have these words in quotes."""
    return f'"{words}"' in sources()


def check(command: str) -> None:
    """Check each call of make, or of one of the programs, in a command."""
    for call in programs(command):
        while re.fullmatch(r"[A-Z_]+=\S*", call[0]):
            del call[0]
        match call:
            case ["make", *arguments]:
                check_make(arguments)
            case [".venv/bin/python" | "python", "-m", program, *arguments]:
                assert program == "pytest" or program in PROGRAMS, program
                if program in PROGRAMS:
                    check_options(program, arguments)


@pytest.mark.parametrize("program", PROGRAMS)
def test_commands_exist(program: str) -> None:
    """Targets, their variables, and options of programs."""
    found = commands(program)
    assert any(command.startswith("make ") for command in found)
    for command in found:
        check(command)


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_in_the_text_exist(program: str) -> None:
    """An option between backquotes is one of this program."""
    for words in quoted(program):
        if words.startswith("--"):
            check_options(program, shlex.split(words))


@pytest.mark.parametrize("program", PROGRAMS)
def test_paths_exist(program: str) -> None:
    """From the root of the repository, or from the folder of the program, and links."""
    folder = readme(program).parent
    text = readme(program).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (folder / link).exists(), link
    for words in quoted(program):
        if words in WRITTEN or not re.fullmatch(r"[\w./-]+", words):
            continue
        if re.fullmatch(FILE, words):
            assert (folder / words).exists() or (folder / "tools" / words).exists(), words
        elif "/" in words:
            top = words.partition("/")[0]
            assert ((ROOT if top in ROOTS else folder) / words).exists(), words


@pytest.mark.parametrize("program", PROGRAMS)
def test_names_exist(program: str) -> None:
    """A function, a class, a constant or a field between backquotes is in the sources."""
    for words in quoted(program):
        dotted = re.fullmatch(r"_?[A-Za-z]\w*(?:\.[a-z_]\w*)*", words)
        if dotted and re.search(r"[A-Z_]", words) and not re.fullmatch(FILE, words):
            for name in words.split("."):
                assert re.search(rf"\b{name}\b", sources()), words


@pytest.mark.parametrize("program", PROGRAMS)
def test_pages_are_linked(program: str) -> None:
    """Who reads CONTRIBUTING.md finds them."""
    assert f"(tests/{program}/README.md)" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    "command",
    (
        "make tea",
        "make simulate DURATION=3",
        "make model NAME='no such rule'",
        "make chaos PLANTED=no-such-fault",
        "make e2e ARGS='--politely'",
        "PYTHONPATH=.:tests .venv/bin/python -m chaos --politely",
        "python -m coffee",
    ),
)
def test_what_does_not_exist_is_refused(command: str) -> None:
    """As a reader would find out."""
    with pytest.raises(AssertionError):
        check(command)
