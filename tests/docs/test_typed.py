"""What the pages tell people to type does what they say, on real servers."""

from __future__ import annotations

import re

import pytest

from docpages import ROOT, blocks
from elections import LEADER, Election

pytestmark = pytest.mark.timeout(120)

NOT_HERE = re.compile(
    r"kill |make |kubectl --namespace incumbent |incumbent watch|kubectl incumbent doctor"
)
"""What needs an operator in a pod, does not end, or is about the terminal."""


def commands(page, heading=""):
    """Return what a page says to type, below a heading or below all."""
    found = [block for block in blocks() if (block.page, block.language) == (page, "console")]
    typed = [one for block in found if heading in block.heading for one in block.commands]
    assert typed
    return [command for command in typed if not NOT_HERE.match(command)]


@pytest.fixture
async def billing(kube, namespace, new_operator, private_nats):
    """The election of the pages, with an operator, but not created yet."""
    operator = new_operator(private_nats.url, "--create-bucket", "--bucket-ttl=5s")
    await operator.start()
    return Election(kube, namespace, "billing")


async def test_five_minutes(billing, type_in):
    """A leader, another one after deletion and step-down, and in the end nothing."""
    page = "docs/start.md"
    for command in commands(page, "An election"):
        await type_in(command)
    first = await billing.wait_leader()
    for command in commands(page, "Hand-overs"):
        await type_in(command)

    def asked_and_done(found):
        return "incumbent.dev/step-down" not in found["metadata"].get("annotations", {})

    await billing.kube.until(billing.path, asked_and_done)
    assert first not in await billing.pods()
    await billing.wait_reason("Leading")
    assert "LeaderElected" in {event["reason"] for event in await billing.events()}
    for command in commands(page, "Tidy up"):
        await type_in(command)
    assert "No resources found" in await type_in("kubectl get leaderelections")


async def test_rolling_update_costs_one_hand_over(billing, type_in, tmp_path):
    """With the Deployment of the page."""
    page = "docs/how-to/rolling-updates.md"
    (deployment,) = (
        block.text for block in blocks() if (block.page, block.language) == (page, "yaml")
    )
    manifest = tmp_path / "deployment.yaml"
    manifest.write_text(deployment)
    await type_in(f"kubectl apply -f {manifest}")
    await type_in("kubectl rollout status deployment/billing")
    await billing.create(selector={"matchLabels": {"app": "billing"}})
    first = await billing.wait_leader()
    before = (await billing.status())["transitions"]
    for command in commands(page):
        await type_in(command)
    await billing.wait_leader(other_than=first)
    assert (await billing.status())["transitions"] == before + 1


async def test_runbooks(billing, type_in):
    """Each look at the cluster works, and shows what the page says that it shows."""
    leader = await billing.lead("one", "two")
    shown = {}
    for path in sorted((ROOT / "docs" / "runbooks").glob("Incumbent*.md")):
        for command in commands(f"docs/runbooks/{path.name}"):
            typed = command.replace("shop.billing", billing.key)
            shown[command] = await type_in(typed)
            if command.startswith("incumbent evict"):
                leader = await billing.wait_leader(other_than=leader)
    get = "kubectl get leaderelection billing -o jsonpath="
    assert shown[f"{get}'{{.status.leader.podName}}'"] == f"billing-{leader}"
    assert shown[f"{get}'{{.status.token}}'"] == str((await billing.status())["token"])
    for kind in ("Stalled", "BucketReady", "LabelsInSync"):
        assert shown[f"{get}'{{.status.conditions[?(@.type==\"{kind}\")].message}}'"]
    assert LEADER in (await billing.labels()).values()
    for command in commands("docs/operations.md", "Who leads") + commands(
        "docs/troubleshooting.md"
    ):
        await type_in(command)
