"""Whether the file of `incumbent file` is believed, and until when."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from incumbent import clock
from incumbent.cli import file, trusted
from incumbent.cli.main import main
from incumbent.errors import ConfigurationError

SOMEBODY = 12345
"""A user who is neither root nor the one who runs the tests."""


class _Clocks:
    """The clocks of a machine, as a test wants them."""

    def __init__(self, patches):
        self.now, self.day, self.epoch = 1000.0, datetime(2026, 11, 24, 12, tzinfo=UTC), "b/1"
        patches.setattr(clock, "now", lambda: self.now)
        patches.setattr(clock, "today", lambda: self.day)
        patches.setattr(clock, "epoch", lambda: self.epoch)


@pytest.fixture
def clocks(monkeypatch):
    """Return the clocks of this machine."""
    return _Clocks(monkeypatch)


@pytest.fixture
def path(tmp_path, clocks):
    """Return a file that was written when 20 s were left of a lease."""
    path = tmp_path / "leader.json"
    write(path, clocks)
    return path


def write(path, clocks, left=20.0):
    """Write the file as `incumbent file` does."""
    election = SimpleNamespace(key="nightly", identity="a", token=7, deadline=clocks.now + left)
    file._write(election, path)


def change(path, **fields):
    """Put other fields into the file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def check(path, *arguments):
    """Return the exit code of `incumbent file --check`, and what it says."""
    result = CliRunner().invoke(main, ["file", str(path), "--check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.replace(f"{path.parent}/", "").strip()


def give_to_somebody(thing, monkeypatch):
    """Let a file or a folder belong to another user than that of this process, or root."""
    if os.geteuid() == 0:
        os.chown(thing, SOMEBODY, -1)
        return SOMEBODY
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    return owner


def test_a_deadline_is_one_of_the_clock_that_never_steps(path, clocks):
    """The file is fresh until then, and not a moment longer."""
    assert check(path) == (0, "leader.json is fresh for another 20.0 s")
    clocks.now += 19.9
    assert check(path)[0] == 0
    clocks.now += 0.1
    assert check(path) == (1, "leader.json is stale: its deadline passed 0.0 s ago")


@pytest.mark.parametrize("step", (timedelta(days=-400), timedelta(days=400)))
def test_a_step_of_the_time_of_day_neither_prolongs_nor_ends_it(path, clocks, step):
    """Nobody looks at that clock, but people and earlier versions."""
    clocks.day += step
    assert check(path)[0] == 0
    clocks.now += 20
    assert check(path)[0] == 1


def test_earlier_versions_find_the_time_of_day(path, clocks):
    """The field is as it was."""
    said = json.loads(path.read_text())
    assert datetime.fromisoformat(said["deadline"]) == clocks.day + timedelta(seconds=20)
    assert said.keys() == {"key", "identity", "token", "deadline", "boot", "bootDeadline"}


@pytest.mark.parametrize("epoch", ("c/1", "b/2"), ids=("another boot", "another time namespace"))
def test_a_clock_with_another_zero_is_not_compared(path, clocks, epoch):
    """A restart of the machine makes the file one of nobody; so does another machine."""
    clocks.epoch = epoch
    clocks.now = 3.0
    code, said = check(path)
    assert code == 1
    assert said.startswith("Error: leader.json was written before this machine was started, ")


def test_without_an_identifier_of_the_boot_nothing_is_fresh(path, clocks):
    """On a system that has none, no process can tell."""
    clocks.epoch = ""
    write(path, clocks)
    code, said = check(path)
    assert code == 1
    assert "this system has no /proc/sys/kernel/random/boot_id" in said


def test_a_file_of_an_earlier_version_is_refused(path):
    """It has a deadline by the time of day only."""
    path.write_text('{"key": "k", "identity": "a", "token": 1, "deadline": "2036-01-01T00:00:00Z"}')
    code, said = check(path)
    assert code == 1
    assert "as an earlier version wrote it: start `incumbent file` of this version" in said


@pytest.mark.parametrize(
    "deadline", (1e9, float("inf"), float("nan"), "9999", True, None, [], {}), ids=str
)
def test_no_deadline_is_far_away(path, deadline):
    """A lease lasts an hour at most, so such a file is not ours, or of a clock that went back."""
    change(path, bootDeadline=deadline)
    code, said = check(path)
    assert code == 1
    assert said.endswith("is not a file of `incumbent file`: no deadline is that far away")


@pytest.mark.parametrize("content", (b"", b'{"key": "nigh', b"\xff\xfe", b"[]", b'{"deadline": 5}'))
def test_half_a_file_is_none(path, content):
    """It is replaced at once, so half of it was written by something else."""
    path.write_bytes(content)
    assert check(path) == (1, "Error: leader.json is not a file of `incumbent file`")


def test_only_the_beginning_is_read(path):
    """A file without an end costs nothing."""
    with path.open("r+b") as huge:
        huge.truncate(1 << 40)
    assert check(path)[0] == 1


def test_another_key_is_not_this_one(path):
    """A file that was moved here from elsewhere tells its key."""
    assert check(path, "nightly")[0] == 0
    assert check(path, "gateway") == (
        1,
        "Error: leader.json is about the key nightly, not about gateway",
    )


def test_another_users_file_is_believed_only_on_demand(path, monkeypatch):
    """In /tmp anybody can be the first to create it."""
    owner = give_to_somebody(path, monkeypatch)
    code, said = check(path, "--shared-folder")
    assert code == 1
    assert f"if you trust that user, give --owner {trusted._name(owner)}" in said
    assert check(path, "--shared-folder", "--owner", str(owner))[0] == 0


@pytest.mark.parametrize("mode", (0o664, 0o646, 0o666))
def test_a_file_that_others_may_write_is_not_believed(path, mode):
    """Nor if they have not written to it."""
    path.chmod(mode)
    assert check(path) == (
        1,
        "Error: others may write to leader.json: remove it; `incumbent file` writes it as 0644",
    )


def test_neither_links_nor_other_kinds_of_files_are_believed(path):
    """They may lead to an old file, or have no end."""
    link = path.with_name("link.json")
    link.symlink_to(path)
    assert check(link)[1].startswith("Error: link.json is a symbolic link, which somebody may have")
    link.unlink()
    link.hardlink_to(path)
    assert check(path)[1] == (
        "Error: leader.json has a second name (a hard link), so it may be an old file: remove it"
    )
    link.unlink()
    path.unlink()
    os.mkfifo(path)
    assert check(path) == (1, "Error: leader.json is not a regular file")


@pytest.mark.parametrize("mode", (0o777, 0o770, 0o757))
def test_a_folder_that_others_may_write_is_not_believed(tmp_path, clocks, mode):
    """They could put an older file of ours there, in whichever folder above it."""
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    path = below / "leader.json"
    write(path, clocks)
    assert check(path)[0] == 0
    below.parent.chmod(mode)
    code, said = check(path)
    assert code == 1
    assert f"others may write to the folder {below.parent}, and put another file there" in said
    assert check(path, "--shared-folder")[0] == 0
    below.parent.chmod(stat.S_ISVTX | 0o777)  # like /tmp
    assert check(path)[0] == 0


def test_another_users_folder_is_not_believed(tmp_path, clocks, monkeypatch):
    """Its owner can do everything in it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "leader.json"
    write(path, clocks)
    known = Path.lstat

    def lstat(self):  # only root could give the folder away, and keep the file
        found = known(self)
        theirs = self == folder
        return os.stat_result((*found[:4], SOMEBODY, *found[5:])) if theirs else found

    monkeypatch.setattr(Path, "lstat", lstat)
    code, said = check(path)
    assert code == 1
    assert f"{folder} belongs to the user" in said
    assert check(path, "--owner", str(SOMEBODY))[0] == 0


def test_a_link_on_the_way_is_believed_if_its_owner_is(path):
    """As /var/run is."""
    link = path.parent / "run"
    link.symlink_to(path.parent, target_is_directory=True)
    assert check(link / "leader.json")[0] == 0


def test_what_is_claimed_is_an_old_file_of_ours(path, monkeypatch):
    """Whatever else lies there is left alone."""
    file._claim(path)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is not a file of `incumbent file`; remove it"):
        file._claim(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        file._claim(path)
    path.unlink()
    path.write_text("{}")
    give_to_somebody(path, monkeypatch)
    with pytest.raises(ConfigurationError, match="belongs to the user"):
        file._claim(path)


def test_a_user_who_does_not_exist_is_a_sentence(path):
    """It is checked before anything else."""
    code, said = check(path, "--owner", "nobody-of-that-name")
    assert code == 2
    assert "there is no user 'nobody-of-that-name' on this machine" in said


@pytest.mark.parametrize("flag", (("--owner", "0"), ("--shared-folder",)))
def test_flags_of_the_check_need_it(path, flag):
    """Who keeps the file trusts nobody."""
    result = CliRunner().invoke(main, ["file", str(path), "nightly", *flag])
    assert result.exit_code == 2
    assert "--owner and --shared-folder go together with --check." in result.output


def test_processes_of_one_boot_agree():
    """This process and one that it starts have the same epoch."""
    code = "from incumbent import clock; print(clock.epoch())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == clock.epoch() != ""
