"""The resource definition, applied to a real API server and used with a real kubectl."""

import copy
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from elections import WHOLE_STATUS

CRD = Path(__file__).parents[2] / "crds" / "leaderelections.yaml"
DEFINITION = yaml.safe_load(CRD.read_text())
SCHEMA = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


class Kubectl:
    """Runs kubectl in one namespace of a site."""

    def __init__(self, site, namespace):
        self.command = [
            site.kubectl,
            f"--kubeconfig={site.kubeconfig}",
            f"--namespace={namespace}",
            # Not that of whoever applied the definition: it says that there is no such kind.
            f"--cache-dir={site.folder}/kubectl-cache-of-tests",
        ]

    def run(self, *arguments, given=None, check=True):
        """Run kubectl, with JSON on its standard input."""
        result = subprocess.run(
            [*self.command, *arguments],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0 or not check, result.stderr
        return result

    def refused(self, *arguments, given=None):
        """Run what is to fail, and return its message in one line."""
        result = self.run(*arguments, given=given, check=False)
        assert result.returncode == 1, result.stdout
        return " ".join(result.stderr.split())

    def get(self, name, *arguments):
        """Return an election as it is stored."""
        return json.loads(self.run("get", "lelec", name, "-o", "json", *arguments).stdout)

    def set_status(self, name, status):
        """Write the status, as the operator would."""
        self.run(
            "patch", "lelec", name, "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": status}),
        )  # fmt: skip


@pytest.fixture
def kubectl(site, namespace):
    return Kubectl(site, namespace)


def election(name="billing", **spec):
    return {
        "apiVersion": "incumbent.dev/v1alpha1",
        "kind": "LeaderElection",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "billing"}}} | spec,
    }


def selecting(**selector):
    return election(selector=selector)


def labelling(key, **selector):
    return election(selector=selector, label={"key": key})


def requiring(**expression):
    return selecting(matchExpressions=[{"key": "app"} | expression])


def backing_off(**backoff):
    whole = {"initialSeconds": 5, "factor": 1.5, "maxSeconds": 10} | backoff
    given = {name: value for name, value in whole.items() if value is not None}
    return election(campaign={"backoff": given})


DEFAULT = "incumbent.dev/billing"
"""The label key of the election `billing`, unless it has another."""

