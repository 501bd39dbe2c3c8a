"""`python -m image build` and `python -m image check`; needs nothing but Python and a builder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from image.engines import Chroot, Engine, Missing, find_tool, output, prepared

ROOT = Path(__file__).parents[2]
REGISTRY = os.environ.get("REGISTRY") or "ghcr.io/incumbent-dev"
"""Together with names and version what the chart asks for."""
TARGETS = {"incumbent": "incumbent", "nats": "incumbent-nats"}
PATIENCE = 60.0
LABELS = ("title", "description", "licenses", "source", "version", "revision")
NO_CLUSTER = """
apiVersion: v1
kind: Config
current-context: nowhere
contexts: [{name: nowhere, context: {cluster: nowhere, user: nobody}}]
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
"""
INSIDE = """
import json, os, shutil, ssl, stat, zoneinfo
folders = ["/", "/etc", "/opt/incumbent", "/usr", "/usr/local", "/home", "/var", "/tmp", "/root"]
writable = []
for folder in folders:
    try:
        open(os.path.join(folder, "probe"), "w").close()
    except OSError:
        continue
    writable.append(folder)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
tools = ["cc", "gcc", "g++", "clang", "cpp", "ld", "as", "make", "cargo", "rustc", "go"]
unwanted = {"sh", "bash", "dash", "ash", "busybox", "pip", "pip3", "ensurepip", "apt", "apt-get",
            "dpkg", "apk", "perl", "su", "mount", "ldd"}
found = []
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in {"proc", "sys", "dev"}]
    for name in (*folders, *files):
        path = os.path.join(folder, name)
        mode = 0 if os.path.islink(path) else os.lstat(path).st_mode
        setuid = mode & (stat.S_ISUID | stat.S_ISGID)
        if name in unwanted or setuid or (mode & stat.S_IWOTH and not mode & stat.S_ISVTX):
            found.append(path)
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "writable": writable,
    "capabilities": int(status["CapEff"], 16), "compilers": list(filter(shutil.which, tools)),
    "unwanted": found, "authorities": len(os.listdir(ssl.get_default_verify_paths().capath)),
    "zone": zoneinfo.ZoneInfo("Europe/Zurich").key, "shell": shutil.which("sh"),
}))
"""
"""What a process in the image finds out about itself."""


def version() -> str:
    """Return the version of the project."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def name_of(target: str) -> str:
    """Return the name of the image that a target of the Containerfile becomes."""
    return f"{REGISTRY}/{TARGETS[target]}:{version()}"


def build() -> None:
    """Build all images."""
    tool = find_tool()
    commit, seconds = output("git", "-C", str(ROOT), "log", "-1", "--format=%H %ct").split()
    command = [tool, "build"]
    if tool != "docker":
        # All files are as old as the commit: the same sources are the same image.
        command += [f"--timestamp={seconds}"]
    command += [f"--build-arg=VERSION={version()}", f"--build-arg=REVISION={commit}"]
    if base := os.environ.get("BASE"):
        command += [f"--build-arg=BASE={base}"]
    command += shlex.split(os.environ.get("IMAGE_FLAGS", ""))
    for target in TARGETS:
        image = name_of(target)
        _say(f"building {image} with {tool}")
        file = ("--file", str(ROOT / "Containerfile"))
        subprocess.run([*command, *file, "--target", target, "--tag", image, str(ROOT)], check=True)


def check() -> None:
    """Look whether the images that were built do what they promise."""
    tool = find_tool()
    for target, look in (("incumbent", _check_operator), ("nats", _check_nats)):
        image = name_of(target)
        inspect = [tool, "inspect", "--type=image", image]
        known = subprocess.run(inspect, check=False, capture_output=True)
        if known.returncode:
            msg = f"there is no image {image}: build it first, with make image."
            raise Missing(msg)
        with prepared(tool, image) as running, tempfile.TemporaryDirectory() as folder:
            _say(f"{image}: {running.size / 1e6:.0f} MB unpacked")
            _check_config(running)
            look(running, Path(folder))


def _check_config(running: Engine | Chroot) -> None:
    user, _, group = running.config.user.partition(":")
    _expect(user.isdigit() and group.isdigit() and int(user) > 0, "a numeric user that is not root")
    _expect(len(running.config.entrypoint) == 1, "an entrypoint without a shell")
    labels = [f"org.opencontainers.image.{name}" for name in LABELS]
    _expect(all(running.config.labels.get(label) for label in labels), "the labels of OCI")
    version_label = running.config.labels["org.opencontainers.image.version"]
    _expect(version_label == version(), f"version {version_label}")


def _check_operator(running: Engine | Chroot, folder: Path) -> None:
    probe = running.command("-c", INSIDE, entrypoint="/opt/incumbent/bin/python")
    inside = json.loads(output(*probe))
    _expect(inside["uid"] and inside["gid"] and not inside["groups"], "does not run as root")
    _expect(inside["capabilities"] == 0, "has no capability")
    _expect(not inside["writable"], "can write nowhere")
    _expect(not inside["compilers"], "holds no compiler")
    _expect(not inside["unwanted"], f"holds no shell, no pip, nothing setuid {inside['unwanted']}")
    _expect(inside["zone"], "holds time zones")
    _expect(inside["authorities"], "holds certificate authorities")

    folder.chmod(0o755)
    (folder / "kubeconfig").write_text(NO_CLUSTER)
    (folder / "kubeconfig").chmod(0o644)
    port = _free_port()
    flags = (f"--http-address=:{port}", "--kubeconfig=/tmp/kubeconfig")
    command = running.command("operator", *flags, ports=[port], mounts={folder: "/tmp"})
    with _running(command) as process:
        started = time.monotonic()
        _until(lambda: _get(port, "/livez") == (200, "ok\n"), process)
        _say(f"  ok: answers /livez, {time.monotonic() - started:.1f} s after its start")
        status, text = _get(port, "/readyz")
        _expect(status == 503 and "nats" in text, "is not ready without NATS, and says so")
    _expect(process.returncode == 0, "ends on SIGTERM with exit code 0")
    found = output(*running.command("--version"))
    _expect(version() in found, f"says {found}")


def _check_nats(running: Engine | Chroot, folder: Path) -> None:
    folder.chmod(0o777)
    port, monitor = _free_port(), _free_port()
    flags = ("--jetstream", "--store_dir=/data", f"--port={port}", f"--http_port={monitor}")
    command = running.command(*flags, ports=[port, monitor], mounts={folder: "/data"})
    with _running(command) as process:
        _until(lambda: _get(monitor, "/healthz")[0] == 200, process)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            hello = connection.makefile().readline()
        _expect(json.loads(hello.removeprefix("INFO "))["jetstream"], "offers JetStream")
    _expect(process.returncode == 0, "ends on SIGTERM with exit code 0")


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
            process.terminate()
            process.wait(timeout=PATIENCE)
        except BaseException:
            process.kill()
            process.wait()
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            msg = "it does not answer; its log is above"
            raise AssertionError(msg)
        time.sleep(0.05)


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _expect(holds: object, what: str) -> None:
    _say(f"  {'ok' if holds else 'NOT'}: {what}")
    if not holds:
        raise AssertionError(what)


def main() -> int:
    """Do what the command line says; return the exit code."""
    try:
        {"build": build, "check": check}[sys.argv[1]]()
    except Missing as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except AssertionError as error:
        sys.stderr.write(f"error: the image breaks a promise: {error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"error: {error.cmd[0]} failed with code {error.returncode}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
