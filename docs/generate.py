"""Write what is generated in the docs: `python docs/generate.py`, or `make docs`.

- `reference/`: the resource from `crds/`, flags and variables from the commands, metrics from what
  an operator serves, conditions and events from the code that says them;
- `how-to/choose-the-ttl.md`: its tables, from `campaign.timing` and from what was measured;
- `measured.md`, `nats.md`, `real-nodes.md`, `routing.md`, `security.md`, README.md: their figures
  (`measured.py`);
- `reference/versions.md`: from the results of `make matrix`;
- `diagrams/`: from the tables in `diagrams.py`.
"""  # noqa: INP001  # a script

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import yaml
from prometheus_client.parser import text_string_to_metric_families

import incumbent
import incumbent.cli.main
import incumbent.kubectl.main
from incumbent.campaign.timing import timing_for
from incumbent.kubernetes.objects import ElectionKey
from incumbent.server.metrics import Metrics
from incumbent.status.situation import Problem

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCES = Path(incumbent.__file__).parent
NOTE = "<!-- Written by `make docs`. -->\n\n"
TTLS = (5, 10, 15, 30, 60)
"""Seconds, of the buckets that are compared."""

MEANINGS = {
    ("Ready", "Leading"): "a pod of this cluster leads and has its label",
    ("Ready", "LedElsewhere"): "somebody else holds the record: another cluster, a machine",
    ("Ready", "NoCandidates"): "no selected pod is Running, Ready, not terminating and included",
    ("Ready", "Vacant"): "nobody leads yet; if a candidate waits, the message says until when",
    ("Ready", "Suspended"): "`spec.suspend` is true",
    ("Ready", "Starting"): "the key and the pods have not been seen since the operator started",
    ("Ready", "KeyInUse"): "an older election of this cluster has the same bucket and key",
    ("Ready", "LockNotAllowed"): "its namespace may not use the bucket or the key that it names",
    ("Ready", "QuotaExceeded"): "its namespace has too many elections, and this is one of the last",
    ("Ready", "LabelKeyInUse"): "an older election of the namespace has the same label",
    ("Ready", "TokenRegressed"): "the bucket counts from an earlier number than a known token",
    ("Ready", "SiteInUse"): "another cluster uses the name of this one: one is a copy of the other",
    ("Ready", "PermissionDenied"): "the NATS user or the service account lacks a right",
    ("Ready", "NotWatched"): "too few files may be open to watch the pods of this namespace",
    ("Ready", "AdmissionDenied"): "a policy, a webhook or a quota refuses the operator's write",
    ("Ready", "BucketNotFound"): "there is no such bucket",
    ("Ready", "BucketInvalid"): "the bucket cannot hold this election; the message says why",
    (
        "Ready",
        "BucketSilent",
    ): "NATS answers, but its watch delivers nothing or no write is stored",
    ("Ready", "RecordOutdated"): "the record is older than the TTL, so its holder does not lead",
    ("Ready", "BucketUnreachable"): "NATS does not answer",
    ("Ready", "CampaignInvalid"): "`campaign.intervalSeconds` does not fit the bucket's TTL",
    (
        "BucketReady",
        "BucketFound",
    ): "the watch delivers, no setting is risky, and the writes of this"
    " cluster are stored, if it writes",
    ("BucketReady", "BucketAtRisk"): "it works, but should not stay so; the message says why",
    ("BucketReady", "NotRead"): "the election is not served, so the bucket is not read",
    ("BucketReady", "Starting"): "the bucket has not been seen yet",
    ("CandidatesReady", "CandidatesFound"): "at least one pod can lead",
    ("CandidatesReady", "NoCandidates"): "no pod can lead; the message says why",
    ("CandidatesReady", "Starting"): "the pods have not been seen yet",
    ("LabelsInSync", "LabelsWritten"): "every pod's label is as it should be",
    ("LabelsInSync", "LabelsNotWritten"): "a label could not be written, or a pod has it wrongly",
    ("LabelsInSync", "LabelsContested"): "somebody else changes a label again and again",
    ("LabelsInSync", "Starting"): "the pods have not been seen yet",
    ("RoutingInSync", "SliceWritten"): "the Service's slices hold the leader, or nobody",
    ("RoutingInSync", "SliceNotWritten"): "a slice could not be written; the message says why",
    ("RoutingInSync", "ServiceNotFound"): "there is no such Service",
    ("RoutingInSync", "ServiceHasSelector"): "Kubernetes finds pods for the Service, too",
    ("RoutingInSync", "ServiceHasOthers"): "other EndpointSlices lead its clients elsewhere",
    ("RoutingInSync", "ServiceInvalid"): "the Service cannot lead to a pod; the message says why",
    ("RoutingInSync", "ServiceInUse"): "an older election of the namespace names this Service",
    ("RoutingInSync", "NotRouted"): "the election is not served, so the Service reaches no pod",
    ("RoutingInSync", "Starting"): "the key and the pods have not been seen yet",
    ("Stalled", "NotStalled"): "nothing needs a person",
}
"""What each reason of each condition means. That a problem is also one of `BucketReady` or
`Stalled` means the same there."""