NAME = (
    "`metadata.name` must be at most 57 characters, for it becomes the name of a label, and with"
    " `.token` that of an annotation, which may have 63"
)
EMPTY = (
    "`selector` must not be empty, for it would select every pod of the namespace; give at least"
    " one entry in `matchLabels` or `matchExpressions`"
)
LABELS = (
    "`matchLabels` must consist of valid label names, such as `app` or `example.com/part`, and"
    " label values"
)
FIRST = "spec.selector.matchExpressions[0]"
EXPRESSION = "`key` must be a valid label name, such as `app` or `example.com/part`"
VALUES = (
    "`values` must be given with the operators `In` and `NotIn`, and may not be with `Exists` and"
    " `DoesNotExist`"
)
VALUE = (
    "`values` must consist of valid label values: letters, digits, `-`, `_` and `.`, beginning and"
    " ending with a letter or a digit"
)
BUCKET = "`bucket` must consist of letters, digits, `-` and `_`, as every NATS bucket name"
KEY = (
    "`key` must consist of letters, digits, `-`, `/`, `_` and `=`, in one or more parts that are"
    " joined by single dots, as every key of a NATS bucket"
)
LABEL = (
    "`label.key` must be a valid label name with a prefix, such as `example.com/billing`: a domain"
    " name in lower case, a slash, and at most 63 letters, digits, `-`, `_` and `.`"
)
THEIRS = (
    "`label.key` must not be under `kubernetes.io` or `k8s.io`, which belong to Kubernetes; use a"
    " domain of your own"
)
OWN = (
    "`selector` must not ask for the election's own label, which the operator sets on the pods that"
    " are selected; select them by another label, such as `app`"
)


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    (
        (election("a" * 58), "metadata.name", NAME),
        (selecting(), "spec.selector", EMPTY),
        (selecting(matchLabels={}, matchExpressions=[]), "spec.selector", EMPTY),
        (selecting(matchLabels={"a/b/c": "x"}), "spec.selector.matchLabels", LABELS),
        (selecting(matchLabels={"app": "a b"}), "spec.selector.matchLabels", LABELS),
        (requiring(key="-", operator="Exists"), f"{FIRST}.key", EXPRESSION),
        (requiring(operator="In"), FIRST, VALUES),
        (requiring(operator="NotIn", values=[]), FIRST, VALUES),
        (requiring(operator="Exists", values=["a"]), FIRST, VALUES),
        (requiring(operator="In", values=["a", "b c"]), f"{FIRST}.values[1]", VALUE),
        (requiring(operator="Like"), f"{FIRST}.operator", '"DoesNotExist"'),
        (election(bucket=""), "spec.bucket", BUCKET),
        (election(bucket="a.b"), "spec.bucket", BUCKET),
        (election(key=""), "spec.key", KEY),
        (election(key="a..b"), "spec.key", KEY),
        (election(key=".a"), "spec.key", KEY),
        (election(key="a."), "spec.key", KEY),
        (election(key="a.*"), "spec.key", KEY),
        (election(label={"key": "billing"}), "spec.label.key", LABEL),
        (election(label={"key": "/billing"}), "spec.label.key", LABEL),
        (election(label={"key": "Example.com/billing"}), "spec.label.key", LABEL),
        (election(label={"key": "a.example/b/c"}), "spec.label.key", LABEL),
        (election(label={"key": "a.example/b."}), "spec.label.key", LABEL),
        (election(label={"key": "kubernetes.io/billing"}), "spec.label.key", THEIRS),
        (election(label={"key": "apps.kubernetes.io/billing"}), "spec.label.key", THEIRS),
        (election(label={"key": "k8s.io/billing"}), "spec.label.key", THEIRS),
        (election(label={"key": "x.y.k8s.io/billing"}), "spec.label.key", THEIRS),
        (election(label={"key": "a.example/" + "b" * 64}), "spec.label.key", LABEL),
        (election(label={"key": "a" * 254 + "/b"}), "spec.label.key", LABEL),
        (selecting(matchLabels={"app": "a", DEFAULT: "leader"}), "spec.selector", OWN),
        (selecting(matchLabels={DEFAULT: "candidate"}), "spec.selector", OWN),
        (requiring(key=DEFAULT, operator="Exists"), "spec.selector", OWN),
        (requiring(key=DEFAULT, operator="NotIn", values=["leader"]), "spec.selector", OWN),
        (labelling("a.example/b", matchLabels={"a.example/b": ""}), "spec.selector", OWN),
        (
            labelling("a.example/b", matchExpressions=[
                {"key": "app", "operator": "Exists"},
                {"key": "a.example/b", "operator": "DoesNotExist"},
            ]),
            "spec.selector",
            OWN,
        ),
        (election(campaign={"intervalSeconds": 0}), "spec.campaign.intervalSeconds", "to 1"),
        (election(campaign={"intervalSeconds": 3240}), "spec.campaign.intervalSeconds", "to 3239"),
        (election(campaign={"intervalSeconds": 1.5}), "spec.campaign.intervalSeconds", "integer"),
        (election(campaign={"profile": "Slow"}), "spec.campaign.profile", '"Prompt", "Choria"'),
        (election(campaign={"splaySeconds": -1}), "spec.campaign.splaySeconds", "to 0"),
        (
            election(campaign={"promotion": "AtOnce"}),
            "spec.campaign.promotion",
            '"Auto", "NextCampaign"',
        ),
        (backing_off(factor=0.5), "spec.campaign.backoff.factor", "to 1"),
        (backing_off(initialSeconds=0), "spec.campaign.backoff.initialSeconds", "to 1"),
        (backing_off(maxSeconds=None), "spec.campaign.backoff.maxSeconds", "Required"),
        (
            backing_off(maxSeconds=4),
            "spec.campaign.backoff.maxSeconds",
            "must be at least `initialSeconds`",
        ),
        (election(suspend="yes"), "spec.suspend", "boolean"),
        (
            election(handover={"unreadyGraceSeconds": 3601}),
            "spec.handover.unreadyGraceSeconds",
            "to 3600",
        ),
        (election(handover={"preemption": "Always"}), "spec.handover.preemption", "WhenReady"),
        (election(onBucketLoss="hold"), "spec.onBucketLoss", '"StepDown", "Hold"'),
        (election(onTokenRegress="No"), "spec.onTokenRegress", '"Stop", "Accept"'),
        (election(selector=None), "spec.selector", "Required value"),
        (election(mode="Watched"), "spec.mode", '"Managed", "Observed"'),
        (election(route="Label"), "spec.route", "unknown field"),
        (election(routing={"service": "x", "mode": "Label"}), "spec.routing.mode", "Unsupported"),
    ),
)  # fmt: skip
def test_what_cannot_work_is_refused_with_a_sentence(kubectl, wrong, field, message):
    """The API server names the field and says what it must be."""
    refusal = kubectl.refused("create", "-f", "-", given=wrong)
    assert message in refusal
    assert field in refusal


