"""`incumbent cleanup`: let go of all elections before the operator is uninstalled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import click

from incumbent import clock, logs, terminal
from incumbent.cli.flags import Text, cluster_flags, namespaces_flag, said_by_click
from incumbent.cli.uninstall import why_not
from incumbent.errors import ConfigurationError, Conflict, Forbidden, IncumbentError, NotFound
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.requests import MERGE_PATCH
from incumbent.kubernetes.resource import FINALIZER, elections_path, resource_from
from incumbent.kubernetes.turns import working_for
from incumbent.pods.eligibility import LEADER
from incumbent.pods.labels import Labels
from incumbent.validation import namespace

STOP_WITHIN = 60.0
"""Longest wait in seconds for the operator's pods to end. The chart gives them 30 s."""
APPEARS_WITHIN = 15.0
"""Seconds to wait for a Deployment that does not exist: a tool that applies rendered manifests may
create the Job first."""
STRIP_WITHIN = 10.0
TRIES = 5
POLL = 0.2


def namespaced(text: str) -> tuple[str, str]:
    """Return the namespace and the name of an object.

    Raises:
        ConfigurationError: one of them is missing.
    """
    where, slash, name = text.partition("/")
    if slash and name:
        return namespace(where), name
    msg = f"{text!r} has no namespace; write it like incumbent/incumbent, the namespace first."
    raise ConfigurationError(msg)


