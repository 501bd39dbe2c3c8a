"""`incumbent cleanup`, where it must do nothing, and where it must not wait for ever."""

from __future__ import annotations

from click.testing import CliRunner

from incumbent.cli import cleanup


class Hooked(cleanup._Cluster):
    """An API server with a Job of a hook, and a Deployment that appears late, or never."""

    def __init__(self, *answers):
        self.answers = [*answers]
        self.requests = self

    async def find(self, path):
        """Read one object; None if there is none."""
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