@pytest.mark.parametrize(
    "right",
    (
        election("a" * 57),
        selecting(matchLabels={"example.com/part": "", "app": "a.B_c-1"}),
        requiring(operator="In", values=["a", ""]),
        requiring(operator="NotIn", values=["a"]),
        requiring(operator="Exists"),
        requiring(operator="DoesNotExist", values=[]),
        election(bucket="LEADER_election-1"),
        election(key="-/_=.a.B1"),
        election(suspend=True),
        election(campaign={}, label={}, handover={}),
        election(handover={"unreadyGraceSeconds": 3600, "preemption": "WhenReady"}),
        election(onBucketLoss="Hold", onTokenRegress="Accept"),
        election(mode="Observed"),
        election(campaign={"intervalSeconds": 1}),
        election(campaign={"intervalSeconds": 3239}),
        election(campaign={"profile": "Choria", "splaySeconds": 0, "promotion": "Auto"}),
        backing_off(factor=1, maxSeconds=5),
        election(label={"key": ".".join(["a" * 49] * 5) + "/" + "b" * 63}),
        # Another election's label, and one that ours would have if it had no other.
        selecting(matchLabels={"incumbent.dev/other": "leader"}),
        requiring(key="incumbent.dev/other", operator="Exists"),
        labelling("a.example/b", matchLabels={DEFAULT: "leader"}),
        labelling("a.example/b", matchExpressions=[{"key": DEFAULT, "operator": "Exists"}]),
        election(label={"key": "notk8s.io/billing"}),
        election(label={"key": "k8s.io.example.com/billing"}),
    ),
)
def test_what_can_work_is_accepted(kubectl, right):
    """The limits themselves are allowed."""
    kubectl.run("create", "-f", "-", given=right)


UNCHANGEABLE = (
    ("bucket", {"bucket": "A"}, {"bucket": "B"}),
    ("key", {"key": "a"}, {"key": "b"}),
    ("label.key", {"label": {"key": "a.example/a"}}, {"label": {"key": "a.example/b"}}),
)


@pytest.mark.parametrize(("field", "first", "second"), UNCHANGEABLE)
@pytest.mark.parametrize("step", ("changed", "unset", "set"))
def test_what_a_running_election_rests_on_stays(kubectl, field, first, second, step):
    """Bucket, key and label key can be neither changed, nor unset, nor set later."""
    before = {} if step == "set" else first
    after = {} if step == "unset" else second
    kubectl.run("create", "-f", "-", given=election(**before))
    refusal = kubectl.refused("replace", "-f", "-", given=election(**after))
    assert f"spec.{field}: " in refusal
    assert f"`{field}` may not be set, changed or unset after the creation" in refusal


def test_mode_stays(kubectl):
    """Who campaigns is settled at the creation."""
    kubectl.run("create", "-f", "-", given=election())
    refusal = kubectl.refused("replace", "-f", "-", given=election(mode="Observed"))
    assert "spec.mode: " in refusal
    assert "`mode` may not be changed after the creation" in refusal


def test_everything_else_can_be_changed(kubectl):
    """Suspension, durations and selector are changed as one likes, next to what may not be."""
    lasting = {"bucket": "A", "key": "a", "label": {"key": "a.example/a"}}
    kubectl.run("create", "-f", "-", given=election(**lasting))
    changed = {
        "suspend": True,
        "campaign": {"profile": "Choria", "intervalSeconds": 5, "promotion": "Auto"},
        "handover": {"unreadyGraceSeconds": 10, "preemption": "WhenReady"},
        "onBucketLoss": "Hold",
        "onTokenRegress": "Accept",
        "selector": {"matchLabels": {"app": "other"}},
    }
    kubectl.run("replace", "-f", "-", given=election(**lasting, **changed))
    assert kubectl.get("billing")["spec"] == lasting | changed | {"mode": "Managed"}


