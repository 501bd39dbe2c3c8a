"""`make e2e` where it cannot run."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from e2e import __main__ as command


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """A machine on which we are not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["e2e"])
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("E2E", command.INSIDE):
        monkeypatch.delenv(name, raising=False)


def test_says_in_a_sentence_what_is_missing(capsys):
    """And fails."""
    assert command.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "make e2e: it needs root, to make namespaces and run containers; try sudo make e2e."
    )


def test_is_skipped_only_when_asked(capsys, monkeypatch):
    """It says the same, and that it was skipped."""
    monkeypatch.setenv("E2E", "skip")
    assert command.main() == 0
    assert "skipped, as E2E=skip asks for" in capsys.readouterr().err


def test_missing_packages_are_named_where_they_cannot_be_installed(capsys, monkeypatch):
    """By the names that Debian has for them."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    absent = {"runc", "nft", "apt-get"}
    monkeypatch.setattr(shutil, "which", lambda name: None if name in absent else f"/bin/{name}")
    assert command.main() == 2
    assert "it needs what Debian has in runc, nftables; install these" in capsys.readouterr().err
