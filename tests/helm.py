"""helm, as people run it: the real one, with folders of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from controlplane import build
from controlplane.kube import kubectl
from elections import Election

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controlplane.sites import Site

CHART = Path(__file__).parents[1] / "charts" / "incumbent"
QUICKSTART = CHART.parents[1] / "examples" / "quickstart.yaml"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/leaderelections.incumbent.dev"


class HelmError(Exception):
    """helm has refused something; the message is what it said."""


class Helm:
    """One version of helm.

    Args:
        name: `helm3` or `helm4`.
        folder: for what it keeps.
        site: where it installs; nowhere by default.
    """

    def __init__(self, name: str, folder: Path, site: Site | None = None) -> None:
        self.name = name
        self._program = build.helms()[name]
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            **{f"HELM_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")},
        }
        if site:
            self._environment["KUBECONFIG"] = str(site.kubeconfig)

    async def __call__(self, *arguments: str, values: object = None) -> str:
        """Run helm, with values on its standard input, and return what it printed.

        Raises:
            HelmError: it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments, values),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        printed, complaint = await process.communicate(yaml.safe_dump(values).encode())
        if process.returncode:
            raise HelmError(complaint.decode() + printed.decode())
        return printed.decode()

    def render(
        self, values: object = None, *arguments: str, chart: Path = CHART, kinds: bool = True
    ) -> list[Any]:
        """Return the objects of `helm template`, hooks and tests among them.

        Args:
            values: of the chart.
            arguments: more flags.
            chart: its folder.
            kinds: whether helm knows the kinds of a cluster, as it does when it installs.

        Raises:
            HelmError: it failed.
        """
        if kinds:
            arguments = (*arguments, "--api-versions=apps/v1/Deployment")
        text = self.run("template", "incumbent", str(chart), *arguments, values=values)
        return [document for document in yaml.safe_load_all(text) if document]

    def run(self, *arguments: str, values: object = None) -> str:
        """Run helm and wait for it.

        Raises:
            HelmError: it failed.
        """
        done = subprocess.run(
            self._command(arguments, values),
            input=yaml.safe_dump(values),
            capture_output=True,
            text=True,
            env=self._environment,
            check=False,
        )
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def _command(self, arguments: tuple[str, ...], values: object) -> list[str]:
        return [str(self._program), *arguments, *(() if values is None else ("--values=-",))]


def objects(rendered: list[Any], kind: str) -> list[Any]:
    """Return the objects of a kind."""
    return [found for found in rendered if found["kind"] == kind]


async def quickstart(cluster: Any, namespace: str = "") -> Election:
    """Apply the quickstart, by default in a new namespace, and wait until its pods are ready."""
    namespace = namespace or await cluster.namespace("shop")
    election = Election(cluster.kube, namespace, "billing")
    where = f"--namespace={namespace}"
    await kubectl(cluster.site, "apply", where, "-f", str(QUICKSTART))
    await kubectl(cluster.site, "rollout", "status", where, "deployment/billing", "--timeout=30s")
    return election


def granted(role: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return verbs and resources of a role."""
    return {
        (verb, resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def roles_of_the_operator(rendered: list[Any], *kinds: str) -> list[Any]:
    """Return the roles that are not for people."""
    roles = (role for kind in kinds for role in objects(rendered, kind))
    return [role for role in roles if not role["metadata"]["name"].endswith((".view", ".edit"))]
