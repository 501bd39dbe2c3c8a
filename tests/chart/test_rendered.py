"""The chart, rendered and applied by something other than helm: the operator runs, and goes on."""

from __future__ import annotations

import shutil

import pytest
import pytest_asyncio
import yaml

from controlplane import build
from controlplane.kube import has_condition, kubectl
from helm import CHART, DEFINITION, Helm, objects, quickstart
from operatorprocess import run_cleanup

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

KINDS = "--api-versions=apps/v1/Deployment"
TRACKED = {"argocd.argoproj.io/tracking-id": "incumbent:batch/Job:incumbent/incumbent-cleanup"}


@pytest_asyncio.fixture(loop_scope="session")
async def apply(cluster):
    """Return a function that applies manifests to a namespace; afterwards all of it is deleted."""
    applied: dict[str, str] = {}

    async def run(namespace, text, *flags):
        if namespace not in applied.values():
            await kubectl(  # as docs/how-to/gitops.md says
                cluster.site,
                *("create", "secret", "generic", "incumbent-nats", f"--namespace={namespace}"),
                *("--from-literal=username=incumbent", "--from-literal=password=planted"),
            )
        applied[text] = namespace
        await kubectl(cluster.site, "apply", *flags, "-f-", stdin=text)

    yield run
    for namespace in {*applied.values()}:
        operator = f"--operator={namespace}/incumbent"
        code, said = await run_cleanup(cluster.site.kubeconfig, operator)
        assert code == 0, said
    for text in reversed(applied):
        await kubectl(
            cluster.site, "delete", "--ignore-not-found", "--wait=false", "-f-", stdin=text
        )
    await cluster.kube.until(DEFINITION, lambda found: found is None)


def render(tmp_path, namespace, *flags, tag="1", **values):
    """Return what `helm template` prints."""
    values = {"replicaCount": 1, "image": {"tag": tag}, **values}
    helm = Helm("helm3", tmp_path)
    return helm.run(
        "template", "incumbent", str(CHART), f"--namespace={namespace}", *flags, values=values
    )


async def said_by_job(cluster, namespace, text):
    """Wait until the Job of these manifests has succeeded, and return what it said."""
    (job,) = objects([one for one in yaml.safe_load_all(text) if one], "Job")
    name = job["metadata"]["name"]
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    await cluster.kube.until(path, lambda found: has_condition(found, "Complete"), timeout=60)
    (pod,) = await cluster.kube.pods(namespace, f"batch.kubernetes.io/job-name={name}")
    return cluster.containers.log_of(namespace, pod["metadata"]["name"])


async def replicas(cluster, namespace):
    """Return how many replicas of the operator are wanted."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/incumbent"
    return (await cluster.kube.get(path))["spec"]["replicas"]


async def test_what_helm_template_prints_can_be_applied_twice(cluster, apply, tmp_path):
    """With another image tag the second time: there are no hooks in it."""
    namespace = await cluster.namespace()
    await apply(namespace, render(tmp_path, namespace))
    election = await quickstart(cluster)
    await election.wait_leader()
    await apply(namespace, render(tmp_path, namespace, tag="2"))
    where = f"--namespace={namespace}"
    await kubectl(cluster.site, "rollout", "status", where, "deployment/incumbent")
    jobs = await kubectl(cluster.site, "get", where, "jobs", "-o=name")
    assert (jobs, await replicas(cluster, namespace)) == ("", 1)
    assert await election.wait_leader()


@pytest.mark.parametrize("how", ((), ("--server-side",)), ids=["client-side", "server-side"])
async def test_a_job_that_was_rendered_does_nothing(cluster, apply, tmp_path, how):
    """Whatever knows the kinds of the cluster renders the hooks, too; they may be applied again."""
    namespace = await cluster.namespace()
    election = None
    for tag in ("1", "2"):
        text = render(tmp_path, namespace, KINDS, tag=tag)
        await apply(namespace, text, *how)
        said = await said_by_job(cluster, namespace, text)
        assert said.startswith("Nothing was done: helm did not install the operator")
        assert await replicas(cluster, namespace) == 1
        election = election or await quickstart(cluster)
        await election.wait_leader()


@pytest.mark.parametrize("how", ((), ("--server-side",)), ids=["client-side", "server-side"])
@pytest.mark.parametrize("version", ("helm3", "helm4"))
async def test_a_job_that_was_rendered_over_a_release_does_nothing(
    cluster, install, tmp_path, how, version
):
    """It has helm's marks on everything else; an uninstall by helm later on does clean up."""
    namespace = await cluster.namespace()
    await install("incumbent", namespace, values={"replicaCount": 1, "image": {"tag": "1"}})
    election = await quickstart(cluster)
    await election.wait_leader()
    text = render(tmp_path, namespace, KINDS)
    force = ("--force-conflicts",) if how else ()
    await kubectl(cluster.site, "apply", *how, *force, "-f-", stdin=text)
    said = await said_by_job(cluster, namespace, text)
    assert said.startswith("Nothing was done: helm did not create this Job")
    assert await replicas(cluster, namespace) == 1
    assert await election.wait_leader()

    await install.helm("uninstall", "incumbent", f"--namespace={namespace}", "--wait")
    assert await election.labels() == {}


async def test_argo_cd_cleans_up_before_it_deletes(cluster, apply, tmp_path):
    """It creates what helm would run before a deletion only then, and marks what it creates."""
    namespace = await cluster.namespace()
    documents = [one for one in yaml.safe_load_all(render(tmp_path, namespace, KINDS)) if one]
    for one in documents:
        one["metadata"].setdefault("annotations", {}).update(TRACKED)
    hooks = [one for one in documents if "helm.sh/hook" in one["metadata"]["annotations"]]
    rest = [one for one in documents if one not in hooks]
    await apply(namespace, yaml.safe_dump_all(rest))
    election = await quickstart(cluster)
    await election.wait_leader()
    before_deletion = yaml.safe_dump_all(
        one for one in hooks if one["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    )
    await apply(namespace, before_deletion, "--server-side")
    assert "let go of 1 election" in await said_by_job(cluster, namespace, before_deletion)
    assert await replicas(cluster, namespace) == 0
    assert await election.labels() == {}


async def test_kustomize_renders_no_hooks(cluster, tmp_path):
    """Its `helmCharts` ask no cluster either."""
    shutil.copytree(CHART, tmp_path / "charts" / "incumbent")
    chart = {"name": "incumbent", "releaseName": "incumbent", "namespace": "incumbent"}
    kustomization = {"helmGlobals": {"chartHome": "charts"}, "helmCharts": [chart]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    helm = f"--helm-command={build.helms()['helm3']}"
    printed = await kubectl(cluster.site, "kustomize", str(tmp_path), "--enable-helm", helm)
    kinds = {document["kind"] for document in yaml.safe_load_all(printed)}
    assert "Deployment" in kinds
    assert not {"Job", "Pod"} & kinds
