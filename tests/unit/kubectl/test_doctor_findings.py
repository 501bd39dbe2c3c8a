"""What the doctor makes of what it sees."""

import copy
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
import yaml

from incumbent.campaign.records import BucketInfo, Record
from incumbent.kubectl import main
from incumbent.kubectl.doctor import findings
from incumbent.kubectl.doctor.findings import Level, Right
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import FINALIZER, STEP_DOWN, resource_from

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SOURCE = Path(main.__file__).parents[3] / "crds" / "leaderelections.yaml"
OURS = yaml.safe_load(SOURCE.read_text())
LABEL, TOKEN = "incumbent.dev/web", "incumbent.dev/web.token"
INFO = BucketInfo(
    name="B",
    ttl=30,
    history=1,
    replicas=1,
    created="2026-11-24T00:00:00Z",
    markers=True,
    mirror=False,
    clustered=False,
    server_time=0,
)


def test_the_package_has_the_definition():
    """The copy that travels with the program is the one of `crds/`."""
    copied = resources.files("incumbent.kubectl").joinpath(SOURCE.name).read_text()
    assert copied == SOURCE.read_text(), "run `make chart`"


def test_the_definition_is_up_to_date():
    """The same definition, as an API server shows it, is no finding."""
    installed = copy.deepcopy(OURS)
    installed["status"] = {"storedVersions": ["v1alpha1"]}
    (found,) = findings.about_definition(installed, OURS, served=["v1alpha1"])
    assert found.level is Level.OK


