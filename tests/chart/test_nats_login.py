"""The login of the chart's own NATS server: made once, kept, and asked of everybody."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from controlplane.kube import kubectl
from helm import CHART, Helm, objects, quickstart

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "incumbent-nats"

anywhere = pytest.mark.asyncio(loop_scope="session")
slowly = pytest.mark.timeout(300)


async def login_of(cluster, namespace, name=SECRET):
    """Return user name and password."""
    found = await cluster.kube.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return [base64.b64decode(found["data"][key]).decode() for key in ("username", "password")]


async def connects(cluster, namespace, user="", password=""):
    """Return whether the server lets somebody in."""
    port = cluster.containers.port_of(namespace, f"{SECRET}-0", 4222)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()  # what the server says of itself
        login = {"verbose": False} | ({"user": user, "pass": password} if user else {})
        writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
        answer = await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer in {b"PONG\r\n", b"-ERR 'Authorization Violation'\r\n"}
    return answer == b"PONG\r\n"


def chart_without_password(folder: Path) -> Path:
    """Return the chart as it was before its server had a login."""
    chart = folder / "before"
    shutil.copytree(CHART, chart)
    server = chart / "templates" / "nats.yaml"
    text = server.read_text()
    flag = "            - --config=/etc/nats/nats.conf\n"
    assert flag in text
    server.write_text(text.replace(flag, ""))
    # Of two definitions of one name the last one counts.
    (chart / "templates" / "_zz.tpl").write_text(
        '{{- define "incumbent.natsSecret" -}}{{- end }}'
        '{{- define "incumbent.natsUserPassword" -}}secretName: ""{{- end }}'
    )
    head, _, tail = server.read_text().partition("          env:\n")
    server.write_text(head + tail[tail.index("          ports:\n") :])
    return chart


@anywhere
@slowly
async def test_the_password_is_made_once_and_asked_of_everybody(cluster, install):
    """An upgrade keeps it; the operator, `helm test` and whoever may read the Secret have it."""
    namespace = await cluster.namespace()
    where = f"--namespace={namespace}"
    notes = await install("incumbent", namespace)
    assert f"The Secret {SECRET} has the user name and the password" in notes
    assert "was not made" not in notes
    election = await quickstart(cluster)
    await election.wait_leader()
    user, password = await login_of(cluster, namespace)
    assert (user, len(password)) == ("incumbent", 40)
    assert not await connects(cluster, namespace)
    assert not await connects(cluster, namespace, user=user, password="wrong")
    assert await connects(cluster, namespace, user=user, password=password)
    await install.helm("test", "incumbent", where, "--timeout=60s")

    upgrade = ("upgrade", "incumbent", str(CHART), where, "--wait", "--timeout=60s")
    await install.helm(*upgrade, values={"podLabels": {"team": "a"}})
    assert await login_of(cluster, namespace) == [user, password]
    assert await election.wait_leader()
    for pod in await cluster.kube.pods(namespace):
        log = cluster.containers.log_of(namespace, pod["metadata"]["name"])
        assert password not in log


@anywhere
@slowly
@pytest.mark.parametrize("version", ("helm4",))
async def test_an_upgrade_from_a_server_without_a_password_changes_no_leader(
    cluster, install, tmp_path
):
    """The bucket stays where it was, and the new replicas log in before the leases end."""
    namespace = await cluster.namespace()
    await install("incumbent", namespace, chart=chart_without_password(tmp_path))
    election = await quickstart(cluster)
    leader = await election.wait_leader()
    token = (await election.status())["token"]
    assert await connects(cluster, namespace)

    where = (f"--namespace={namespace}", "--wait", "--timeout=60s")
    await install.helm("upgrade", "incumbent", str(CHART), *where)
    assert not await connects(cluster, namespace)
    user, password = await login_of(cluster, namespace)
    assert await connects(cluster, namespace, user=user, password=password)
    bucket = await cluster.kube.until(
        election.path, lambda found: found["status"]["steward"]["revision"]
    )
    assert (await election.wait_leader(), bucket["status"]["token"]) == (leader, token)
    await install.helm("rollback", "incumbent", "1", *where)
    assert (await election.wait_leader(), (await election.status())["token"]) == (leader, token)


@anywhere
@slowly
@pytest.mark.parametrize("version", ("helm3",))
async def test_a_secret_of_ones_own_is_used_and_left_alone(cluster, install):
    """Under any name, also under that which the chart would take."""
    namespace = await cluster.namespace()
    for name in (SECRET, "mine"):
        await kubectl(
            cluster.site,
            *("create", "secret", "generic", name, f"--namespace={namespace}"),
            *(f"--from-literal=username=me-{name}", "--from-literal=password=planted_1.-"),
        )
    await install("incumbent", namespace)
    election = await quickstart(cluster)
    await election.wait_leader()
    assert await login_of(cluster, namespace) == [f"me-{SECRET}", "planted_1.-"]
    assert await connects(cluster, namespace, user=f"me-{SECRET}", password="planted_1.-")

    upgrade = ("upgrade", "incumbent", str(CHART), f"--namespace={namespace}", "--wait")
    values = {"nats": {"builtIn": {"auth": {"secretName": "mine"}}}}
    await install.helm(*upgrade, "--timeout=60s", values=values)
    assert await connects(cluster, namespace, user="me-mine", password="planted_1.-")
    assert not await connects(cluster, namespace, user=f"me-{SECRET}", password="planted_1.-")
    await install.helm("uninstall", "incumbent", f"--namespace={namespace}", "--wait")
    assert await login_of(cluster, namespace) == [f"me-{SECRET}", "planted_1.-"]


def test_what_asks_no_cluster_makes_no_password(helm):
    """Otherwise each rendering would have another one. The pods name the Secret all the same."""
    kinds = "--api-versions=apps/v1/Deployment"
    for flags in ((), (kinds,)):
        first, second = helm.render({}, *flags), helm.render({}, *flags)
        assert first == second
        assert not objects(first, "Secret")
        (server,) = objects(first, "StatefulSet")
        environment = server["spec"]["template"]["spec"]["containers"][0]["env"]
        names = [e["valueFrom"]["secretKeyRef"]["name"] for e in environment if "valueFrom" in e]
        assert names == [SECRET, SECRET]


def test_notes_say_how_to_create_what_was_not_made(helm4):
    """With the name that the pods look for."""
    notes = helm4.run("install", "incumbent", str(CHART), "--dry-run=client")
    assert f"create secret generic {SECRET} --from-literal=username=incumbent" in notes
    notes = helm4.run(
        "install",
        "incumbent",
        str(CHART),
        "--dry-run=client",
        values={"nats": {"builtIn": {"auth": {"secretName": "mine"}}}},
    )
    assert "create secret generic" not in notes
    assert "The Secret mine has the user name" in notes


def test_values_of_an_earlier_version_are_enough(tmp_path):
    """`helm upgrade --reuse-values` brings none of the new ones."""
    chart = tmp_path / "reused"
    shutil.copytree(CHART, chart)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    del values["nats"]["builtIn"]["auth"]
    (chart / "values.yaml").write_text(yaml.safe_dump(values))
    rendered = Helm("helm3", tmp_path).run("template", "incumbent", str(chart))
    assert "--nats-password-file=/etc/incumbent/nats/password" in rendered


def test_the_operators_user_can_destroy_nothing(helm3):
    """It neither deletes, purges, changes nor restores a bucket."""
    (config,) = [c for c in objects(helm3.render({}), "ConfigMap") if "nats.conf" in c["data"]]
    text = config["data"]["nats.conf"]
    for verb in ("DELETE", "PURGE", "UPDATE", "RESTORE", "SNAPSHOT"):
        assert verb not in text
    assert '"$JS.API.>"' not in text
    assert '">"' not in text


@anywhere
@slowly
@pytest.mark.parametrize("version", ("helm3",))
async def test_who_has_rights_in_one_namespace_only_gets_a_password_too(cluster, install):
    """Then helm asks for an account of the namespace, which is in every one."""
    namespace, crds = await cluster.namespace(), str(CHART.parents[1] / "crds")
    await kubectl(cluster.site, "apply", "--server-side", "-f", crds)
    values = {
        "watch": {"namespaces": [namespace]},
        "site": "blue",
        "crds": {"enabled": False},
        "replicaCount": 1,
    }
    await install("incumbent", namespace, values=values)
    assert (await login_of(cluster, namespace))[0] == "incumbent"
    await (await quickstart(cluster, namespace)).wait_leader()
