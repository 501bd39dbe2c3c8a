"""What the tests of the pages need first."""

from __future__ import annotations

import pytest

from controlplane import build


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm before the first test, for a test has a time limit."""
    if not session.config.option.collectonly:
        build.helms()