def campaign(definition):
    """Return the schema of `spec.campaign`."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]["properties"]["campaign"]["properties"]


@pytest.mark.parametrize(
    ("change", "level", "text"),
    (
        (
            lambda d: campaign(d).pop("profile"),
            Level.PROBLEM,
            "lacks spec.campaign.profile: it is older than this program",
        ),
        (
            lambda d: campaign(d).update(manner={"type": "string"}),
            Level.WARNING,
            "also has spec.campaign.manner: this program is older",
        ),
        (
            lambda d: campaign(d)["profile"].update(enum=["Prompt"]),
            Level.WARNING,
            "differs in spec.campaign.profile",
        ),
    ),
)
def test_another_definition(change, level, text):
    """The fields that differ are named, and who of the two is older."""
    installed = copy.deepcopy(OURS)
    change(installed)
    (found,) = findings.about_definition(installed, OURS, served=["v1alpha1"])
    assert found.level is level
    assert text in found.text
    assert found.todo


def test_many_fields_are_counted():
    """A sentence stays a sentence."""
    installed = copy.deepcopy(OURS)
    campaign(installed).clear()
    (found,) = findings.about_definition(installed, OURS, served=["v1alpha1"])
    assert " more fields: it is older" in found.text


@pytest.mark.parametrize("served", ([], ["v1beta1"]))
def test_a_kind_that_is_not_served(served):
    """Without it nothing works, and the sentence says which version there is."""
    (found,) = findings.about_definition(None, OURS, served=served)
    assert found.level is Level.PROBLEM
    assert "does not serve leaderelections.incumbent.dev in the version v1alpha1" in found.text
    assert all(version in found.text for version in served)


def test_a_definition_that_may_not_be_read():
    """That is no fault of the cluster."""
    (found,) = findings.about_definition("no right", OURS, served=["v1alpha1"])
    assert found.level is Level.NOTE
    assert "no right" in found.text


def pod(name, label="candidate", *, token="", **fields):
    """Return a pod that can lead, but for the fields that are given."""
    labels = {"app": "web"} | ({LABEL: label} if label else {})
    known = {"labels": labels, "annotations": {TOKEN: token} if token else {}} | fields
    return Pod("shop", name, f"uid-{name}", "1", **known)


LEADING = pod("a", "leader", token="7")


def election(*, ready=("True", "Leading"), led=True, others=(), **metadata):
    """Return an election that the pod `a` leads, unless something else is said."""
    told = {"Ready": ready, "LabelsInSync": ("True", "LabelsWritten"), **dict(others)}
    status = {
        "observedGeneration": 1,
        "token": 7,
        "holder": "here/shop/a",
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": f"told {reason}"}
            for kind, (status, reason) in told.items()
        ],
    }
    if led:
        status["leader"] = {"podName": "a", "podUID": "uid-a"}
    return {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 1} | metadata,
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": status,
    }


def about(body, *pods):
    """Return the findings about an election."""
    resource = resource_from(body, default_bucket="")
    return findings.about_election(body, resource, pods, NOW)


def test_an_election_that_is_well():
    """Nothing is found."""
    assert about(election(), LEADING, pod("b"), pod("c", "", ready=False)) == []


@pytest.mark.parametrize(
    ("body", "level", "text"),
    (
        (election() | {"status": {}}, Level.PROBLEM, "no operator serves it"),
        (
            election(generation=2),
            Level.PROBLEM,
            "has not seen its last change (generation 2, seen: 1)",
        ),
        (
            election(deletionTimestamp="2026-11-24T11:59:00Z", finalizers=[FINALIZER]),
            Level.PROBLEM,
            "was deleted at 2026-11-24T11:59:00Z, and still waits",
        ),
        (
            election(annotations={STEP_DOWN: ""}),
            Level.WARNING,
            "a request to step down waits to be carried out",
        ),
        (
            election(ready=("False", "NoCandidates")),
            Level.WARNING,
            "NoCandidates: told NoCandidates",
        ),
        (
            election(ready=("False", "BucketUnreachable")),
            Level.PROBLEM,
            "BucketUnreachable: told BucketUnreachable",
        ),
        (
            election(ready=("False", "KeyInUse"), others=(("Stalled", ("True", "KeyInUse")),)),
            Level.PROBLEM,
            "KeyInUse: told KeyInUse",
        ),
        (
            election(others=(("BucketReady", ("True", "BucketAtRisk")),)),
            Level.WARNING,
            "BucketAtRisk: told BucketAtRisk",
        ),
        (
            election(others=(("LabelsInSync", ("False", "LabelsNotWritten")),)),
            Level.PROBLEM,
            "LabelsNotWritten: told LabelsNotWritten",
        ),
    ),
)
def test_what_a_status_tells(body, level, text):
    """Every finding has a level, and what to do."""
    (found,) = [f for f in about(body, LEADING) if "label" not in f.text or "told" in f.text]
    assert found.topic == "shop/web"
    assert found.level is level
    assert text in found.text
    assert found.todo


def test_a_suspended_election_is_no_finding():
    """Somebody wanted it so."""
    (found,) = about(election(ready=("False", "Suspended"), led=False), pod("a"))
    assert found.level is Level.NOTE


def test_an_election_that_another_cluster_leads_is_told():
    """Perhaps nobody meant to share it: the clusters have one NATS and the default bucket."""
    (found,) = about(election(ready=("True", "LedElsewhere"), led=False), pod("a"))
    assert found.level is Level.NOTE
    assert "another bucket" in found.todo


def test_a_deleted_election_has_some_time():
    """The operator takes a moment to let go."""
    metadata = {"deletionTimestamp": "2026-11-24T11:59:59Z", "finalizers": [FINALIZER]}
    assert about(election(**metadata), LEADING) == []


@pytest.mark.parametrize(
    ("pods", "level", "texts"),
    (
        (
            (LEADING, pod("b", "leader")),
            Level.PROBLEM,
            {
                "2 pods carry the leader label: a, b",
                "the pod b carries the leader label, and the status says otherwise",
            },
        ),
        ((pod("a"),), Level.PROBLEM, {"the leader a does not carry the leader label"}),
        (
            (replace(LEADING, annotations={TOKEN: "6"}),),
            Level.PROBLEM,
            {"the pod a shows the token 6, and the status says 7"},
        ),
        (
            (replace(LEADING, uid="another"),),
            Level.PROBLEM,
            {
                "the leader a does not carry the leader label",
                "the pod a carries the leader label, and the status says otherwise",
            },
        ),
        (
            (LEADING, pod("b", "")),
            Level.WARNING,
            {"the pod b can lead, and lacks the label incumbent.dev/web"},
        ),
        (
            (LEADING, pod("b", ready=False)),
            Level.WARNING,
            {"the pod b is labelled candidate, and cannot lead: it is not ready"},
        ),
    ),
)
def test_labels_that_are_not_as_they_should_be(pods, level, texts):
    """Two leaders, a wrong one, none, an old token, and wrong candidates are found."""
    found = about(election(), *pods)
    assert {finding.text for finding in found} == texts
    assert {finding.level for finding in found} == {level}
    assert all(finding.todo for finding in found)


def test_labels_that_may_not_be_seen():
    """Without the right to list pods, that is said."""
    body = election()
    (found,) = findings.about_election(body, resource_from(body, default_bucket=""), "no", NOW)
    assert found.level is Level.NOTE


def record(holder):
    """Return a record."""
    return Record(1, holder, 1, replica="r")


def test_a_record_that_fits():
    """Whoever holds the key, if the status knows it, that is well."""
    assert findings.about_record("shop/web", election(), record("here/shop/a")) == []
    vacant = election(led=False)
    del vacant["status"]["holder"]
    assert findings.about_record("shop/web", vacant, None) == []


@pytest.mark.parametrize(
    ("found", "text"),
    (
        (None, "here/shop/a holds the key, but in the bucket nobody does"),
        (record("other"), "here/shop/a holds the key, but in the bucket other does"),
    ),
)
def test_a_record_that_the_status_does_not_know(found, text):
    """Then nobody keeps the status."""
    (finding,) = findings.about_record("shop/web", election(), found)
    assert text in finding.text
    assert finding.level is Level.PROBLEM


@pytest.mark.parametrize(
    ("info", "warnings", "level", "text"),
    (
        (INFO, [], Level.OK, "TTL 30 s, history 1, replicas 1"),
        (INFO, ["one replica"], Level.WARNING, "one replica"),
        (replace(INFO, ttl=0), [], Level.PROBLEM, "its TTL is 0 s"),
        (replace(INFO, ttl=7200), ["long"], Level.PROBLEM, "its TTL is 7200 s"),
        (replace(INFO, mirror=True), [], Level.PROBLEM, "a copy of another bucket"),
        (replace(INFO, ttl=0, unfit="it is sealed: do"), [], Level.PROBLEM, "it is sealed"),
    ),
)
def test_buckets(info, warnings, level, text):
    """What cannot hold an election is a problem, what is risky a warning."""
    (found,) = findings.about_bucket(info, warnings)
    assert found.level is level
    assert text in found.text


@pytest.mark.parametrize(
    ("ahead", "uncertain", "level"),
    (
        (0.0, 0.0, Level.OK),
        (-1.0, 0.0, Level.OK),
        (1.5, 0.6, Level.OK),
        (1.5, 0.1, Level.WARNING),
        (-30, 0.1, Level.WARNING),
    ),
)
def test_clocks(ahead, uncertain, level):
    """A difference counts as far as it is certain."""
    found = findings.about_clock("Bucket B", ahead, uncertain=uncertain)
    assert found.level is level
    assert bool(found.todo) is (level is Level.WARNING)


def test_clocks_say_which_is_ahead():
    """So that one knows where to look."""
    assert "2.0 s ahead of" in findings.about_clock("B", 2, uncertain=0).text
    assert "2.0 s behind" in findings.about_clock("B", -2, uncertain=0).text


@pytest.mark.parametrize(
    ("aheads", "uncertain", "ttl", "text"),
    (
        ((0, 0.2, -0.2), 0.01, 30, "differ by at most 0.4 s"),
        ((100, 100.1, 100.2), 0.01, 30, "differ by at most 0.2 s"),
        ((0, 2), 0.6, 30, "differ by at most 2.0 s"),
        ((0, -3, 3), 0.01, 30, "the clock of nats-2 is 6.0 s ahead of that of nats-1"),
        ((0, 0.3), 0.01, 2, "the clock of nats-1 is 0.3 s ahead of that of nats-0"),
    ),
)
def test_the_clocks_of_a_buckets_servers_are_compared(aheads, uncertain, ttl, text):
    """With one another, whatever this machine's shows; what an answer took is allowed for."""
    names = [f"nats-{number}" for number in range(len(aheads))]
    clocks = [
        findings.ServerClock(name, ahead=ahead, uncertain=uncertain)
        for name, ahead in zip(names, aheads, strict=True)
    ]
    (found,) = findings.about_clocks("B", names, clocks, ttl=ttl)
    assert text in found.text
    assert (found.level is findings.Level.WARNING) == ("ahead of" in text) == ("NTP" in found.todo)


