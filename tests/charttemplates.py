"""What the tests of the chart's templates share."""

import yaml

from helm import CHART, objects

ROOT = CHART.parents[1]


def values_of(name):
    """Return a value set of `ci`."""
    return yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())


def pods(rendered):
    """Return name and spec of each pod, or pod template."""
    return [
        (thing["metadata"]["name"], (thing["spec"].get("template") or thing)["spec"])
        for thing in rendered
        if thing["kind"] in {"Deployment", "StatefulSet", "Job", "Pod"}
    ]


def operator(rendered):
    """Return the operator's container."""
    (deployment,) = objects(rendered, "Deployment")
    return next(
        c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "operator"
    )
