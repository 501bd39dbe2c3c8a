"""The site is complete, up to date, and loads nothing from elsewhere; every alert has a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docpages import DOCS, ROOT
from helm import CHART

ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
RUNBOOKS = DOCS / "runbooks"
LOADS = r"""<(?:script|img|iframe|source|link(?=[^>]*(?:stylesheet|icon|preload)))[^>]*
(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the site, strictly, and return its folder."""
    folder = tmp_path_factory.mktemp("built") / "site"
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_is_generated_is_up_to_date():
    """`make docs` would change nothing."""
    # In a process of its own, for click remembers how a command's help was asked for first.
    code = "import json, generate; print(json.dumps([(str(path), content)"
    code += " for path, content in generate.generated().items()]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=DOCS,
        env={**os.environ, "PYTHONPATH": f"{DOCS}{os.pathsep}{DOCS.parent / 'operator'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    for path, content in json.loads(done.stdout):
        assert Path(path).read_text() == content, f"{path} is out of date: run make docs"


def test_nothing_is_loaded_from_elsewhere(built):
    """Neither by a page nor by a style: the site works without a network."""
    found = list(built.rglob("*.html"))
    assert len(found) > 20
    for page in found:
        assert not re.findall(LOADS, page.read_text(), re.VERBOSE), page.name
    for style in built.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text())


def test_the_check_finds_what_is_loaded():
    """It would see a script, a style and a font of another host, and no mere link."""
    for bad in (
        '<script src="https://example.com/a.js">',
        '<link rel="stylesheet" href="//example.com/a.css">',
        "<img alt=x src='http://example.com/a.png'>",
    ):
        assert re.findall(LOADS, bad, re.VERBOSE), bad
    assert not re.findall(LOADS, '<a href="https://example.com/">', re.VERBOSE)


def test_every_page_is_in_the_navigation(built):
    """A reader of the first page finds all others."""
    front = (built / "index.html").read_text()
    for page in built.rglob("*.html"):
        name = page.relative_to(built).as_posix()
        assert name in {"404.html", "index.html"} or f'href="{name}"' in front, name


# Runbooks


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_page(alert):
    """It says all that a person needs, and leads to a page of its own, with the same severity."""
    name = alert["alert"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    expected = f"{chart['sources'][0]}/blob/main/docs/runbooks/{name}.md"
    assert alert["annotations"]["runbook_url"] == expected
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n\nSeverity: {alert['labels']['severity']}.\n")
    for heading in ("What it means", "How to see it", "What to do"):
        assert f"\n## {heading}\n" in page
    row = f"| [{name}]({name}.md) | {alert['labels']['severity']} |"
    assert row in (RUNBOOKS / "index.md").read_text()


def test_every_page_has_an_alert():
    """None is left from an alert that is gone."""
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"index"}
    assert pages == {alert["alert"] for alert in ALERTS}


def test_no_alert_is_missing():
    """Of what can go wrong with an election."""
    assert {
        "IncumbentNobodyLeads",
        "IncumbentLeaderChangesOften",
        "IncumbentLabelCorrected",
        "IncumbentTwoLeaderLabels",
        "IncumbentLeaseLapses",
        "IncumbentBucketAtRisk",
        "IncumbentTokenRegressed",
        "IncumbentSiteInUse",
        "IncumbentAbsent",
    } <= {alert["alert"] for alert in ALERTS}