EVENTS = {
    "LeaderElected": "a pod leads, after nobody or after another cluster did",
    "HandedOver": "a pod leads after another one of this cluster",
    "LeaderLost": "the leader lost its office, and the message says why",
    "Released": "the leader gave its office up, for want of candidates or for a suspension",
    "Evicted": "somebody deleted the record, so the leader had to go",
    "LabelCorrected": "a pod carried the leader label without leading, and it was taken away",
    "StepDownRefused": "the pod that shall lead instead cannot; the message says why",
}
"""What each event means that is not the reason of a condition."""


def cell(text: object) -> str:
    """Return text as a cell of a table."""
    return " ".join(str(text).split()).replace("|", r"\|")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of Markdown."""
    lines = [[*head], *([cell(one) for one in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# The resource


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Return path, type, default and description of each field below a schema."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        kind = field["type"]
        inner = field
        if kind == "array":
            inner, kind = field["items"], f"[]{field['items']['type']}"
        kind = " \\| ".join(f"`{one}`" for one in field["enum"]) if "enum" in field else kind
        default = "*required*" if name in required and path.startswith("spec") else ""
        if field.get("default", {}) != {}:
            default = f"`{json.dumps(field['default']).strip(chr(34))}`"
        yield f"`{below}`", kind.replace(r"\|", "|"), default, field["description"]
        yield from fields(inner, below)


def resource() -> str:
    """Return the page on the resource."""
    definition = yaml.safe_load((ROOT / "crds" / "leaderelections.yaml").read_text())
    names = definition["spec"]["names"]
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    rules = [
        rule["message"]
        for part in (schema, schema["properties"]["spec"])
        for rule in part["x-kubernetes-validations"]
    ]
    parts = {name: schema["properties"][name] for name in ("spec", "status")}
    columns = version["additionalPrinterColumns"]
    return (
        f"# The resource {names['kind']}\n\n{NOTE}"
        f"`{definition['spec']['group']}/{version['name']}`, {definition['spec']['scope'].lower()},"
        f" short name `{names['shortNames'][0]}`, category `{names['categories'][0]}`.\n\n"
        f"{schema['description']}\n\n"
        "## spec\n\n"
        + table(("field", "type", "default", ""), fields({"properties": {"spec": parts["spec"]}}))
        + "\nThe API server refuses what breaks one of these rules:\n\n"
        + "".join(f"- {cell(rule)}.\n" for rule in rules)
        + "\n## status\n\n"
        + table(
            ("field", "type", ""),
            (
                (name, kind, text)
                for name, kind, _, text in fields({"properties": {"status": parts["status"]}})
            ),
        )
        + "\n## Columns of `kubectl get`\n\n"
        + table(
            ("column", "with `-o wide` only", ""),
            (
                (one["name"], "yes" if one.get("priority") else "", one.get("description", ""))
                for one in columns
            ),
        )
    )


# Flags and variables


def commands() -> Iterator[tuple[str, click.Command]]:
    """Return each command with its full name."""
    programs = (
        ("incumbent", incumbent.cli.main.main),
        ("kubectl incumbent", incumbent.kubectl.main.main),
    )
    for program, group in programs:
        yield program, group
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            assert command is not None  # noqa: S101  # it is listed
            yield f"{program} {name}", command


def flags() -> str:
    """Return the page on the commands: what each says when it is asked for `--help`."""
    texts = []
    for name, command in commands():
        settings = {**command.context_settings, "max_content_width": 100, "terminal_width": 100}
        context = click.Context(command, info_name=name, **settings)
        texts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return (
        f"# Commands and flags\n\n{NOTE}"
        "Each command as it explains itself with `--help`. [The commands](../commands.md) and"
        " [the kubectl plugin](../kubectl.md) are told at more length.\n\n" + "\n".join(texts)
    )


def variables() -> str:
    """Return the page on the environment."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name, command in commands():
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                _, users = found.setdefault(parameter.envvar, (parameter.opts[0], set()))
                users.add(name)
    return (
        f"# Environment variables\n\n{NOTE}"
        "A flag wins over its variable. In a variable the values of a repeatable flag have commas"
        " between them. A flag that is a switch takes `1`, `true` or `yes`.\n\n"
        + table(
            ("variable", "flag", "of"),
            (
                (f"`{name}`", f"`{flag}`", ", ".join(f"`{user}`" for user in sorted(users)))
                for name, (flag, users) in sorted(found.items())
            ),
        )
        + "\n`incumbent run` sets `INCUMBENT_KEY` and `INCUMBENT_TOKEN` for its command. The"
        " operator and the plugin find Kubernetes as kubectl does, by `KUBECONFIG`, too.\n"
    )


