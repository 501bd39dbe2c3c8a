"""Fixtures for all tests. Servers start when a test asks for them, so unit tests never do."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import secrets
import shlex
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import settings
from structlog.testing import capture_logs

from controlplane import build, shared
from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.nodes import PodControl
from controlplane.proxy import Proxy
from controlplane.servers import ControlPlane
from elections import Election
from operatorprocess import SOURCES, OperatorProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from structlog.typing import EventDict

    from controlplane.sites import Site


# Few examples, the same at each run; for more there is --hypothesis-profile=thorough.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("quick")

# A shell starts what is to run in the background with SIGINT ignored, and all that we start would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Or pytest-asyncio 1.5 makes a loop of its own where tests with and without asyncio mix, never
# closes it, and the run fails for that although all tests have passed.
asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guard every asynchronous test: first set up means last torn down."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.fixturenames.insert(0, "no_task_is_left")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane before the first test, for a test has a time limit."""
    wanted = any("shared_folder" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and build.missing():
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        build.programs(reporter.write_line if reporter else lambda _: None)


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail when a test, or one of its fixtures, leaves an asyncio task behind."""
    yield
    for _ in range(5):  # a cancelled task needs a turn or two of the loop to end
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        pytest.fail(f"tasks left behind: {', '.join(sorted(map(str, left)))}", pytrace=False)


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """What is logged during a test."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where all workers of this test run have what they share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def site(shared_folder: Path) -> Iterator[Site]:
    """A Kubernetes API server with controllers, a node and its agent, and our CRD.

    All tests share it. A test keeps to its own `namespace`; one that has to stop the API server
    puts a `proxy` before it, or takes a `private_plane`.
    """
    with shared.use(shared_folder / "site") as running:
        yield running.site


@pytest.fixture(scope="session")
def second_site(shared_folder: Path) -> Iterator[Site]:
    """Another one: another cluster with other UIDs."""
    with shared.use(shared_folder / "second-site") as running:
        yield running.site


@pytest.fixture
async def private_plane(shared_folder: Path, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """A control plane of the test's own, 5 s away and without nodes, to stop and to kill."""
    async with ControlPlane(tmp_path / "plane") as plane:
        yield plane


@pytest.fixture
async def kube(site: Site) -> AsyncIterator[Kube]:
    """An administrator's connection to `site`."""
    async with Kube(site) as connection:
        yield connection


@pytest.fixture
def pods(kube: Kube) -> PodControl:
    """Switches that make the pods of `site` misbehave."""
    return PodControl(kube)


@pytest.fixture
async def namespace(kube: Kube, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A fresh namespace of `site`; deleted afterwards, without waiting for it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    name = f"{words[:40].strip('-')}-{secrets.token_hex(4)}"
    await kube.namespace(name)
    yield name
    await kube.delete(f"/api/v1/namespaces/{name}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    """A NATS server that many tests share: use a bucket of your own, and leave it running."""
    async with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def private_nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A NATS server of the test's own, to stop, pause, kill and restart as it likes."""
    async with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def proxy() -> AsyncIterator[Callable[[int], Awaitable[Proxy]]]:
    """Return a coroutine function that puts a proxy before a port of 127.0.0.1."""
    async with AsyncExitStack() as stack:

        async def before(port: int) -> Proxy:
            return await stack.enter_async_context(Proxy(port))

        yield before


@pytest.fixture
def election(kube: Kube, namespace: str) -> Election:
    """An election called `web`, not created yet, in the test's namespace."""
    return Election(kube, namespace)


@pytest.fixture
def new_operator(
    site: Site, namespace: str, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    """Return a function that makes an operator for the test's namespace; it ends with the test.

    Its arguments are the URL of NATS, more flags, and as keywords those of `OperatorProcess`. No
    log line of it may be a traceback.
    """
    processes: list[OperatorProcess] = []

    def make(nats_url: str, *arguments: str, **options: Any) -> OperatorProcess:
        flags = (f"--namespace={namespace}", *arguments)
        process = OperatorProcess(site, tmp_path, nats_url=nats_url, arguments=flags, **options)
        processes.append(process)
        return process

    yield make
    for process in processes:
        process.kill()
        assert "Traceback" not in process.log


@pytest.fixture
def type_in(
    site: Site, namespace: str, private_nats: NatsServer, tmp_path: Path
) -> Callable[[str], Awaitable[str]]:
    """Return a coroutine function that types a command of a page, and returns what it printed.

    In it kubectl is in the test's namespace, and NATS is the test's own.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("incumbent", "kubectl-incumbent"):
        (folder / program).symlink_to(Path(sys.executable).parent / program)
    config = tmp_path / "kubeconfig"
    config.write_bytes(Path(site.kubeconfig).read_bytes())
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{Path(site.kubectl).parent}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(config),
        "INCUMBENT_NATS_URL": private_nats.url,
    }

    async def run(command: str) -> str:
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=SOURCES.parent,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{command}: {output}"
        return output

    async def prepared(command: str) -> str:
        if "prepared" not in environment:
            enter = f"kubectl config set-context --current --namespace={shlex.quote(namespace)}"
            await run(enter)
            environment["prepared"] = "yes"
        return await run(command)

    return prepared