def test_a_server_whose_clock_was_not_seen_is_named():
    """The others are compared all the same."""
    clocks = [findings.ServerClock(name, ahead=0, uncertain=0) for name in ("a", "c")]
    note, rest = findings.about_clocks("B", ["a", "b", "c"], clocks, ttl=30)
    assert note.level is findings.Level.NOTE
    assert "the clock of b was not seen" in note.text
    assert rest.level is findings.Level.OK
    (note,) = findings.about_clocks("B", ["a", "b"], clocks[:1], ttl=30)
    assert "the clock of b was not seen" in note.text


def test_rights_are_told_together():
    """One sentence for each resource, with all verbs and the commands that need them."""
    missing = [
        Right("get", "pods", needed=("status",)),
        Right("list", "pods", needed=("status", "doctor")),
        Right("patch", "leaderelections", "incumbent.dev", subresource="status"),
    ]
    found = findings.about_rights("R", "you", "x", missing, level=Level.WARNING, todo="ask")
    assert [finding.text for finding in found] == [
        "you may not get, list pods in x; status, doctor will not work",
        "you may not patch leaderelections.incumbent.dev/status in x",
    ]
    (found,) = findings.about_rights("R", "you", "x", [], level=Level.WARNING, todo="ask")
    assert found.level is Level.OK


