"""Where Chromium is; `python -m page.browser` installs it on Debian, as root."""

from __future__ import annotations

import shutil
import sys

import debian

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Return the path of the browser, or None if this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def main() -> int:
    """Install it if it is missing; return the exit code."""
    if find():
        return 0
    try:
        debian.install({"chromium": "chromium"}, say=print)
    except debian.PackagesMissing as error:
        sys.stderr.write(f"make browser: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
