"""Every block in a page is of a kind that some rule covers, and right by that rule."""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import json
import re
import subprocess

import click
import pytest
import yaml

import incumbent.cli.main
import incumbent.kubectl.main
from controlplane import build
from docpages import ROOT, blocks, programs
from helm import CHART, Helm, HelmError

BLOCKS = tuple(blocks())
ELSEWHERE = {
    "conf": {
        "docs/nats.md": "tests/integration/test_nats_accounts.py",
        "docs/history.md": "tests/contract/test_history.py",
    },
    "sql": {"docs/how-to/fence-with-the-token.md": "tests/docs/test_fencing.py"},
}
"""Languages of which each page is tested as a whole, and where."""
OUTPUT = {"text"}
"""What programs print; nobody types it."""
FOREIGN = {
    "nats kv add": {"--ttl", "--history", "--marker-ttl", "--replicas"},
    "nats kv get": {"--raw"},
    "nats stream add": {
        *("--subjects", "--storage", "--retention", "--discard", "--max-msgs-per-subject"),
        *("--replicas", "--defaults"),
    },
    "nsc add user": {"--account", "--name", "--allow-sub", "--allow-pub"},
}  # fmt: skip
"""Programs that are not here, with those of their commands and flags that are known to exist."""
PLAIN = {"cat", "curl", "echo", "kill", "sh", "eval", "./nightly", "python"}
"""Programs about which there is nothing to check."""
FILES = re.compile(r"^(crds|examples|charts|tests|docs)/")


def of(*languages):
    """Return the blocks of some languages, as arguments for a test."""
    return tuple(pytest.param(one, id=str(one)) for one in BLOCKS if one.language in languages)


@pytest.mark.parametrize("block", tuple(pytest.param(one, id=str(one)) for one in BLOCKS))
def test_every_block_has_a_rule(block):
    """A language that nobody checks, or a page of one that is tested elsewhere, is refused."""
    if block.language in ELSEWHERE:
        test = ROOT / ELSEWHERE[block.language][block.page]
        assert block.page.rpartition("/")[2] in test.read_text()
    else:
        assert block.language in {"yaml", "json", "python", "console"} | OUTPUT


@pytest.mark.parametrize("block", of(*OUTPUT))
def test_output_is_not_to_be_typed(block):
    """What a reader types has to be in a block of the language `console`, where it is checked."""
    assert not block.text.startswith("$ ")


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_what_the_api_server_takes(block, site):
    """Each document, with no field that does not exist."""
    for document in yaml.safe_load_all(block.text):
        command = (
            *(site.kubectl, f"--kubeconfig={site.kubeconfig}", "apply", "--server-side"),
            *("--dry-run=server", "--validate=strict", "--field-manager=docs", "-f", "-"),
        )
        done = subprocess.run(
            command, input=yaml.safe_dump(document), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr


@pytest.mark.parametrize("block", of("json"))
def test_json_is_json(block):
    """One value, or several one after the other."""
    rest = block.text.strip()
    while rest:
        _, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles_and_finds_what_it_imports(block):
    """The names of ours are there; tests/integration/test_election.py runs the worker."""
    tree = compile(
        block.text, str(block), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


# Commands


@pytest.mark.parametrize("block", of("console"))
def test_commands_and_their_flags_exist(block, site, tmp_path):
    """For kubectl and helm the real ones are asked, for ours click, for make the Makefile."""
    assert block.text.startswith("$ ")
    for command in block.commands:
        check_all(command, site, tmp_path)


def check_all(command, site, folder):
    """Check all calls in a command, and the files of the repository that they name."""
    for program, *arguments in programs(command):
        while re.fullmatch(r"[A-Z_]+=\S*", program):  # a variable for the program
            program, *arguments = arguments  # noqa: PLW2901
        for argument in arguments:
            assert not FILES.match(argument) or (ROOT / argument).exists(), argument
        check(program, arguments, site, folder)


def check(program, arguments, site, folder):
    """Check a call of a program."""
    match program.removeprefix(".venv/bin/"), arguments:
        case "incumbent", _:
            check_click(incumbent.cli.main.main, arguments)
        case "kubectl", ["incumbent", *rest]:
            check_click(incumbent.kubectl.main.main, rest)
        case "kubectl", ["__complete", *_]:
            pass  # what shells ask for a completion
        case "kubectl", _:
            check_help((str(site.kubectl),), arguments, options_of_kubectl(str(site.kubectl)))
        case "helm", _:
            helm = (str(build.helms()["helm4"]),)
            check_help(helm, arguments, options_of(helm))
            check_values(arguments, folder)
        case "make", _:
            check_make(arguments)
        case (("nats" | "nsc"), _):
            known = [name for name in FOREIGN if name in " ".join((program, *arguments))]
            assert known, f"{program} has no such command"
            assert flags(arguments) <= FOREIGN[known[0]]
        case name, _:
            assert name in PLAIN, f"no rule for the program {name}"


def flags(arguments):
    """Return the long flags of a command, without their values, and the short ones."""
    mine = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return {argument.partition("=")[0] for argument in mine if re.match(r"--?[a-zA-Z]", argument)}


def check_click(group, arguments):
    """Have click parse a call, without carrying it out."""
    context = click.Context(group, info_name="incumbent")
    _, left, _ = group.make_parser(context).parse_args([*arguments])
    assert left, "no command"
    name, *rest = (one for one in left if not re.match(r"\d?[<>]", one))
    command = group.get_command(context, name)
    assert command is not None, f"there is no command {name}"
    parser = command.make_parser(click.Context(command, info_name=name, parent=context))
    given, left, _ = parser.parse_args(rest)
    assert not left, f"too many arguments: {left}"
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            assert isinstance(given[parameter.name], str | tuple), f"no {parameter.name}"


@functools.cache
def help_of(*command):
    """Return what a program says about itself; nothing if there is no such command."""
    return subprocess.run((*command, "--help"), capture_output=True, text=True, check=False).stdout


def options_of(command):
    """Return the flags in what a program says."""
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_of(*command)))


