"""What the operator's image is made of: as the Containerfile makes it, of this machine's Python."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "Containerfile").read_text()
UNWANTED = re.compile(
    r"(sh|bash|dash|ash|ksh|zsh|busybox|toybox|pip[\d.]*|ensurepip|apt(-.*)?|dpkg(-.*)?|apk|yum|rpm"
    r"|perl|gcc|cc|su|sudo|mount|umount|curl|wget|ldd)"
)
USES = "import ssl, hashlib, zoneinfo, encodings.idna, asyncio, socket; "
USES += "ssl.create_default_context(); print(zoneinfo.ZoneInfo('Europe/Zurich').key)"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory):
    """The root of an image, and in it the path of its Python."""
    folder = tmp_path_factory.mktemp("image")
    environment, target = folder / "venv", folder / "root"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    script = ROOT / "containers" / "rootfs.py"
    python = str(environment / "bin" / "python")
    subprocess.run([python, str(script), str(target), str(environment)], check=True)
    return target, python


@pytest.mark.timeout(300)
def test_it_has_no_shell_no_pip_and_nothing_setuid(rootfs):
    """Nor any other program than Python."""
    target, _ = rootfs
    programs = set()
    for path in target.rglob("*"):
        assert not UNWANTED.fullmatch(path.name), path
        if path.is_symlink() or path.is_dir():
            continue
        mode = path.lstat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), path
        if mode & stat.S_IXUSR and ".so" not in path.name and path.read_bytes()[:4] == b"\x7fELF":
            programs.add(path.name)
    assert len(programs) == 1
    assert programs.pop().startswith("python3")


@pytest.mark.timeout(300)
def test_everything_that_is_linked_is_there(rootfs):
    """No library, certificate or time zone is missing, and Python runs with nothing else."""
    target, python = rootfs
    specification = importlib.util.spec_from_file_location("x", ROOT / "containers" / "rootfs.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for path in target.rglob("*.so*"):
        if path.is_file() and not path.is_symlink():
            for library in module.libraries_of(Path("/") / path.relative_to(target)):
                assert library is not None, path
                assert os.path.lexists(target / library.lstrip("/")), library
    assert any((target / "usr/share/zoneinfo").iterdir())
    assert any((target / "etc/ssl/certs").iterdir())
    if os.geteuid() == 0:  # nobody else may change the root
        command = [shutil.which("chroot"), str(target), python, "-c", USES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
        assert (done.returncode, done.stdout) == (0, "Europe/Zurich\n"), done.stderr


def test_the_images_begin_with_nothing():
    """What is in them comes from the stages before, so from no base image."""
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", CONTAINERFILE, re.MULTILINE)
    assert [base for base, name in stages if name in {"nats", "incumbent"}] == ["scratch"] * 2
    assert "RUN" not in CONTAINERFILE.partition("FROM scratch AS incumbent")[2]
    assert "USER 65532:65532" in CONTAINERFILE
    for form in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", CONTAINERFILE, re.MULTILINE):
        assert form.startswith("[")


def test_nothing_asks_the_image_for_a_shell():
    """Neither the chart nor the docs: there is none to run."""
    chart = "\n".join(p.read_text() for p in (ROOT / "charts/incumbent/templates").rglob("*.*"))
    assert not re.search(r"/bin/(ba)?sh|\bcommand: *\[? *\"?(ba)?sh\b", chart)
    for page in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md"):
        for line in page.read_text().splitlines():
            assert not re.search(r"kubectl .*exec .*incumbent.*-- *(ba)?sh", line), page
