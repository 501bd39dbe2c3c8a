"""A shell in which the commands of a page are typed."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path

import pytest

from controlplane import build
from docpages import ROOT


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm before the first test, for a test has a time limit."""
    if not session.config.option.collectonly:
        build.helms()


@pytest.fixture
def type_in(site, namespace, private_nats, tmp_path):
    """Return a coroutine function that types a command, and returns what it printed.

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

    async def run(command):
        process = await asyncio.create_subprocess_shell(
            command,
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{command}: {output}"
        return output

    async def prepared(command):
        if "prepared" not in environment:
            enter = f"kubectl config set-context --current --namespace={shlex.quote(namespace)}"
            await run(enter)
            environment["prepared"] = "yes"
        return await run(command)

    return prepared
