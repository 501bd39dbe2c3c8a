"""The pod that a record names, as it is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from incumbent.kubernetes.objects import Pod
from incumbent.reconciler.candidates import Candidates

NAMED = Pod("shop", "web-0", "uid-of-the-record", resource_version="7")


@pytest.mark.parametrize(
    ("there", "found"),
    (
        (NAMED, NAMED),
        (Pod("shop", "web-0", "uid-of-another", resource_version="8"), None),
        (None, None),
    ),
    ids=("itself", "another pod of that name", "none"),
)
async def test_find_returns_the_pod_that_a_record_names(there, found):
    """A StatefulSet gives the name to the next pod; by its UID that is another one."""

    async def get_pod(namespace, name):
        assert (namespace, name) == ("shop", "web-0")
        return there

    adapters = SimpleNamespace(
        cluster=SimpleNamespace(get_pod=get_pod),
        driver=None,
        labels=None,
        pods=SimpleNamespace(all=None, gone=lambda uid: False),
        resource=SimpleNamespace(key=SimpleNamespace(namespace="shop")),
    )
    record = SimpleNamespace(holder="042e7842/shop/web-0", pod_uid=NAMED.uid)
    assert await Candidates(adapters, standing=None).find(record) == found