# Metrics


def served() -> str:
    """Return what an operator serves that has one election, with one of everything."""
    counts = SimpleNamespace(campaigns={}, transitions=0, corrections=0)
    names = ("leads", "interval", "token", "candidates", "remaining", "labelled")
    reading = SimpleNamespace(**dict.fromkeys(names, 0), conditions=[*conditions()])
    election = SimpleNamespace(
        key=ElectionKey("shop", "billing"), counts=counts, reading=lambda: reading
    )
    metrics = Metrics(lambda: [election], connected=lambda: True, tasks=lambda: 0, version="1")
    return metrics.render()[0].decode()


def metrics_page() -> str:
    """Return the page on the metrics."""
    rows = []
    families = text_string_to_metric_families(served())
    for family in sorted(families, key=lambda family: family.name):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label: None for sample in family.samples for label in sample.labels}
        shown = ", ".join(f"`{label}`" for label in labels if label != "le")
        rows.append((f"`{name}`", family.type, shown, family.documentation))
    return (
        f"# Metrics\n\n{NOTE}"
        "What the operator serves under `/metrics`. Series of an election vanish with it. A"
        " histogram has the suffixes `_bucket`, `_sum` and `_count`; durations are in seconds."
        " [The runbooks](../runbooks/index.md) say which alerts are made of them,"
        " [the library](../library.md#metrics) what a program can add to its own.\n\n"
        + table(("metric", "type", "labels", ""), rows)
    )


# Conditions and events


