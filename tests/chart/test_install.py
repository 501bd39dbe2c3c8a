"""The chart, installed with the real helm, its pods running with the rights that it gives them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from controlplane.kube import has_condition, kubectl
from controlplane.natsserver import NatsServer
from elections import condition_of
from helm import CHART, DEFINITION, HelmError, quickstart

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]


async def state(election) -> tuple[str, int]:
    """Return who leads and with which token."""
    status = await election.status()
    return status["leader"]["podName"], status["token"]


async def led_again(election) -> None:
    """Wait for a leader of an election that was served by an operator before.

    If even the release has expired, nobody knows who held the key, and the label waits for up to
    three quarters of the TTL of 30 s.
    """
    await election.kube.until(
        election.path,
        lambda found: condition_of(found, "Ready")["reason"] == "Leading",
        timeout=45,
    )
    await election.wait_leader()


def previous_chart(folder: Path) -> Path:
    """Return the chart of the last release, this one before there is any."""
    git = ("git", "-C", str(CHART.parents[1]))
    tags = (*git, "tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD")
    found = subprocess.run(tags, capture_output=True, text=True, check=False).stdout.split()
    if not found:
        return CHART
    archive = folder / "chart.tar"
    command = (*git, "archive", f"--output={archive}", found[0], "charts/incumbent")
    subprocess.run(command, check=True)
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / "charts" / "incumbent"


async def everything(cluster, namespace) -> set[str]:
    """Return what is in a namespace, of the kinds of the chart."""
    kinds = "deployments,replicasets,statefulsets,jobs,pods,services,serviceaccounts,roles"
    kinds += ",rolebindings,configmaps,poddisruptionbudgets,networkpolicies"
    found = await kubectl(cluster.site, "get", kinds, f"--namespace={namespace}", "-o=name")
    return {
        name
        for name in found.split()
        if name not in {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    }


async def flow_control(cluster, namespace) -> set[str]:
    """Return what the release has in the API server's flow control."""
    kinds = "flowschemas,prioritylevelconfigurations"
    found = await kubectl(cluster.site, "get", kinds, "-o=name")
    return {name for name in found.split() if name.endswith(f"/incumbent.{namespace}")}


async def test_a_life_without_values(cluster, install, tmp_path):
    """Installed, tested, upgraded, rolled back, uninstalled and installed again: it all works."""
    helm, namespace = install.helm, await cluster.namespace()
    where = f"--namespace={namespace}"
    notes = await install("incumbent", namespace, chart=previous_chart(tmp_path))
    assert "FOR TRYING OUT" in notes
    election = await quickstart(cluster)
    await election.wait_leader()
    leader, token = await state(election)

    await helm("test", "incumbent", where, "--timeout=60s")
    assert "incumbent" in cluster.containers.log_of(namespace, "incumbent-test-election")

    values = {"log": {"level": "debug"}, "podLabels": {"team": "a"}}
    upgrade = ("upgrade", "incumbent", str(CHART), where, "--wait", "--timeout=60s")
    await helm(*upgrade, values=values)
    assert (await state(election)) == (leader, token)
    assert len(await flow_control(cluster, namespace)) == 2
    pods = await cluster.kube.pods(namespace, "app.kubernetes.io/component=operator,team=a")
    assert sum(has_condition(pod, "Ready") for pod in pods) == 2
    await helm("rollback", "incumbent", "1", where, "--wait", "--timeout=60s")
    assert (await state(election)) == (leader, token)

    await helm("uninstall", "incumbent", where, "--wait", "--timeout=60s")
    assert await election.labels() == {}
    assert await everything(cluster, namespace) == set()
    assert await flow_control(cluster, namespace) == set()
    left = await cluster.kube.get(election.path)
    assert not left["metadata"].get("finalizers")
    assert condition_of(left, "Ready")["reason"] == "NotServed"
    assert "leader" not in left["status"]

    await install("incumbent", namespace)
    await led_again(election)
    assert (await state(election))[1] >= token


@pytest.mark.parametrize("version", ("helm3",))
async def test_another_release_takes_the_elections_over(
    cluster, install, nats_server, private_nats
):
    """The definition stays with the elections; helm has to be told that it changes hands.

    With another NATS server tokens begin anew, and the elections wait for somebody to accept that.
    """
    namespace = await cluster.namespace()
    nats = {"url": nats_server.url, "bucket": {"name": "OVER", "create": True}}
    values = {"replicaCount": 1, "nats": nats}
    await install("one", namespace, values=values)
    election = await quickstart(cluster)
    await election.wait_leader()
    _, token = await state(election)
    await install.helm("uninstall", "one", f"--namespace={namespace}", "--wait")
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        await install("two", namespace, values=values)
    await install("two", namespace, "--take-ownership", values=values)
    await led_again(election)
    assert (await state(election))[1] >= token

    values["nats"]["url"] = private_nats.url
    where = (f"--namespace={namespace}", "--wait", "--timeout=60s")
    await install.helm("upgrade", "two", str(CHART), *where, values=values)
    await election.wait_reason("TokenRegressed")
    await election.patch(onTokenRegress="Accept")
    await election.wait_leader()


