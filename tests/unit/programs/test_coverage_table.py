"""The table of coverage."""

from __future__ import annotations

import pytest

from coveragetable import packages


def file(lines, covered_lines, branches, covered_branches):
    """Return what a report says of a file."""
    summary = {
        "num_statements": lines,
        "covered_lines": covered_lines,
        "num_branches": branches,
        "covered_branches": covered_branches,
    }
    return {"summary": summary}


def test_files_of_a_package_count_together():
    """By their lines and branches, and not by file."""
    files = {
        "operator/incumbent/pods/cache.py": file(8, 8, 2, 0),
        "operator/incumbent/pods/labels.py": file(80, 40, 10, 2),
        "operator/incumbent/clock.py": file(5, 5, 0, 0),
        "operator/incumbent/pods/__init__.py": file(0, 0, 0, 0),
    }
    assert list(packages(files)) == [("incumbent", 100.0), ("incumbent/pods", pytest.approx(50.0))]


def test_package_without_code_is_covered():
    """Nothing in it is left out."""
    assert list(packages({"operator/incumbent/a/__init__.py": file(0, 0, 0, 0)})) == [
        ("incumbent/a", 100.0)
    ]