def test_defaults(kubectl):
    """A new election is not suspended, and nobody can take its status for an observed one."""
    kubectl.run("create", "-f", "-", given=election())
    created = kubectl.get("billing")
    defaults = {
        "mode": "Managed",
        "suspend": False,
        "onBucketLoss": "StepDown",
        "onTokenRegress": "Stop",
    }
    assert created["spec"] == election()["spec"] | defaults
    kubectl.run("apply", "-f", "-", given=election("other", handover={}))
    handover = kubectl.get("other")["spec"]["handover"]
    assert handover == {"unreadyGraceSeconds": 0, "preemption": "Never"}
    (ready,) = created["status"].pop("conditions")
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "NotServed")
    assert created["status"] == {"observedGeneration": -1}


def test_status_is_a_subresource_that_keeps_every_field(kubectl):
    """No field of the status is pruned, and writing it changes neither spec nor generation."""
    kubectl.run("create", "-f", "-", given=election())
    kubectl.set_status("billing", WHOLE_STATUS)
    written = kubectl.get("billing")
    assert written["status"] == WHOLE_STATUS
    assert written["metadata"]["generation"] == 1
    kubectl.run("apply", "-f", "-", given=election() | {"status": {"state": "Unknown"}})
    assert kubectl.get("billing")["status"] == WHOLE_STATUS


def test_every_field_of_the_status_was_tried():
    """The status of these tests has all fields of the schema."""

    def names(schema):
        match schema["type"]:
            case "object":
                return {n: names(child) for n, child in schema["properties"].items()}
            case "array":
                return [names(schema["items"])]
            case _:
                return None

    def tried(value):
        match value:
            case dict():
                return {n: tried(child) for n, child in value.items()}
            case list():
                return [tried(value[0])]
            case _:
                return None

    assert tried(WHOLE_STATUS) == names(SCHEMA["properties"]["status"])


def test_every_field_is_described():
    """`kubectl explain` has something to say about each of them."""

    def undescribed(schema, path):
        # What the API server lets nobody describe.
        if not schema.get("description", "").endswith(".") and path != "LeaderElection.metadata":
            yield path
        for name, child in schema.get("properties", {}).items():
            yield from undescribed(child, f"{path}.{name}")
        for name in ("items", "additionalProperties"):
            if name in schema:
                yield from undescribed(schema[name], f"{path}[]")

    assert list(undescribed(SCHEMA, "LeaderElection")) == []


def test_kubectl_explains(kubectl):
    """The descriptions reach the people who ask kubectl."""
    explained = " ".join(kubectl.run("explain", "lelec.spec.bucket").stdout.split())
    assert SCHEMA["properties"]["spec"]["properties"]["bucket"]["description"] in explained
    assert "intervalSeconds" in kubectl.run("explain", "--recursive", "lelec.spec").stdout


def table(text):
    """Return the rows of a table as dictionaries; its cells contain no blanks."""
    titles, *rows = (line.split() for line in text.splitlines())
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_columns(kubectl):
    """`kubectl get` shows who leads; `-o wide` what the record says."""
    kubectl.run("create", "-f", "-", given=election())
    kubectl.set_status("billing", WHOLE_STATUS)
    [row] = table(kubectl.run("get", "lelec").stdout)
    age = row.pop("AGE")
    assert list(row.items()) == [
        ("NAME", "billing"),
        ("LEADER", "billing-6f9-abcde"),
        ("READY", "True"),
        ("REASON", "Leading"),
        ("TRANSITIONS", "3"),
    ]
    assert age.endswith("s")
    [row] = table(kubectl.run("get", "incumbent", "-o", "wide").stdout)
    assert list(row) == [
        "NAME", "LEADER", "READY", "REASON", "TRANSITIONS",
        "STATE", "HOLDER", "TOKEN", "CANDIDATES", "BUCKET", "AGE",
    ]  # fmt: skip
    assert row["STATE"] == "Leader"
    assert row["HOLDER"] == "7f3a91c2/shop/billing-6f9-abcde"
    assert row["TOKEN"] == str(2**53)
    assert row["CANDIDATES"] == "2"
    assert row["BUCKET"] == "LEADER_ELECTION"


