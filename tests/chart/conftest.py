"""helm 3 and 4, and a control plane for the chart, whose containers run as processes here."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from controlplane import build
from controlplane.containers import Containers, our_images, provide_volume
from controlplane.kube import ApiError, Kube
from controlplane.nodes import NodeAgent
from controlplane.servers import ControlPlane
from helm import CHART, DEFINITION, Helm, HelmError
from operatorprocess import SOURCES

if TYPE_CHECKING:
    from controlplane.sites import Site

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
VOLUMES = 32


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in which pods of our images run, though nothing contains them."""

    site: Site
    kube: Kube
    containers: Containers

    async def namespace(self, name: str = "chart") -> str:
        """Create a namespace with the strictest Pod Security, and return its full name."""
        full = f"{name}-{secrets.token_hex(3)}"
        await self.kube.namespace(full)
        await self.kube.patch(f"/api/v1/namespaces/{full}", {"metadata": {"labels": RESTRICTED}})
        return full


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm before the first test, for a test has a time limit."""
    if not session.config.option.collectonly:
        build.helms()


@pytest.fixture(params=["helm3", "helm4"])
def version(request):
    """Each version of helm."""
    return request.param


@pytest.fixture
def helm(version, tmp_path):
    """Each helm, for what needs no cluster."""
    return Helm(version, tmp_path)


@pytest.fixture
def helm3(tmp_path):
    """One helm, the quicker one, for what is the same in each."""
    return Helm("helm3", tmp_path)


@pytest.fixture
def helm4(tmp_path):
    """The other one."""
    return Helm("helm4", tmp_path)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster with no CRD of ours. Tests run in its loop, by `asyncio(loop_scope="session")`."""
    folder = tmp_path_factory.mktemp("cluster")
    containers = Containers(folder / "pods", our_images(SOURCES))
    async with (
        ControlPlane(folder) as plane,
        Kube(plane.site) as kube,
        NodeAgent(plane.site, containers=containers),
    ):
        for number in range(VOLUMES):
            await provide_volume(kube, f"volume-{number}", folder / "volumes")
        yield Cluster(plane.site, kube, containers)


@pytest_asyncio.fixture(loop_scope="session")
async def install(version, tmp_path, cluster):
    """Return a function that installs; afterwards nothing of it is left.

    Its arguments are a release, a namespace, flags of helm, and values.
    """
    helm = Helm(version, tmp_path, cluster.site)
    releases = []

    async def run(release, namespace, *flags, values=None, chart=CHART):
        where = (f"--namespace={namespace}", "--wait", "--timeout=60s")
        releases.append((release, namespace))
        return await helm("install", release, str(chart), *where, *flags, values=values)

    run.helm = helm
    yield run
    for release, namespace in releases:
        with contextlib.suppress(HelmError):
            await helm("uninstall", release, f"--namespace={namespace}", "--timeout=30s")
    with contextlib.suppress(ApiError):
        await cluster.kube.delete(DEFINITION)
    await cluster.kube.until(DEFINITION, lambda found: found is None)