def _calls(name: str) -> Iterator[tuple[list[Any], set[str | None]]]:
    """Return constant arguments (None for others), and names of others, of a function's calls."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                arguments = [getattr(argument, "value", None) for argument in node.args]
                yield arguments, {keyword.arg for keyword in node.keywords}


def problems(kind: str) -> list[str]:
    """Return the reasons of problems that one condition may have."""
    found = set()
    if kind != "RoutingInSync":
        found |= {
            (reason, "of_bucket" not in names)
            for (reason, *_), names in _calls("Problem")
            if reason
        }
    if kind in {"RoutingInSync", "Stalled"}:
        found |= {(reason, False) for (reason, *_), _ in _calls("Obstacle") if reason}
    return sorted(
        {
            reason
            for reason, of_bucket in found
            if (kind != "BucketReady" or of_bucket)
            and (kind != "Stalled" or Problem(reason, "").stalls)
        }
    )


def conditions() -> list[tuple[str, str, str]]:
    """Return type, status and reason of every condition that the code can write.

    Raises:
        ValueError: the module `incumbent.status.conditions` is no longer written as this reads it.
    """
    tree = ast.parse((SOURCES / "status" / "conditions.py").read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found: list[tuple[str, str, str]] = []
    for pair in ast.walk(functions["conditions_from"]):
        match pair:
            case ast.Tuple(elts=[ast.Constant(value=kind), ast.Call(func=ast.Name(id=function))]):
                returned = [
                    node.value.elts
                    for node in ast.walk(functions[function])
                    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
                ]
                for status, reason, *_ in returned:
                    named = getattr(reason, "value", None)
                    reasons = [named] if isinstance(named, str) else problems(str(kind))
                    found += [(str(kind), ast.literal_eval(status), one) for one in reasons]
    if len({kind for kind, *_ in found}) < 6:  # noqa: PLR2004  # there are six conditions
        msg = "the conditions are not found any more; adapt docs/generate.py"
        raise ValueError(msg)
    kinds, statuses = [kind for kind, *_ in found], ("True", "False", "Unknown")
    return sorted(
        dict.fromkeys(found), key=lambda one: (kinds.index(one[0]), statuses.index(one[1]))
    )


def meaning(kind: str, reason: str) -> str:
    """Return what the reason of a condition means.

    Raises:
        KeyError: nobody has said so.
    """
    found = MEANINGS.get((kind, reason)) or MEANINGS.get(("Ready", reason))
    return found or MEANINGS["RoutingInSync", reason]


def events() -> list[tuple[str, str, str]]:
    """Return type, reason and meaning of each event.

    Raises:
        KeyError: nobody has said what one means.
    """
    said = {
        (kind, reason)
        for (kind, reason, *_), _ in _calls("KubernetesEvent")
        if isinstance(reason, str)
    }
    rows = [(kind, reason, EVENTS[reason]) for kind, reason in sorted(said)]
    tree = ast.parse((SOURCES / "status" / "events.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_TROUBLES":
            assert isinstance(node.value, ast.Call)  # noqa: S101  # frozenset({…})
            troubles = sorted(ast.literal_eval(node.value.args[0]))
            rows += [("Warning", reason, meaning("Ready", reason)) for reason in troubles]
    # That a right is missing is told once, whatever for.
    obstacles = sorted({reason for (reason, *_), _ in _calls("Obstacle") if reason})
    known = {reason for _, reason, _ in rows}
    rows += [
        ("Warning", one, meaning("RoutingInSync", one)) for one in obstacles if one not in known
    ]
    return rows


def conditions_page() -> str:
    """Return the page on conditions and events."""
    rows = [
        (f"`{kind}`", status, f"`{reason}`", meaning(kind, reason))
        for kind, status, reason in conditions()
    ]
    return (
        f"# Conditions and events\n\n{NOTE}"
        "`Ready` says whether somebody leads, and `kubectl wait --for=condition=Ready` waits for"
        " it; the others say what that rests on. `Stalled` is True if a person has to act."
        " Whatever is said here, `Ready` is Unknown with the reason `NotServed` until an operator"
        " has seen the election, and `incumbent cleanup` sets all of them to that: then no operator"
        " says anything any more."
        " [Operations](../operations.md) says what to do.\n\n"
        "## Conditions\n\n"
        + table(("condition", "status", "reason", "which means that"), rows)
        + "\n## Events\n\n"
        + table(("type", "reason", "which means that"), events())
        + "\nOne change is one event, however many replicas the operator has.\n"
    )


# Parts of pages that people write


def ttl_table() -> str:
    """Return what follows from a TTL, with all defaults."""
    rows = []
    for ttl in TTLS:
        prompt = timing_for(ttl)
        rows.append(
            f"{seconds} s"
            for seconds in (
                ttl,
                f"{prompt.interval:.3g}",
                f"{prompt.lease:.3g}",
                f"{prompt.lease - prompt.interval:.3g}–{prompt.lease:.3g}",
                f"{prompt.relay_after:.3g}",
                f"{ttl - prompt.interval:.3g}–{ttl:.3g}",
                f"{prompt.stranger_after:.4g}",
            )
        )
    return table(
        (
            "TTL",
            "a renewal every",
            "deadline after a renewal",
            "absence of NATS that changes nothing",
            "a standby renews after",
            "the record of a dead site falls vacant after",
            "wait after a Choria member",
        ),
        rows,
    )


# Versions


def versions_page() -> str:
    """Return the page on the versions with which the tests are run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from matrix import plan, results  # noqa: PLC0415  # not installed with the package

    sys.path.pop(0)
    runs = plan.runs()
    tests = {run.subject: ", ".join(f"`{path}`" for path in run.tests) for run in runs}
    return (
        f"# Supported versions\n\n{NOTE}"
        "Incumbent supports these versions and those between them. `make matrix`"
        " runs tests with each of them. A run changes one version and keeps all others as they are"
        " in `requirements/` and in `tests/controlplane/tools`.\n\n"
        + "".join(f"{line}\n" for line in results.table(runs, results.read()))
        + "\nThe tests of each run:\n\n"
        + table(("with", "tests"), tests.items())
        + "\nThe tests of the chart use helm 3 and helm 4 in every run. The tests of a bucket use"
        " one server and three servers. Python 3.14 is tested on machines that have it.\n"
    )