@click.command(short_help="Let go of all elections before an uninstall.")
@click.option(
    "--operator",
    type=Text("NAMESPACE/DEPLOYMENT", namespaced),
    help="The operator, which is scaled to zero first. Without it, no operator may be running.",
)
@click.option(
    "--hook",
    type=Text("NAMESPACE/JOB", namespaced),
    help="The Job that runs this as a hook of helm. Nothing is done unless the release of the"
    " --operator is being uninstalled.",
)
@namespaces_flag("Namespace of elections to let go of. Repeatable.")
@cluster_flags
def cleanup(
    operator: tuple[str, str] | None,
    hook: tuple[str, str] | None,
    namespaces: tuple[str, ...],
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Take the operator's labels from all pods, and its finalizer from all elections.

    The elections stay, and can be deleted with no operator running; one that is installed later
    takes them over. Nobody leads in the meantime. Records are not released: they expire. The
    chart runs this before `helm uninstall` removes anything.

    \b
    Examples:
      incumbent cleanup --operator incumbent/incumbent
      incumbent cleanup --namespace shop
    """  # noqa: D301
    if hook and not operator:
        msg = "--hook needs --operator: its release is the one that may be uninstalled."
        raise click.UsageError(msg)
    logs.configure("text", level="error")
    with said_by_click():
        count = asyncio.run(_clean_up(operator, namespaces, kubeconfig, context, hook=hook))
    if count is not None:
        terminal.show(f"let go of {count} election{'s' * (count != 1)}")


async def _clean_up(
    operator: tuple[str, str] | None,
    namespaces: tuple[str, ...],
    kubeconfig: str | None,
    context: str | None,
    *,
    hook: tuple[str, str] | None = None,
) -> int | None:
    """Return how many elections were cleaned up; None if this is not an uninstall."""
    cluster = await _Cluster.connect(kubeconfig, context=context, replica="cleanup")
    try:
        if operator and hook and (reason := await cluster.why_not(hook, operator)):
            name = "/".join(operator)
            terminal.show(
                f"Nothing was done: {reason}. To let go of all elections, run: incumbent cleanup"
                f" --operator {name}"
            )
            return None
        if operator:
            await cluster.stop_operator(*operator)
        elections = []
        for where in namespaces or (None,):
            try:
                elections += await cluster.list_elections(where)
            except Forbidden as error:
                # The rights of a release in a namespace go with the namespace.
                if not hook or not where:
                    raise
                terminal.show(f"The namespace {where} was left alone: {error}", err=True)
        async with asyncio.TaskGroup() as tasks:
            for election in elections:
                tasks.create_task(_let_go(cluster, election))
    except* IncumbentError as errors:
        raise errors.exceptions[0] from None
    finally:
        await cluster.aclose()
    return len(elections)


async def _let_go(cluster: _Cluster, election: dict[str, Any]) -> None:
    """Remove everything that the operator added for one election. No operator runs any more."""
    resource = resource_from(election, default_bucket="")
    labels = Labels(cluster, resource, _forget)
    with working_for(resource.key.namespace, resource.key.name):
        for pod in await cluster.list_pods(resource.key.namespace, resource.label_key):
            if pod.labels[resource.label_key] == LEADER:
                await labels.strip(pod, None, until=clock.now() + STRIP_WITHIN)
            else:
                await labels.mark(pod, None)
        await cluster.end_service(resource.key.namespace, resource.key.name)


def _forget(_: Pod) -> None:
    """Ignore the state of a pod."""


class _Cluster(ApiServer):
    """An API server, with the requests that only this command sends."""

    async def why_not(self, hook: tuple[str, str], operator: tuple[str, str]) -> str:
        """Return why the Job of a hook must do nothing; an empty text if it must clean up.

        A Deployment that does not exist, and does not appear, was deleted: a part of an uninstall
        that is tried again.
        """
        job = await self.requests.find("/apis/batch/v1/namespaces/{}/jobs/{}".format(*hook))
        if job is None:
            return f"there is no Job {hook[1]} in the namespace {hook[0]}"
        path = "/apis/apps/v1/namespaces/{}/deployments/{}".format(*operator)
        until = clock.now() + APPEARS_WITHIN
        while (found := await self.requests.find(path)) is None:
            if clock.now() > until:
                return ""
            await asyncio.sleep(POLL)
        return why_not(job, found)

    async def stop_operator(self, namespace: str, name: str) -> None:
        """Scale a Deployment to zero, and wait until its pods are gone.

        Raises:
            ClusterError: that is not allowed, or they do not end.
        """
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"
        body = {"spec": {"replicas": 0}}
        try:
            scale = await self.requests.ask("PATCH", path, body=body, content_type=MERGE_PATCH)
        except NotFound:
            terminal.show(
                f"There is no Deployment {name} in the namespace {namespace}, so nothing was"
                " stopped: see that no operator is running under another name",
                err=True,
            )
            return
        until = clock.now() + STOP_WITHIN
        while pods := await self.list_pods(namespace, scale["status"]["selector"]):
            if clock.now() > until:
                names = ", ".join(sorted(pod.name for pod in pods))
                msg = (
                    f"These pods of the operator did not end within {STOP_WITHIN:g} s: {names};"
                    " delete them, and try again"
                )
                raise Conflict(msg)
            await asyncio.sleep(POLL)

    async def list_elections(self, namespace: str | None) -> list[dict[str, Any]]:
        """Return all elections of a namespace (None: all); empty if the kind does not exist."""
        try:
            return await super().list_elections(namespace)
        except NotFound:
            return []

    async def end_service(self, namespace: str, name: str) -> None:
        """Remove an election's finalizer, and write a status which says that no operator serves it.

        Raises:
            Conflict: the election changes again and again.
        """
        for attempt in range(1, TRIES + 1):
            election = await self.get_election(namespace, name)
            if election is None:
                return
            try:
                await self._end_service(election)
            except NotFound:
                return
            except Conflict:
                if attempt == TRIES:
                    raise
            else:
                return

    async def _end_service(self, election: dict[str, Any]) -> None:
        namespace, name = (election["metadata"][part] for part in ("namespace", "name"))
        known = election.get("status", {}).get("observedGeneration", -1) >= 0
        if status := known and election["status"].get("conditions") and _unserved(election):
            election = await self.replace_status(
                namespace,
                name,
                resource_version=election["metadata"]["resourceVersion"],
                status=status,
            )
        finalizers = election["metadata"].get("finalizers", [])
        if FINALIZER in finalizers:
            metadata = {
                "resourceVersion": election["metadata"]["resourceVersion"],
                "finalizers": [other for other in finalizers if other != FINALIZER],
            }
            await self.requests.ask(
                "PATCH",
                f"{elections_path(namespace)}/{name}",
                body={"metadata": metadata},
                content_type=MERGE_PATCH,
            )


def _unserved(election: dict[str, Any]) -> dict[str, Any]:
    """Return the status of an election without an operator; the names of its lock are kept."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    unknown = {
        "status": "Unknown",
        "reason": "NotServed",
        "message": "no operator serves this election: it was uninstalled",
        "lastTransitionTime": now,
    }
    status = {name: value for name, value in election["status"].items() if name != "leader"}
    conditions = [condition | unknown for condition in status["conditions"]]
    return status | {"state": "Unknown", "conditions": conditions}
