"""What is taken of the JSON of a pod."""

from __future__ import annotations

import pytest

from incumbent.kubernetes.pod_json import MOST_PORTS, hostname_from, pod_from
from scriptedapi import (
    pod,
    pod_json,
)


def test_a_pod_keeps_what_an_election_looks_at():
    """Labels, annotations, phase, readiness, node, address and age come out of the JSON."""
    json_pod = pod_json(labels={"app": "x"}, annotations={"incumbent.dev/priority": "1"})
    assert pod_from(json_pod) == pod(
        labels={"app": "x"}, annotations={"incumbent.dev/priority": "1"}
    )


def test_what_no_election_looks_at_is_not_kept_of_a_pod():
    """Annotations of others can be 256 KB; ports have no limit but the size of the object."""
    json_pod = pod_json(annotations={"incumbent.dev/priority": "1", "other": "x" * 200_000})
    ports = [{"name": f"p-{number}", "containerPort": number + 1} for number in range(10_000)]
    json_pod["spec"]["containers"] = [{"name": "main", "ports": ports}]
    kept = pod_from(json_pod)
    assert kept.annotations == {"incumbent.dev/priority": "1"}
    assert len(kept.ports) == MOST_PORTS
    assert kept.ports[0] == ("p-0", "TCP", 1)


def test_a_pod_without_optional_fields_is_neither_ready_nor_running():
    """A pod that is not scheduled yet has neither labels nor conditions nor an address."""
    bare = pod_json()
    del bare["spec"], bare["status"]
    assert pod_from(bare) == pod(phase="Unknown", ready=False, node="", ip="")


@pytest.mark.parametrize("conditions", ([], [{"type": "Ready", "status": "False"}]))
def test_a_pod_is_ready_only_when_it_says_so(conditions):
    """No condition Ready, and a false one, mean not ready."""
    json_pod = pod_json()
    json_pod["status"]["conditions"] = conditions
    assert not pod_from(json_pod).ready


def test_a_pod_with_a_deletion_timestamp_is_terminating():
    """The deletion timestamp is the one sign of termination."""
    assert pod_from(pod_json(deletionTimestamp="2026-01-01T00:00:00Z")).terminating


@pytest.mark.parametrize(
    ("spec", "hostname", "domain"),
    (
        ({}, "", ""),
        ({"hostname": "h"}, "h", ""),
        ({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": True}, "h", "s.shop.svc"),
        ({"subdomain": "s"}, "", "s.shop.svc"),
        ({"hostNetwork": True, "nodeName": "node-1"}, "node-1", ""),
        ({"hostnameOverride": "db.corp", "hostname": "h", "subdomain": "s"}, "db.corp", ""),
    ),
)
def test_host_names_are_those_that_the_kubelet_sets(spec, hostname, domain):
    """By the fields of the pod's spec."""
    body = pod_json("a")
    found = pod_from({**body, "spec": {**body.get("spec", {}), **spec}})
    assert (found.hostname, found.domain) == (hostname, domain)


@pytest.mark.parametrize(
    ("name", "hostname"),
    (
        ("x" * 63, ""),
        ("x" * 64, "x" * 63),
        ("x" * 61 + "-.y", "x" * 61),
        ("x" * 62 + "-y", "x" * 62),
    ),
)
def test_long_pod_name_is_cut_for_its_host_name(name, hostname):
    """To 63 letters, and no hyphen or period at the end."""
    assert hostname_from(name, {}) == hostname
