"""What starts the servers of the tests."""

from __future__ import annotations

import subprocess
import sys

from controlplane.processes import free_port


def test_a_port_is_given_to_one_process_only(monkeypatch):
    """The server that it is for does not listen yet, so nothing else tells that it is taken."""
    port = free_port()
    ports = iter([port, port + 1, port + 2, port + 3])
    monkeypatch.setattr("controlplane.processes.random.randrange", lambda *_: next(ports))
    assert free_port() != port
    code = (
        "import sys\n"
        "from controlplane import processes\n"
        f"ports = iter([{port}, *range({port} + 4, {port} + 40)])\n"
        "processes.random.randrange = lambda *_: next(ports)\n"
        "print(processes.free_port())\n"
    )
    path = ":".join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONPATH": path}
    )
    assert int(found.stdout) != port