@pytest.mark.parametrize(
    "selector", ("spec.bucket=A", "spec.key=a", "status.leader.podName=billing-6f9-abcde")
)
def test_field_selectors(kubectl, selector):
    """Elections can be asked for by bucket, by key, and by the pod that leads."""
    kubectl.run("create", "-f", "-", given=election("this", bucket="A", key="a"))
    kubectl.run("create", "-f", "-", given=election("other", bucket="B", key="b"))
    kubectl.set_status("this", WHOLE_STATUS)
    found = kubectl.run("get", "lelec", "-o", "name", "--field-selector", selector).stdout
    assert found.split() == ["leaderelection.incumbent.dev/this"]


def test_kubectl_waits_for_the_condition(kubectl):
    """`kubectl wait` knows an election that nobody has seen yet from a ready one."""
    kubectl.run("create", "-f", "-", given=election())
    wait = ("wait", "lelec/billing", "--for=condition=Ready")
    assert "timed out" in kubectl.refused(*wait, "--timeout=1s")
    kubectl.set_status("billing", WHOLE_STATUS)
    kubectl.run(*wait, "--timeout=10s")


def test_conditions_are_told_apart_by_their_type(kubectl):
    """Two conditions of one type are refused: a list that is a map."""
    kubectl.run("create", "-f", "-", given=election())
    twice = copy.deepcopy(WHOLE_STATUS)
    twice["conditions"] *= 2
    refusal = kubectl.refused(
        "patch", "lelec", "billing", "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": twice}),
    )  # fmt: skip
    assert "Duplicate value" in refusal


def test_client_side_apply_has_room():
    """The copy that kubectl keeps in an annotation is far from its limit of 256 KiB."""
    assert len(json.dumps(DEFINITION)) < 200_000


def test_an_election_that_nobody_serves_says_so(kubectl):
    """In the columns, and nobody who waits for it is misled."""
    kubectl.run("create", "-f", "-", given=election())
    line = kubectl.run("get", "lelec", "billing", "--no-headers").stdout.split()
    assert line[:3] == ["billing", "Unknown", "NotServed"]
    (ready,) = kubectl.get("billing")["status"]["conditions"]
    assert ready["message"].startswith("no operator has seen this election yet")
    assert kubectl.get("billing")["status"]["observedGeneration"] == -1
    waiting = ("wait", "lelec/billing", "--for=condition=Ready", "--timeout=1s")
    assert "timed out" in kubectl.refused(*waiting)
    kubectl.set_status("billing", WHOLE_STATUS)
    assert "condition met" in kubectl.run(*waiting).stdout
    assert [one["reason"] for one in kubectl.get("billing")["status"]["conditions"]] == ["Leading"]


def test_an_interval_that_cannot_fit_the_ttl_is_refused_as_soon_as_that_is_known(kubectl):
    """By the limit of all buckets at first, then by the TTL of the one in use."""
    refused = kubectl.refused(
        "create", "-f", "-", given=election(campaign={"intervalSeconds": 3240})
    )
    assert "should be less than or equal to 3239" in refused
    kubectl.run("create", "-f", "-", given=election(campaign={"intervalSeconds": 40}))
    kubectl.set_status("billing", WHOLE_STATUS)
    kubectl.set_status("billing", WHOLE_STATUS | {"token": 2**53 + 1})

    def change(**campaign):
        spec = {"spec": {"campaign": campaign}}
        return ("patch", "lelec", "billing", "--type=merge", "-p", json.dumps(spec))

    refused = kubectl.refused(*change(intervalSeconds=28))
    assert "0.9 of the bucket's TTL, which `status.bucket.ttlSeconds` shows" in refused
    suspended = json.dumps({"spec": {"suspend": True}})
    kubectl.run("patch", "lelec", "billing", "--type=merge", "-p", suspended)
    kubectl.run(*change(intervalSeconds=26))
    kubectl.set_status("billing", {"bucket": WHOLE_STATUS["bucket"] | {"ttlSeconds": 10}})
    kubectl.run(*change(intervalSeconds=None))
