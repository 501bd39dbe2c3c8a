"""`make browser` where it cannot install anything."""

from __future__ import annotations

import os
import shutil

import pytest

from page import browser


@pytest.fixture(autouse=True)
def without_browser(monkeypatch):
    """A machine with apt-get and without Chromium, on which we are not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", {"apt-get": "/bin/apt-get"}.get)


def test_says_that_it_needs_root(capsys):
    """And fails."""
    assert browser.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "make browser: it needs root to install chromium; try sudo, or install these."


def test_says_what_to_install_where_there_is_no_apt(capsys, monkeypatch):
    """By the name that Debian has for it."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert browser.main() == 2
    assert "it needs what Debian has in chromium; install these." in capsys.readouterr().err


@pytest.mark.parametrize("name", browser.NAMES)
def test_does_nothing_where_a_browser_is(name, capsys, monkeypatch):
    """By whichever name."""
    monkeypatch.setattr(shutil, "which", {name: f"/bin/{name}"}.get)
    assert browser.main() == 0
    assert capsys.readouterr() == ("", "")
