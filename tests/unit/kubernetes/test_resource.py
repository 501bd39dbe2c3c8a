from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakecluster import make_election, selects
from incumbent.campaign.configuration import CampaignSpec
from incumbent.campaign.records import Profile, Promotion
from incumbent.campaign.timing import ExponentialBackoff
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import (
    FINALIZER,
    LABELLING,
    STEP_DOWN,
    STEP_DOWN_TERM,
    Requirement,
    Selector,
    lean,
    resource_from,
)


def resource(election=None, **spec):
    return resource_from(election or make_election(spec=spec), default_bucket="LEADER_ELECTION")


def selector(**parts):
    return resource(selector=parts).selector


def expression(operator, *values, key="tier"):
    entry = {"key": key, "operator": operator}
    return {**entry, "values": list(values)} if values else entry


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    (
        ("In", ["web", "db"], {"tier": "db"}, True),
        ("In", ["web", "db"], {"tier": "cache"}, False),
        ("In", ["web", "db"], {}, False),
        ("In", [""], {"tier": ""}, True),
        ("In", [""], {}, False),
        ("NotIn", ["web", "db"], {"tier": "cache"}, True),
        ("NotIn", ["web", "db"], {"tier": "web"}, False),
        ("NotIn", ["web", "db"], {}, True),
        ("NotIn", [""], {"tier": ""}, False),
        ("Exists", [], {"tier": ""}, True),
        ("Exists", [], {"other": "web"}, False),
        ("DoesNotExist", [], {"other": "web"}, True),
        ("DoesNotExist", [], {"tier": ""}, False),
        ("Later", ["web"], {"tier": "web"}, False),
    ),
)
def test_an_operator_decides_as_the_api_server_does(operator, values, labels, matches):
    """A label that is absent is not in any set, and an unknown operator matches nothing."""
    assert Requirement("tier", operator, frozenset(values)).matches(labels) is matches


def test_all_requirements_have_to_be_met():
    """Labels and expressions are joined by AND."""
    both = selector(matchLabels={"app": "billing"}, matchExpressions=[expression("In", "web")])
    assert both.matches({"app": "billing", "tier": "web", "more": "x"})
    assert not both.matches({"app": "billing"})
    assert not both.matches({"tier": "web"})


@pytest.mark.parametrize("entry", (expression("NotIn", "web"), expression("DoesNotExist")))
def test_a_selector_may_ask_for_nothing_but_absence(entry):
    """Pods without any label match a selector that only excludes."""
    assert selector(matchExpressions=[entry]).matches({})


@pytest.mark.parametrize(
    "parts", ({}, {"matchLabels": {}}, {"matchExpressions": []}, {"matchLabels": None})
)
def test_an_empty_selector_matches_no_pod(parts):
    """It is refused at apply; should one come through, it must not take in a whole namespace."""
    empty = selector(**parts)
    assert not empty.matches({})
    assert not empty.matches({"app": "billing"})


@pytest.mark.parametrize(
    ("parts", "query"),
    (
        ({"matchLabels": {"app": "billing"}}, "app in (billing)"),
        ({"matchLabels": {"app": "", "b": "c"}}, "app in (),b in (c)"),
        ({"matchExpressions": [expression("In", "web", "db")]}, "tier in (db,web)"),
        ({"matchExpressions": [expression("NotIn", "web", "")]}, "tier notin (,web)"),
        ({"matchExpressions": [expression("Exists")]}, "tier"),
        ({"matchExpressions": [expression("DoesNotExist")]}, "!tier"),
    ),
)
def test_a_selector_reads_as_a_query_of_the_api_server(parts, query):
    """The text goes into the query parameter labelSelector."""
    assert str(selector(**parts)) == query


names = st.sampled_from(["app", "tier", "example.com/part"])
values = st.sampled_from(["", "a", "b"])
expressions = st.one_of(
    st.builds(
        lambda key, operator, some: expression(operator, *some, key=key),
        names,
        st.sampled_from(["In", "NotIn"]),
        st.lists(values, min_size=1, unique=True),
    ),
    st.builds(expression, st.sampled_from(["Exists", "DoesNotExist"]), key=names),
)
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(names, values),
        "matchExpressions": st.lists(expressions, max_size=3),
    },
)


@given(selectors, st.dictionaries(names, values))
def test_a_selector_and_its_query_select_the_same(parts, labels):
    """What the operator looks up in its own view is what it would get from the API server."""
    own = selector(**parts)
    if own != Selector():
        assert own.matches(labels) is selects(str(own), labels)


def test_defaults_are_derived_from_the_name():
    """An election that only selects has a key, a label key and the operator's bucket."""
    plain = resource()
    assert plain.key == ElectionKey("shop", "billing")
    assert plain.bucket == "LEADER_ELECTION"
    assert plain.record_key == "shop.billing"
    assert plain.label_key == "incumbent.dev/billing"
    assert plain.token_key == "incumbent.dev/billing.token"
    assert (plain.suspend, plain.deleting, plain.campaign.interval, plain.site) == (
        False,
        False,
        None,
        "",
    )
    assert not plain.observed
    assert (plain.unready_grace, plain.preempts, plain.holds) == (0, False, False)
    assert (plain.accepts_lower_tokens, plain.step_down) == (False, None)


