"""What is generated is up to date; values, versions, alerts and docs belong together."""

import importlib.util
import json
import re
import tomllib

import promql_parser
import pytest
import yaml

from charttemplates import ROOT
from helm import CHART, granted, roles_of_the_operator

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = "\n".join(
    path.read_text() for path in CHART.glob("templates/**/*.*") if path.suffix != ".md"
)


def script(path):
    """Import a script."""
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date():
    """`make chart` would change nothing."""
    for path, content in script(ROOT / "charts" / "generate.py").generated().items():
        assert path.read_text() == content, f"{path.name} is out of date: run make chart"


def leaves(values, path=()):
    """Return the paths of all values that are no maps."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def test_every_value_is_used_and_every_used_value_exists():
    """A template looks at each value, or at all of a group, and at no other."""
    for path in leaves(DEFAULTS):
        names = [f".{name}" for name in path] + [f'"{name}"' for name in path[-1:]]
        whole = [".".join(("", "Values", *path[:n])) for n in range(1, len(path) + 1)]
        assert any(name in TEMPLATES for name in names[-2:]) or any(
            re.search(rf"{re.escape(group)}(?![\w.])", TEMPLATES) for group in whole
        ), ".".join(path)
    for used in re.findall(r"\.Values((?:\.\w+)+)", TEMPLATES):
        found = DEFAULTS
        for name in used.split(".")[1:]:
            assert name in found, used
            found = found[name]


def test_versions_and_images_are_those_of_the_package():
    """Chart, program and the images that are announced have one version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    announced = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    for image, values in zip(announced, (DEFAULTS, DEFAULTS["nats"]["builtIn"]), strict=True):
        named = values["image"]
        assert image["image"] == f"{named['registry']}/{named['repository']}:{version}"


def expressions():
    """Return every expression of alerts and dashboard, and where it is."""
    for rule in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text()):
        yield rule["alert"], rule["expr"]
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


@pytest.mark.parametrize(("where", "expression"), tuple(expressions()))
def test_alerts_and_dashboard_ask_for_series_that_exist(where, expression):
    """In PromQL; each metric is ours, with each label, and each value of it that is named."""
    if not expression.startswith("label_values("):  # that is Grafana's
        promql_parser.parse(re.sub(r"\$\w+", "x", expression))
    series = script(ROOT / "docs" / "generate.py").served()
    for name, labels in re.findall(r"(incumbent_\w+)(?:\{([^}]*)\})?", expression):
        candidates = re.findall(rf"^{name}(\{{.*\}})? ", series, re.MULTILINE)
        assert candidates, f"{where}: {name}"
        for label, operator_, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', labels):
            known = f'{label}="{value}"' if operator_ == "=" else f'{label}="'
            assert any(known in candidate for candidate in candidates), (
                f"{where}: {name}{{{known}}}"
            )


def test_the_page_lists_the_rights(helm3):
    """Every right that the chart grants is in a table of docs/security.md, and no other one."""
    page = (CHART.parents[1] / "docs" / "security.md").read_text()
    page = page.partition("## What the operator may do")[2].partition("\n## ")[0]
    listed = {
        (verb, resource)
        for resource, verbs in re.findall(r"^\| `([a-z/]+)`[^|]*\| ([^|]*) \|$", page, re.MULTILINE)
        for verb in re.findall(r"[a-z]+", re.sub(r"\(.*|, (to|of|for) .*", "", verbs))
    }
    rendered = helm3.render({"rbac": {"endpointSlices": True}})
    roles = roles_of_the_operator(rendered, "ClusterRole", "Role")
    assert listed == {right for role in roles for right in granted(role)}
