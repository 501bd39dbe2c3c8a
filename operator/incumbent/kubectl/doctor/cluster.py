"""The checks of `kubectl incumbent doctor` in the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from incumbent.errors import ClusterError, ClusterUnreachable, Forbidden, NotFound
from incumbent.kubectl.doctor.findings import (
    CLUSTER_RIGHTS,
    HISTORY_RIGHT,
    OPERATOR_RIGHTS,
    USER_RIGHTS,
    Finding,
    Level,
    Right,
    about_definition,
    about_election,
    about_limits,
    about_rights,
    number,
)
from incumbent.kubectl.options import OPERATOR_LABELS, Progress
from incumbent.kubectl.printing import now
from incumbent.kubectl.status import pods_of
from incumbent.kubernetes.resource import GROUP, PLURAL, VERSION, resource_from

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client

LOOK_AGAIN = 2.0
"""Seconds before elections with findings are read again: their leader may be changing."""


class Examination:
    """Reads from the API server, and judges the answers."""

    def __init__(self, client: Client, namespace: str | None, progress: Progress) -> None:
        self.elections: list[dict[str, Any]] = []
        """The elections that were read last."""
        self.progress = progress
        self._client = client
        self._namespace = namespace

    async def of_kubernetes(self, service_account: tuple[str, str] | None) -> list[Finding]:
        """Check everything that elections need in the cluster.

        Raises:
            ClusterUnreachable: the API server does not answer.
            Forbidden: the API server does not accept the credentials.
        """
        self.progress.say("for the API server")
        version = await self._client.ask("GET", "/version")
        server = (await self._client.connection.access()).server
        topic = "Kubernetes"
        findings = [Finding(topic, Level.OK, f"{version['gitVersion']} answers at {server}")]
        served = await self._served()
        findings += await self._definition(served)
        if VERSION not in served:
            return findings
        findings += await self._own_rights()
        self.progress.say("for what there is of the operator")
        findings += await self._operator(service_account)
        self.progress.say("for a second look at the elections, for one may just be moving")
        return findings + await self._elections()

    async def refresh(self) -> None:
        """Read the elections again. Without the right to do so, there are none."""
        try:
            self.elections = await self._client.list_elections(self._namespace)
        except Forbidden:
            self.elections = []  # the findings about rights report this

    async def _served(self) -> list[str]:
        """Return the versions of our group that the API server serves."""
        try:
            group = await self._client.ask("GET", f"/apis/{GROUP}")
        except NotFound:
            return []
        return [version["version"] for version in group["versions"]]

    async def _definition(self, served: list[str]) -> list[Finding]:
        text = resources.files("incumbent.kubectl").joinpath(f"{PLURAL}.yaml").read_text()
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
        installed: Any
        try:
            installed = await self._client.ask("GET", path)
        except NotFound:
            installed = None
        except Forbidden as error:
            installed = str(error)
        return about_definition(installed, yaml.safe_load(text), served=served)

    async def _own_rights(self) -> list[Finding]:
        missing = [
            right
            for right, allowed in zip(
                USER_RIGHTS,
                await asyncio.gather(*(self._may(r, self._namespace) for r in USER_RIGHTS)),
                strict=True,
            )
            if not allowed
        ]
        where = f"the namespace {self._namespace}" if self._namespace else "all namespaces"
        todo = (
            "let an administrator bind the ClusterRoles view or edit to you, or see docs/kubectl.md"
        )
        return about_rights("Rights", "you", where, missing, level=Level.WARNING, todo=todo)

    async def _may(self, right: Right, namespace: str | None) -> bool:
        """Ask whether the user has a right. Every user may ask this."""
        body = {"spec": {"resourceAttributes": _attributes(right, namespace)}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool((await self._client.ask("POST", path, body=body))["status"]["allowed"])

    async def _operator(self, account: tuple[str, str] | None) -> list[Finding]:
        """Check whether the operator runs, and which rights it has."""
        topic = "Operator"
        findings: list[Finding] = []
        accounts = [account] if account else []
        if not account:
            query = {"labelSelector": OPERATOR_LABELS}
            try:
                found = (await self._client.ask("GET", "/apis/apps/v1/deployments", query=query))[
                    "items"
                ]
            except Forbidden as error:
                text = f"not looked at, for you may not search for it: {error}"
                return [Finding(topic, Level.NOTE, text)]
            for deployment in found:
                findings += _about_deployment(topic, deployment)
                findings += about_limits(topic, deployment)
                pod = deployment["spec"]["template"]["spec"]
                where = deployment["metadata"]["namespace"]
                accounts.append((where, pod.get("serviceAccountName", "default")))
                if not await self._may(HISTORY_RIGHT, where):
                    text = f"you may not {HISTORY_RIGHT} in {where}, as history needs"
                    findings.append(Finding(topic, Level.NOTE, text))
            if not found:
                text = f"no Deployment has the labels {OPERATOR_LABELS}, which the chart gives it"
                findings.append(Finding(topic, Level.NOTE, text))
        await self.refresh()
        for each in accounts:
            findings += await self._rights_of(topic, *each)
        return findings

    async def _rights_of(self, topic: str, where: str, name: str) -> list[Finding]:
        """Check the rights of an operator's service account in the namespaces with elections."""
        user = f"system:serviceaccount:{where}:{name}"
        todo = "let the chart make its role (rbac.create), or grant it by hand"
        try:
            everywhere = await self._allows(user, where, OPERATOR_RIGHTS[0], None)
        except Forbidden:
            everywhere = False  # the user may perhaps ask about single namespaces
        named = [self._namespace] if self._namespace else []
        spaces = sorted({e["metadata"]["namespace"] for e in self.elections} | {*named})
        findings: list[Finding] = []
        try:
            for space in spaces:
                missing = [
                    right
                    for right in OPERATOR_RIGHTS
                    if not await self._allows(user, where, right, space)
                ]
                findings += about_rights(
                    topic, user, f"the namespace {space}", missing, level=Level.PROBLEM, todo=todo
                )
            if everywhere:
                missing = [
                    right
                    for right in CLUSTER_RIGHTS
                    if not await self._allows(user, where, right, None)
                ]
                findings += about_rights(
                    topic, user, "the cluster", missing, level=Level.WARNING, todo=todo
                )
        except Forbidden as error:
            text = f"its rights were not looked at, for you may not ask about others: {error}"
            findings.append(Finding(topic, Level.NOTE, text))
        return findings

    async def _allows(self, user: str, where: str, right: Right, namespace: str | None) -> bool:
        """Ask whether a service account has a right, by the first request that is allowed."""
        spec = {
            "user": user,
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{where}",
                "system:authenticated",
            ],
            "resourceAttributes": _attributes(right, namespace),
        }
        api = "/apis/authorization.k8s.io/v1"
        try:
            answer = await self._client.ask(
                "POST", f"{api}/subjectaccessreviews", body={"spec": spec}
            )
        except Forbidden:
            if namespace is None:
                raise
            path = f"{api}/namespaces/{namespace}/localsubjectaccessreviews"
            body = {"metadata": {"namespace": namespace}, "spec": spec}
            answer = await self._client.ask("POST", path, body=body)
        return bool(answer["status"]["allowed"])

    async def _elections(self) -> list[Finding]:
        """Judge all elections, and report only faults that are found twice."""
        first = await self._look()
        if all(finding.level is Level.NOTE for finding in first):
            second = first
        else:
            await asyncio.sleep(LOOK_AGAIN)
            second = [finding for finding in await self._look() if finding in first]
        wrong = {finding.topic for finding in second}
        names = sorted(
            f"{e['metadata']['namespace']}/{e['metadata']['name']}" for e in self.elections
        )
        where = f"the namespace {self._namespace}" if self._namespace else "all namespaces"
        well = sum(name not in wrong for name in names)
        text = f"{well} of {number(len(names), 'election')} in {where}: nothing is wrong"
        if not names:
            return [Finding("Elections", Level.NOTE, f"none was found in {where}")]
        overall = [Finding("Elections", Level.OK, text)] if well else []
        return [*overall, *sorted(second, key=lambda finding: finding.topic)]

    async def _look(self) -> list[Finding]:
        await self.refresh()
        looks = await asyncio.gather(*(self._look_at(one) for one in self.elections))
        return [finding for look in looks for finding in look]

    async def _look_at(self, election: Mapping[str, Any]) -> list[Finding]:
        resource = resource_from(election, default_bucket="")
        try:
            pods: Any = await pods_of(self._client, resource)
        except ClusterUnreachable:
            raise
        except ClusterError as error:
            pods = str(error)
        return about_election(election, resource, pods, now())


def _attributes(right: Right, namespace: str | None) -> dict[str, str]:
    found = {
        "verb": right.verb,
        "group": right.group,
        "version": VERSION if right.group == GROUP else "v1",
        "resource": right.resource,
        "subresource": right.subresource,
        "name": right.name,
        "namespace": namespace or "",
    }
    return {name: value for name, value in found.items() if value}


def _about_deployment(topic: str, deployment: Mapping[str, Any]) -> list[Finding]:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    name = f"{metadata['namespace']}/{metadata['name']}"
    wanted, ready = deployment["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    if not ready:
        todo = f"look at its pods: `kubectl -n {metadata['namespace']} get pods`, and at their log"
        return [Finding(topic, Level.PROBLEM, f"no replica of {name} is ready", todo)]
    if ready < wanted:
        text = f"{ready} of {wanted} replicas of {name} are ready"
        return [Finding(topic, Level.WARNING, text, "look at the pod that is not")]
    if wanted == 1:
        text = f"{name} has one replica: a leader that fails while it is away is not replaced"
        return [Finding(topic, Level.WARNING, text, "give it two (replicaCount)")]
    return [Finding(topic, Level.OK, f"{ready} replicas of {name} are ready")]