def test_what_is_asked_for_is_read():
    """Every field of the spec that there is arrives."""
    asked = resource(
        bucket="OTHER",
        key="a.b",
        mode="Observed",
        suspend=True,
        label={"key": "example.com/x"},
        campaign={
            "profile": "Choria",
            "intervalSeconds": 3,
            "splaySeconds": 4,
            "promotion": "Auto",
            "backoff": {"initialSeconds": 5, "factor": 2, "maxSeconds": 6},
        },
        handover={"unreadyGraceSeconds": 7, "preemption": "WhenReady"},
        onBucketLoss="Hold",
        onTokenRegress="Accept",
    )
    assert (asked.unready_grace, asked.preempts, asked.holds) == (7.0, True, True)
    assert asked.accepts_lower_tokens
    assert asked.observed
    assert (asked.bucket, asked.record_key, asked.label_key) == ("OTHER", "a.b", "example.com/x")
    assert asked.suspend
    assert asked.campaign == CampaignSpec(
        Profile.CHORIA, 3, 4, Promotion.AUTO, ExponentialBackoff(5, 2, 6)
    )


def test_what_is_not_asked_for_is_the_profiles():
    """Nothing overrides the profile by itself, and one that is not known here is Prompt."""
    plain = resource(campaign={"profile": "Later", "promotion": "Later"})
    assert plain.campaign == CampaignSpec(Profile.PROMPT, None, None, None, None)


def test_the_token_annotation_does_not_depend_on_the_label_key():
    """Two elections with label keys that end alike must not write over each other's fence."""
    assert resource(label={"key": "example.com/x"}).token_key == "incumbent.dev/billing.token"


def test_what_is_remembered_wins():
    """A later operator with other defaults does not move a running election."""
    status = {"bucket": {"name": "OLD"}, "key": "old.key", "labelKey": "old.dev/x", "site": "old"}
    election = make_election(spec={"bucket": "NEW", "key": "new"}, status=status)
    kept = resource_from(election, default_bucket="NEWER")
    assert (kept.bucket, kept.record_key, kept.label_key, kept.site) == (
        "OLD",
        "old.key",
        "old.dev/x",
        "old",
    )


def test_a_deletion_under_way_is_seen():
    """A resource with a deletionTimestamp is to be taken back."""
    assert resource(make_election(deletionTimestamp="2026-01-01T00:00:00Z")).deleting


texts = st.text(string.ascii_letters, min_size=1, max_size=5)
bodies = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"namespace": texts, "name": texts, "uid": texts},
            optional={"generation": st.integers(0), "creationTimestamp": texts},
        ),
        "spec": st.fixed_dictionaries(
            {"selector": selectors},
            optional={
                "bucket": texts,
                "key": texts,
                "suspend": st.booleans(),
                "campaign": st.just({}) | st.fixed_dictionaries({"intervalSeconds": st.just(1)}),
                "label": st.just({}) | st.fixed_dictionaries({"key": texts}),
            },
        ),
    },
    optional={
        "status": st.fixed_dictionaries(
            {},
            optional={
                "observedGeneration": st.integers(-1),
                "bucket": st.fixed_dictionaries({"name": texts}),
                "key": texts,
                "labelKey": texts,
                "site": texts,
            },
        )
    },
)


@given(bodies)
def test_a_body_that_the_schema_admits_is_always_read(body):
    """Whatever is left out, reading does not fail, and nothing that names the lock is empty."""
    read = resource_from(body, default_bucket="B")
    assert read.bucket
    assert read.record_key
    assert read.label_key
    assert read.key == ElectionKey(body["metadata"]["namespace"], body["metadata"]["name"])


def test_a_body_without_a_spec_is_read():
    """Such a body can be in a cluster whose schema is an earlier one; it selects nothing."""
    body = make_election()
    del body["spec"]
    assert resource(body).selector == Selector()


def test_what_others_write_into_the_metadata_of_an_election_is_not_kept():
    """A tenant may annotate it with 256 KB, label it, and every field manager adds to it."""
    ours = {STEP_DOWN: "", STEP_DOWN_TERM: "7", LABELLING: "uid/pod/nonce"}
    foreign = {
        "kubectl.kubernetes.io/last-applied-configuration": "x" * 200_000,
        **{f"incumbent.dev/much-{number}": "x" for number in range(10_000)},
        "incumbent.dev/long": "x" * 200_000,
    }
    needed = {
        "name": "billing",
        "namespace": "shop",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-02T00:00:00Z",
        "finalizers": [FINALIZER, "other"],
    }
    body = {
        "metadata": {
            **needed,
            "annotations": {**foreign, **ours},
            "labels": {f"label-{number}": "x" for number in range(1000)},
            "managedFields": [{"manager": "x" * 1000}],
            "ownerReferences": [{"name": "x"}],
        },
        "spec": {"selector": {}},
        "status": {"token": 7},
    }
    assert lean(body) is body
    annotations = body["metadata"].pop("annotations")
    assert body == {"metadata": needed, "spec": {"selector": {}}, "status": {"token": 7}}
    assert ours.items() <= annotations.items()
    assert len(str(annotations)) < 2000


def test_an_election_without_annotations_gets_none():
    """Nor fails over them."""
    body = {"metadata": {"name": "billing", "annotations": None}}
    assert lean(body) == {"metadata": {"name": "billing"}}
