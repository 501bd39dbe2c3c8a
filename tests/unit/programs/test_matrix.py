"""The runs of `make matrix` cover what is claimed, and their reports are read as they are."""

from itertools import chain

import pytest
import yaml

from helm import CHART
from matrix import results
from matrix.plan import HIGHEST, KUBERNETES, NATS, PYTHON, Run, rotation, runs
from matrix.results import Result, read_report

ROOT = CHART.parents[1]


def lowest(subject):
    """Return the lowest version of a subject that is tested."""
    return next(run.version for run in runs() if run.subject == subject)


def test_the_lowest_versions_that_are_claimed_are_tested():
    """README, chart and package claim no version lower than the lowest one that is tested."""
    readme = (ROOT / "README.md").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    kubernetes, _, _ = lowest(KUBERNETES).rpartition(".")
    assert f"Kubernetes {kubernetes} and NATS\n{lowest(NATS)} or newer" in readme
    assert chart["kubeVersion"] == f">={kubernetes}.0-0"
    assert f'requires-python = ">={lowest(PYTHON)}"' in project


def test_the_versions_of_kubernetes_have_no_gap():
    """Every minor version between the lowest and the highest is tested."""
    minors = [int(run.version.split(".")[1]) for run in runs() if run.subject == KUBERNETES]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert len(minors) > 1


def test_every_named_test_is_there():
    """A test that was renamed does not drop out of a run."""
    for path in chain.from_iterable(run.tests for run in runs()):
        assert (ROOT / path).exists(), path


def test_a_rotation_has_one_run_of_each_subject_and_reaches_all():
    """Each day has one run of each subject. Every run has its day, if its versions are fixed."""
    everything = runs()
    subjects = [run.subject for run in everything]
    chosen = [rotation(everything, day) for day in range(len(everything))]
    for day in chosen:
        assert [run.subject for run in day] == list(dict.fromkeys(subjects))
    fixed = {run for run in everything if run.version != HIGHEST}
    assert set(chain.from_iterable(chosen)) == fixed


@pytest.mark.parametrize(
    ("attributes", "expected", "good"),
    (
        ('tests="5" failures="0" errors="0" skipped="1"', Result(4, 0, 1, "d"), True),
        ('tests="5" failures="1" errors="2" skipped="0"', Result(2, 3, 0, "d"), False),
        ('tests="0" failures="0" errors="0" skipped="0"', Result(0, 0, 0, "d"), False),
    ),
)
def test_a_report_says_how_many_tests_passed(tmp_path, attributes, expected, good):
    """Errors count as failures. A run without tests is no good one."""
    report = tmp_path / "report.xml"
    report.write_text(f'<testsuites><testsuite name="pytest" {attributes}/></testsuites>')
    found = read_report(report, day="d")
    assert (found, found.good) == (expected, good)


def test_a_run_that_wrote_no_report_is_no_good_one(tmp_path):
    """So it is when pytest could not start."""
    assert not read_report(tmp_path / "none.xml", day="d").good


def test_a_result_replaces_the_earlier_one(tmp_path, monkeypatch):
    """The others stay."""
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    one, other = Run(NATS, "2.11.0"), Run(NATS, "2.12.8")
    results.keep(one, Result(1, 1, 0, "2026-01-01"))
    results.keep(other, Result(2, 0, 0, "2026-01-01"))
    results.keep(one, Result(2, 0, 0, "2026-01-02"))
    assert results.read() == {
        one.name: Result(2, 0, 0, "2026-01-02"),
        other.name: Result(2, 0, 0, "2026-01-01"),
    }


def test_the_table_shows_what_was_not_run():
    """A version without a result is not shown as tested."""
    runs = [Run(NATS, "2.11.0"), Run(NATS, "2.12.8")]
    head, _, first, second = results.table(runs, {"nats-server-2.12.8": Result(9, 0, 1, "d")})
    assert "| tests passed | failed | skipped |" in head
    assert "not run yet" in first
    assert [cell.strip() for cell in second.split("|")[1:-1]] == [
        "nats-server",
        "2.12.8",
        "9",
        "0",
        "1",
        "d",
    ]
