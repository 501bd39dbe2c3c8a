"""The test support does what tests take for granted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest
import yaml
from nats.js.errors import BucketNotFoundError

from controlplane.kube import Kube, kubectl
from controlplane.nodes import STOP_SECONDS
from controlplane.proxy import Towards
from controlplane.sites import WRITES

needs_proc = pytest.mark.skipif(
    not Path("/proc").exists(), reason="other processes are looked for in /proc"
)


def ready_addresses(slices):
    """Return the addresses that the EndpointSlices of one Service call ready."""
    return {
        address
        for found in slices["items"]
        for endpoint in found["endpoints"] or ()
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
    }


def processes_of(folder):
    """Return the command lines of all processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


async def eventually(condition, *, timeout=20):
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def python(program, folder):
    """Start a program that imports the test support and takes a folder as its argument."""
    return subprocess.Popen(
        [sys.executable, "-c", program, folder],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )


async def ignore(_):
    """Hear of an error, and do nothing."""


async def connect(server_or_proxy):
    """Return a client that tries for ever to come back."""
    port = server_or_proxy.port
    return await nats.connect(
        f"nats://127.0.0.1:{port}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.05,
        error_cb=ignore,
    )


async def test_pods_of_a_deployment_become_ready_with_distinct_addresses(kube, namespace):
    """Scheduler, controllers and node agent bring a Deployment up."""
    pods = await kube.deployment(namespace, "web")
    assert len({pod["status"]["podIP"] for pod in pods}) == 3


async def test_readiness_reaches_the_endpoint_slice(kube, namespace, pods):
    """A pod whose probe fails leaves the ready endpoints of its Service, and comes back."""
    first, *others = await kube.deployment(namespace, "web")
    everyone = {pod["status"]["podIP"] for pod in [first, *others]}
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    service = {"metadata": {"name": "web"}, "spec": spec}
    await kube.create(f"/api/v1/namespaces/{namespace}/services", service)
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    await kube.until(slices, lambda found: ready_addresses(found) == everyone)

    await pods.set_ready(first, ready=False)

    missing = {first["status"]["podIP"]}
    await kube.until(slices, lambda found: ready_addresses(found) == everyone - missing)
    await pods.set_ready(first, ready=True)
    await kube.until(slices, lambda found: ready_addresses(found) == everyone)


async def test_failed_pod_is_replaced(kube, namespace, pods):
    """A crash leaves a Failed pod, and the ReplicaSet starts another one."""
    (pod,) = await kube.deployment(namespace, "web", replicas=1)

    await pods.fail(pod)

    def replaced(found):
        states = sorted(
            (item["status"]["phase"], item["metadata"]["uid"] == pod["metadata"]["uid"])
            for item in found["items"]
        )
        return states == [("Failed", True), ("Running", False)]

    await kube.until(f"/api/v1/namespaces/{namespace}/pods", replaced)


async def test_stalled_pod_hangs_until_its_node_comes_back(kube, namespace, pods):
    """A deleted pod of a node that is cut off stays, terminating."""
    (pod,) = await kube.deployment(namespace, "web", replicas=1)
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    await pods.stall(pod)

    await kube.delete(path)

    await asyncio.sleep(0.5)
    assert "deletionTimestamp" in (await kube.get(path))["metadata"]
    await pods.resume(pod)
    await kube.until(path, lambda found: found is None)


async def test_slow_pod_takes_its_time_to_end(kube, namespace):
    """An annotation of the pod says how long it takes to end."""
    (pod,) = await kube.deployment(namespace, "web", replicas=1, annotations={STOP_SECONDS: "1"})
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"

    await kube.delete(path)

    await asyncio.sleep(0.5)
    assert (await kube.get(path))["status"]["phase"] == "Running"
    await kube.until(path, lambda found: found is None)


async def test_audit_log_tells_who_wrote_what(site, kube, namespace):
    """Writes can be counted by user, and reads are apart."""
    since = site.audit.position()
    arguments = ("--namespace", namespace)

    await kubectl(site, *arguments, "create", "configmap", "mine", user="operator")
    await kubectl(site, *arguments, "get", "configmaps", user="operator")
    await kubectl(site, *arguments, "create", "configmap", "yours", user="admin")

    (write,) = site.audit.requests(since=since, user="operator", namespace=namespace, verbs=WRITES)
    assert (write.verb, write.resource, write.name) == ("create", "configmaps", "mine")
    assert write.status == 201


async def test_kubeconfig_leads_through_a_proxy(site, proxy):
    """A kubeconfig file may name a proxy, and TLS still holds."""
    between = await proxy(int(site.url.rpartition(":")[2]))
    path = site.kubeconfig_for("operator", server=between.address)

    printed = await kubectl(site, f"--kubeconfig={path}", "get", "namespaces")

    assert "kube-system" in printed
    assert ":" not in str(path)


async def test_a_kubeconfig_is_not_written_over_under_a_reader(site, namespace):
    """A kubectl that has opened the file reads it to its end, though another process wants it."""
    first = site.kubeconfig_for(namespace, token="a")
    with first.open() as opened:
        assert site.kubeconfig_for(namespace, token="b") == first
        assert yaml.safe_load(opened)["users"][0]["user"]["token"] == "a"
    assert yaml.safe_load(first.read_text())["users"][0]["user"]["token"] == "b"
    assert list(first.parent.glob(f"{namespace}*")) == [first]