@pytest.mark.parametrize("version", ("helm4",))
async def test_in_a_namespace_of_ones_own(cluster, install, tmp_path):
    """With Roles only, and a login from a Secret; `helm test` finds out when that is wrong."""
    namespace = await cluster.namespace()
    login = "authorization { user: elections, password: planted-secret }"
    await kubectl(
        cluster.site,
        *("create", "secret", "generic", "nats", f"--namespace={namespace}"),
        *("--from-literal=username=elections", "--from-literal=password=planted-secret"),
    )
    async with NatsServer(tmp_path / "nats", config=login) as nats:
        auth = {"userPassword": {"secretName": "nats"}}
        values = {
            "watch": {"namespaces": [namespace]},
            "site": "blue",
            "replicaCount": 1,
            "nats": {"url": nats.url, "bucket": {"create": True}, "auth": auth},
        }
        await install("incumbent", namespace, values=values)
        election = await quickstart(cluster, namespace)
        await election.wait_leader()
        assert (await election.status())["site"] == "blue"
        test = ("test", "incumbent", f"--namespace={namespace}")
        await install.helm(*test, "--timeout=60s")
        for pod in await cluster.kube.pods(namespace):
            log = cluster.containers.log_of(namespace, pod["metadata"]["name"])
            assert "planted-secret" not in log

        secret = f"/api/v1/namespaces/{namespace}/secrets/nats"
        await cluster.kube.patch(secret, {"stringData": {"password": "another"}})
        with pytest.raises(HelmError):
            await install.helm(*test, "--timeout=5s")
        said = cluster.containers.log_of(namespace, "incumbent-test-election")
        assert "refuses the login" in said
        await install.helm("uninstall", "incumbent", f"--namespace={namespace}", "--wait")
        assert await election.labels() == {}
    roles = await kubectl(cluster.site, "get", "clusterroles,clusterrolebindings", "-o=name")
    assert "incumbent" not in roles


@pytest.mark.parametrize("version", ("helm3",))
async def test_with_the_definition_all_elections_go(cluster, install, nats_server):
    """Nothing hangs in its finalizer, and no pod keeps a label."""
    namespace = await cluster.namespace()
    values = {
        "replicaCount": 1,
        "crds": {"keep": False},
        "nats": {"url": nats_server.url, "bucket": {"name": "GONE", "create": True}},
    }
    await install("incumbent", namespace, values=values)
    election = await quickstart(cluster)
    await election.wait_leader()
    await install.helm(
        *("uninstall", "incumbent", f"--namespace={namespace}", "--wait", "--timeout=60s")
    )
    await cluster.kube.until(DEFINITION, lambda found: found is None)
    assert await election.labels() == {}
    assert len(await election.pods()) == 3


async def test_a_second_release_is_refused(cluster, install):
    """If it would serve a namespace that another release serves; an upgrade only warns."""
    one, two, shop = [await cluster.namespace() for _ in range(3)]
    everywhere = {"replicaCount": 0, "nats": {"url": "nats://x"}}

    def only(*namespaces):
        return {**everywhere, "site": "blue", "watch": {"namespaces": [*namespaces]}}

    async def second(values):
        where = (f"--namespace={two}", "--dry-run=server")
        return await install.helm("install", "two", str(CHART), *where, values=values)

    await install("one", one, values=everywhere)
    for values in (everywhere, only(shop)):
        with pytest.raises(HelmError, match=f"another release: .* one in the namespace {one}"):
            await second(values)
    await second({**everywhere, "refuseSecondRelease": False, "crds": {"enabled": False}})
    await install.helm("uninstall", "one", f"--namespace={one}", "--wait")

    await install("one", one, "--take-ownership", values=only(shop))
    for values in (everywhere, only(two, shop)):
        with pytest.raises(HelmError, match=f"serves the elections of the namespace {shop}"):
            await second(values)
    await second({**only(two), "crds": {"enabled": False}})
    upgrade = ("upgrade", "one", str(CHART), f"--namespace={one}")
    assert "another release" not in await install.helm(*upgrade, values=only(shop))
    beside = {**only(shop), "refuseSecondRelease": False, "crds": {"enabled": False}}
    await install("two", two, values=beside)
    assert "WARNING: There is another release" in await install.helm(*upgrade, values=only(shop))


async def test_a_definition_that_was_applied_before_is_left_alone(cluster, install):
    """A release can be installed and upgraded, helm never deletes it, and it may be handed over."""
    crds, namespace = str(CHART.parents[1] / "crds"), await cluster.namespace()
    await kubectl(cluster.site, "apply", "--server-side", "-f", crds)
    values = {"replicaCount": 0, "nats": {"url": "nats://x"}}
    notes = await install("incumbent", namespace, values=values)
    assert "was applied from crds/" in notes
    upgrade = ("upgrade", "incumbent", str(CHART), f"--namespace={namespace}")
    await install.helm(*upgrade, values=values)
    untouched = await cluster.kube.get(DEFINITION)
    assert "app.kubernetes.io/managed-by" not in untouched["metadata"].get("labels", {})

    marks = {"meta.helm.sh/release-name": "incumbent", "meta.helm.sh/release-namespace": namespace}
    helm = {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": marks}
    await cluster.kube.patch(DEFINITION, {"metadata": helm})
    values["crds"] = {"labels": {"owned": "yes"}}
    assert "was applied from crds/" not in await install.helm(*upgrade, values=values)
    owned = await cluster.kube.get(DEFINITION)
    assert owned["metadata"]["labels"]["owned"] == "yes"

    await kubectl(cluster.site, "replace", "-f", crds)  # which takes the marks of helm away
    await install.helm(*upgrade, values=values)
    await install.helm("uninstall", "incumbent", f"--namespace={namespace}", "--wait")
    left = await cluster.kube.get(DEFINITION)
    assert left["metadata"]["uid"] == untouched["metadata"]["uid"]
    assert "deletionTimestamp" not in left["metadata"]