# What the operator allows


def deployment(*args, env=()):
    container = {"name": "operator", "args": ["operator", *args], "env": list(env)}
    return {
        "metadata": {"namespace": "incumbent", "name": "incumbent"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


@pytest.mark.parametrize(
    ("args", "env", "words"),
    (
        ((), (), ("bucket LEADER_ELECTION", "no others", "1000 elections")),
        (("--bucket=B",), (), ("bucket B that",)),
        (("--bucket", "B"), (), ("bucket B that",)),
        (
            ("--allow-lock=shop/B/a.*", "--allow-lock", "x/B/b"),
            (),
            ("also allows shop/B/a.*, x/B/b",),
        ),
        ((), ({"name": "INCUMBENT_ALLOW_LOCK", "value": "a/B/c, d/B/*"},), ("a/B/c, d/B/*",)),
        (("--max-elections-per-namespace=0",), (), ("all elections are served",)),
        (("--max-elections-per-namespace=7",), (), ("7 elections are served",)),
    ),
)
def test_limits_of_an_operator_are_shown(args, env, words):
    (found,) = findings.about_limits("Operator", deployment(*args, env=env))
    assert found.level is findings.Level.OK
    assert all(word in found.text for word in words), found.text


def test_operator_that_allows_everything_is_worth_a_warning():
    (found,) = findings.about_limits("Operator", deployment("--allow-lock=*/*/*"))
    assert found.level is findings.Level.WARNING
    assert "any key of any bucket" in found.text
