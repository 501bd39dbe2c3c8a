"""`kubectl incumbent doctor`: what is wrong, or about to be, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from incumbent import terminal
from incumbent.cli.flags import Text, check, flag, nats_flags, said_by_click
from incumbent.kubectl.doctor.findings import Finding, Level, number
from incumbent.kubectl.options import SETTINGS, UNWELL, Progress, command, output_flag, qualified
from incumbent.settings import Settings
from incumbent.validation import bucket_name

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


@click.command(short_help="Look for what is wrong, and say what to do.", context_settings=SETTINGS)
@click.option("-A", "--all-namespaces", is_flag=True, help="Look at the elections of all.")
@click.option(
    "--service-account",
    type=Text("NAMESPACE/NAME", qualified),
    help="That of the operator.  [default: that of the chart's Deployment, wherever it is]",
)
@click.option("--strict", is_flag=True, help="Exit code 4 for warnings, too.")
@output_flag("text", "json", "yaml")
@nats_flags
@flag("bucket", type=Text("NAME", bucket_name), help="A bucket, besides those of the elections.")
@command
async def doctor(
    client: Client,
    *,
    all_namespaces: bool,
    service_account: tuple[str, str] | None,
    strict: bool,
    output: str,
    bucket: str,
    **nats: Any,
) -> int:
    """Look at everything that elections depend on, and say of each finding what to do.

    That is the API server, the definition of the kind, your rights and those of the operator, the
    operator's replicas, the status of each election and the labels of its pods. With flags that
    say where NATS is, also the buckets, what their login may do, the records, and the clocks; give
    it the operator's login to see what the operator sees. Nothing is changed anywhere.

    Exit codes: 0, nothing is wrong; 4, there is a problem (with --strict: or a warning); 1, the API
    server does not answer.

    \b
    Examples:
      kubectl incumbent doctor
      kubectl incumbent doctor -A --nats-url tls://nats.example.com --nats-creds user.creds
      kubectl incumbent doctor -o json
    """  # noqa: D301
    context = click.get_current_context()
    settings = Settings(bucket=bucket, **nats)
    with said_by_click():
        check(settings)
    from incumbent.kubectl.doctor.cluster import Examination  # noqa: PLC0415  # it imports yaml

    with Progress() as progress:
        examination = Examination(client, None if all_namespaces else client.namespace, progress)
        findings = await examination.of_kubernetes(service_account)
        if any(context.get_parameter_source(name) in GIVEN for name in nats):
            from incumbent.kubectl.doctor.nats import of_nats  # noqa: PLC0415  # it imports nats

            named = bucket if context.get_parameter_source("bucket") in GIVEN else None
            findings += await of_nats(examination, settings, named=named)
        else:
            text = "not looked at: say where it is, as by --nats-url, and how to log in"
            findings.append(Finding("NATS", Level.NOTE, text))
    if output == "text":
        terminal.show(*_lines(findings))
    else:
        value = [
            {"topic": f.topic, "level": str(f.level), "text": f.text, "todo": f.todo or None}
            for f in findings
        ]
        terminal.show_data(value, output)
    bad = {Level.PROBLEM} | ({Level.WARNING} if strict else set())
    return UNWELL if any(finding.level in bad for finding in findings) else 0


def _lines(findings: Sequence[Finding]) -> list[str]:
    """Return the findings as text, under their topics, with a sum at the end."""
    text, topic = [], ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            text.append(topic)
        text.append(f"  {finding.level:<9}{finding.text}")
        if finding.todo:
            text.append(f"  {'':<9}-> {finding.todo}")
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    return [*text, "", f"{number(problems, 'problem')}, {number(warnings, 'warning')}"]
