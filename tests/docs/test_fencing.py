"""The SQL of docs/how-to/fence-with-the-token.md refuses old leaders."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from docpages import blocks

PAGE = "docs/how-to/fence-with-the-token.md"
CREATE, FENCE, FORGET = (block.text for block in blocks() if block.page == PAGE)


class Sqlite:
    """A database in memory."""

    def __init__(self):
        self._database = sqlite3.connect(":memory:", isolation_level=None)

    def run(self, statement, token=0):
        """Execute a statement, and return the tokens that it returned."""
        given = {"token": token} if ":token" in statement else {}
        return [row[0] for row in self._database.execute(statement, given)]

    def close(self):
        """Give everything back."""
        self._database.close()


class PostgreSQL:
    """A server of the test's own, which listens at a socket in a folder only."""

    def __init__(self, programs, folder):
        self._programs, self._folder = programs, folder
        self._as = {}
        if os.geteuid() == 0:  # as whom it refuses to run
            account = pwd.getpwnam("nobody")
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._call("initdb", f"--pgdata={folder}/data", "--username=us", "--no-sync")
        self._server = subprocess.Popen(
            (
                *(programs["postgres"], "-D", f"{folder}/data", "-k", str(folder)),
                *("-c", "listen_addresses=", "-c", "fsync=off"),
            ),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )
        for _ in range(300):
            asked = subprocess.run((*self._psql, "--command=SELECT 1"), check=False, **self._quiet)
            if asked.returncode == 0:
                return
            if self._server.poll() is not None:
                break
            self.wait()
        self.close()
        pytest.fail("PostgreSQL did not start")

    @property
    def _psql(self):
        where = (f"--host={self._folder}", "--username=us", "--dbname=postgres")
        return (self._programs["psql"], *where, "--no-psqlrc", "--tuples-only", "--quiet")

    @property
    def _quiet(self):
        return {"capture_output": True, "cwd": self._folder}

    def _call(self, program, *arguments):
        command = (self._programs[program], *arguments)
        done = subprocess.run(command, check=False, **self._quiet, **self._as)
        assert done.returncode == 0, done.stderr

    def wait(self):
        """Give the server a moment."""
        time.sleep(0.1)

    def run(self, statement, token=0):
        """Execute a statement, and return the tokens that it returned."""
        command = (*self._psql, "--set=ON_ERROR_STOP=1", f"--set=token={token}")
        done = subprocess.run(
            command, input=statement, capture_output=True, text=True, check=False, cwd=self._folder
        )
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.split()]

    def session(self):
        """Return a process that executes what is written to it."""
        return subprocess.Popen(
            self._psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def close(self):
        """Stop the server."""
        self._server.terminate()
        self._server.wait(20)


@pytest.fixture(params=(Sqlite, PostgreSQL), ids=("sqlite", "postgresql"))
def database(request):
    """A database of each kind that is installed; SQLite comes with Python."""
    if request.param is Sqlite:
        database = Sqlite()
        yield database
        database.close()
        return
    programs = {name: shutil.which(name) for name in ("initdb", "postgres", "psql")}
    if not all(programs.values()):
        pytest.skip("PostgreSQL is not installed; the same statements are run in SQLite")
    with tempfile.TemporaryDirectory(prefix="fencing-") as folder:  # short, as a socket's path is
        database = PostgreSQL(programs, Path(folder))
        yield database
        database.close()


def test_an_old_leader_is_refused(database):
    """A greater token and the present one go on, a smaller one does not, until it is forgotten."""
    database.run(CREATE)
    database.run(CREATE)
    assert database.run(FENCE, token=5) == [5]
    assert database.run(FENCE, token=5) == [5]
    assert database.run(FENCE, token=7) == [7]
    assert database.run(FENCE, token=5) == []
    assert database.run(FENCE, token=7) == [7]
    database.run(FORGET)
    assert database.run(FENCE, token=1) == [1]


@pytest.mark.parametrize("database", (PostgreSQL,), ids=("postgresql",), indirect=True)
def test_a_new_leader_waits_for_what_is_under_way(database):
    """While a transaction of the old one is open, the new one cannot begin; then the old cannot."""
    database.run(CREATE)
    with database.session() as old:
        old.stdin.write(f"BEGIN;\n\\set token 5\n{FENCE}")
        old.stdin.flush()
        state = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction';"
        while database.run(state) != [1]:
            database.wait()
        with pytest.raises(AssertionError, match="lock timeout"):
            database.run(f"SET lock_timeout = '200ms';\n{FENCE}", token=7)
        old.stdin.write("COMMIT;\n")
    assert database.run(FENCE, token=7) == [7]
    assert database.run(FENCE, token=5) == []