@functools.cache
def options_of_kubectl(kubectl):
    """Return the flags of all commands of kubectl."""
    listed = subprocess.run((kubectl, "options"), capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", listed.stdout))


def check_help(program, arguments, everywhere):
    """Look for a command and its flags in what the program says about it."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    if arguments[0].startswith("-") and "=" not in arguments[0]:
        del words[0]  # the value of a flag before the command
    name = ""
    for depth in (1, 2, 3):
        deeper = words[:depth]
        usage = rf"^  \S+ {re.escape(' '.join(deeper))} (?!SUBCOMMAND|\[command\])"
        if re.search(usage, help_of(*program, *deeper).partition("Usage:")[2], re.MULTILINE):
            name = deeper
    assert name, f"{program[0]} has no command {' '.join(words)}"
    known = options_of((*program, *name)) | everywhere
    assert flags(arguments) <= known, flags(arguments) - known


def check_values(arguments, folder):
    """Have the chart rendered with the values of an installation, which its schema checks."""
    if arguments[0] not in {"install", "upgrade"}:
        return
    pairs = itertools.pairwise(arguments)
    values = [word for pair in pairs if pair[0] == "--set" for word in pair]
    Helm("helm4", folder).run("template", "incumbent", str(CHART), *values)


@pytest.mark.parametrize(
    "command",
    (
        "incumbent lead shop.billing",
        "incumbent list --all",
        "incumbent evict",
        "kubectl incumbent fire billing",
        "kubectl incumbent who billing --politely",
        "kubectl gett pods",
        "kubectl get pods --politely",
        "kubectl rollout restartt deployment/billing",
        "helm put incumbent charts/incumbent",
        "helm install incumbent charts/incumbent --politely",
        "helm install incumbent charts/incumbent --set nats.uri=nats://nats:4222",
        "make tea",
        "make test ARGZ=x",
        "nats kv add LEADER_ELECTION --tll 30s",
        "nats kv burn LEADER_ELECTION",
        "wget example.com",
        'echo "$(make tea)"',
        "make demo && make tea",
        "kubectl apply -f examples/nothing.yaml",
    ),
)
def test_a_command_that_does_not_exist_is_refused(command, site, tmp_path):
    """As a reader's shell would."""
    with pytest.raises((AssertionError, click.ClickException, HelmError)):
        check_all(command, site, tmp_path)


def check_make(arguments):
    """Look for targets and variables in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        if is_variable:
            assert f"{name}=" in makefile or re.search(rf"\$\({name}\)", makefile), name
        elif not argument.startswith("-"):
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"no target {name}"