def inserted(path: Path, *texts: str) -> str:
    """Return a page with each text between the marks in it."""
    begin, end = "<!-- made by `make docs`: begin -->\n", "<!-- end -->\n"
    done, rest = "", path.read_text()
    for text in texts:
        before, _, rest = rest.partition(begin)
        _, mark, rest = rest.partition(end)
        if not mark:
            msg = f"{path} has no place for what is generated"
            raise ValueError(msg)
        done += f"{before}{begin}\n{text}\n{end}"
    return done + rest


def generated() -> Mapping[Path, str]:
    """Return what the generated files have to contain."""
    sys.path.insert(0, str(DOCS))
    import diagrams  # noqa: PLC0415  # beside this script
    import measured  # noqa: PLC0415

    sys.path.remove(str(DOCS))
    reference = DOCS / "reference"
    figures, ttl = DOCS / "measured.md", DOCS / "how-to" / "choose-the-ttl.md"
    readme, nats = ROOT / "README.md", DOCS / "nats.md"
    operations = DOCS / "operations.md"
    security = DOCS / "security.md"
    nodes, routing = DOCS / "real-nodes.md", DOCS / "routing.md"
    return {
        reference / "leaderelection.md": resource(),
        reference / "commands.md": flags(),
        reference / "environment.md": variables(),
        reference / "metrics.md": metrics_page(),
        reference / "conditions.md": conditions_page(),
        reference / "versions.md": versions_page(),
        figures: inserted(figures, measured.measurements()),
        ttl: inserted(ttl, ttl_table(), measured.stream_leaders()),
        nats: inserted(nats, measured.writes()),
        operations: inserted(operations, measured.memory()),
        nodes: inserted(nodes, measured.real_nodes()),
        routing: inserted(routing, measured.routes()),
        readme: inserted(readme, measured.readme()),
        security: inserted(security, measured.hostility()),
        **{DOCS / "diagrams" / name: text for name, text in diagrams.drawn().items()},
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content)