async def test_sites_are_different_clusters(site, second_site):
    """Two sites share no object."""
    show = ("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
    assert await kubectl(site, *show) != await kubectl(second_site, *show)


@pytest.mark.parametrize("keep_store", (True, False))
async def test_restart_keeps_or_loses_the_store(private_nats, keep_store):
    """A server that was killed comes back with all it had acknowledged, or empty."""
    client = await connect(private_nats)
    await (await client.jetstream().create_key_value(bucket="B")).put("key", b"value")
    await client.close()

    await private_nats.restart(keep_store=keep_store)

    client = await connect(private_nats)
    if keep_store:
        bucket = await client.jetstream().key_value("B")
        assert (await bucket.get("key")).value == b"value"
    else:
        with pytest.raises(BucketNotFoundError):
            await client.jetstream().key_value("B")
    await client.close()


async def test_black_hole_swallows_without_a_sign(private_nats, proxy):
    """Both sides believe in a connection on which nothing arrives; it ends with the fault."""
    between = await proxy(private_nats.port)
    client = await connect(between)
    received = await client.subscribe("subject")
    await client.flush()

    between.black_hole()

    await client.publish("subject", b"lost")
    with pytest.raises(TimeoutError):
        await received.next_msg(timeout=0.3)
    assert client.is_connected
    assert (await private_nats.monitor("varz"))["in_msgs"] == 0
    await between.resume()
    await eventually(lambda: client.stats["reconnects"] == 1)
    await client.close()


async def test_hold_delivers_late(private_nats, proxy):
    """What is held in one direction arrives when the fault ends, on the same connection."""
    between = await proxy(private_nats.port)
    client = await connect(between)
    received = await client.subscribe("subject")
    await client.flush()

    between.hold(Towards.CLIENT)

    await client.publish("subject", b"late")
    with pytest.raises(TimeoutError):
        await received.next_msg(timeout=0.3)
    assert (await private_nats.monitor("varz"))["in_msgs"] == 1
    await between.resume()
    assert (await received.next_msg(timeout=5)).data == b"late"
    assert client.stats["reconnects"] == 0
    await client.close()


async def test_refuse_ends_and_forbids_connections(private_nats, proxy):
    """A client comes back only after the fault."""
    between = await proxy(private_nats.port)
    client = await connect(between)

    await between.refuse()

    await eventually(lambda: not client.is_connected)
    assert between.connections == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", between.port)
    await between.resume()
    await eventually(lambda: client.is_connected)
    await client.close()


async def test_delay_makes_a_round_trip_longer(private_nats, proxy):
    """Delays of both directions add up."""
    between = await proxy(private_nats.port)
    client = await connect(between)

    between.delay(0.2)

    loop = asyncio.get_running_loop()
    start = loop.time()
    await client.flush()
    assert loop.time() - start >= 0.4
    await client.close()


async def test_api_server_alone_stops_and_comes_back(private_plane):
    """A control plane of a test's own keeps its objects over an outage of its API server."""
    show = ("get", "namespace", "kept")
    await kubectl(private_plane.site, "create", "namespace", "kept")

    private_plane.kill_api_server()

    with pytest.raises(AssertionError, match="refused"):
        await kubectl(private_plane.site, *show)
    await private_plane.start_api_server()
    assert "kept" in await kubectl(private_plane.site, *show)
    private_plane.kill()
    assert not processes_of(private_plane.site.folder)


@needs_proc
def test_nothing_outlives_the_users_of_a_shared_site(shared_folder, tmp_path):
    """A shared site ends with its last user, even one that could not clean up, and not before."""
    program = (
        "import pathlib, sys, time\n"
        "from controlplane import shared\n"
        "with shared.use(pathlib.Path(sys.argv[1])) as running:\n"
        "    print(running.site.url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    first, second = users = [python(program, tmp_path / "site") for _ in range(2)]
    try:
        assert first.stdout.readline() == second.stdout.readline() != b""
        first.kill()
        time.sleep(1)
        assert any("kube-apiserver" in line for line in processes_of(tmp_path))
    finally:
        for user in users:
            user.kill()
            user.communicate()
    asyncio.run(eventually(lambda: not processes_of(tmp_path)))


@needs_proc
def test_nothing_outlives_a_killed_parent(tmp_path):
    """A server dies with the Python that started it."""
    program = (
        "import asyncio, pathlib, sys, time\n"
        "from controlplane.natsserver import NatsServer\n"
        "server = NatsServer(pathlib.Path(sys.argv[1]) / 'nats')\n"
        "asyncio.run(server.start())\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = python(program, tmp_path)
    assert parent.stdout.readline() == b"ready\n"
    assert processes_of(tmp_path / "nats")
    parent.kill()
    parent.communicate()
    asyncio.run(eventually(lambda: not processes_of(tmp_path)))


def test_watch_that_ends_leaves_no_connection_behind(site):
    """Also where the loop ends at once: the next test would be blamed for the connection."""

    async def watch():
        async with (
            Kube(site) as kube,
            contextlib.aclosing(kube.watch("/api/v1/namespaces")) as changes,
        ):
            assert await anext(changes)

    for _ in range(20):
        asyncio.run(watch())
        gc.collect()  # warns of a connection that is still open, which fails the test
