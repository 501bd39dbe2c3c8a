"""`incumbent cleanup` where there is more to do than an API server answers at once."""

from __future__ import annotations

import asyncio

from click.testing import CliRunner

from fakecluster import make_election
from incumbent.cluster import CONCURRENCY
from incumbent.commands import cleanup


class Busy:
    """An API server with many elections that counts how many are being let go of."""

    def __init__(self):
        self.begun = self.done = self.most = 0

    async def list_elections(self, namespace):
        """Return all."""
        return [make_election(name=f"e-{number}") for number in range(200)]

    async def list_pods(self, namespace, label_selector):
        """Begin with one."""
        self.begun += 1
        self.most = max(self.most, self.begun - self.done)
        await asyncio.sleep(0)
        return []

    async def end_service(self, namespace, name):
        """End with one."""
        await asyncio.sleep(0)
        self.done += 1

    async def aclose(self):
        """Do nothing."""


async def test_few_elections_are_let_go_of_at_a_time(monkeypatch):
    """Otherwise a strip waits behind the lists of thousands of others for longer than it may."""
    busy = Busy()

    async def connect(*_, **__):
        return busy

    monkeypatch.setattr(cleanup._Cluster, "connect", connect)
    assert await cleanup._clean_up(None, (), None, None) == 200
    assert busy.done == 200
    assert busy.most == CONCURRENCY


class Hooked(cleanup._Cluster):
    """An API server with a Job of a hook, and a Deployment that appears late, or never."""

    def __init__(self, *answers):
        self.answers = [*answers]

    async def _find(self, path):
        if path == "/apis/batch/v1/namespaces/incumbent/jobs/hook":
            return {"metadata": {"annotations": {"helm.sh/hook": "pre-delete"}}}
        if path == "/apis/apps/v1/namespaces/incumbent/deployments/incumbent":
            return self.answers.pop(0) if self.answers else None
        return None


async def why_not(cluster, job="hook"):
    """Return why the Job does nothing."""
    return await cluster.why_not(("incumbent", job), ("incumbent", "incumbent"))


async def test_a_deployment_that_is_created_after_the_job_is_waited_for(monkeypatch):
    """A tool may apply rendered manifests in any order."""
    monkeypatch.setattr(cleanup, "POLL", 0)
    late = Hooked(None, None, {"metadata": {}})
    assert "helm did not install the operator" in await why_not(late)


async def test_a_deployment_that_does_not_appear_was_deleted(monkeypatch):
    """So an uninstall that ended in the middle goes on."""
    monkeypatch.setattr(cleanup, "POLL", 0)
    monkeypatch.setattr(cleanup, "APPEARS_WITHIN", 0)
    assert await why_not(Hooked()) == ""


async def test_a_job_that_does_not_exist_proves_nothing():
    """Whoever names one by hand gets a sentence."""
    assert await why_not(Hooked({"metadata": {}}), job="other") == (
        "there is no Job other in the namespace incumbent"
    )


def test_a_hook_names_the_operator():
    """Otherwise nobody could tell which release is being uninstalled."""
    done = CliRunner().invoke(cleanup.cleanup, ["--hook", "incumbent/hook"])
    assert done.exit_code == 2
    assert "--hook needs --operator" in done.output
