"""A cluster, the labels of its pods, and a bucket that warrants them."""

from __future__ import annotations

import pytest

from fakecluster import FakeCluster, make_election, make_pod
from incumbent.errors import (
    ClusterUnreachable,
)
from incumbent.kubernetes.resource import resource_from
from incumbent.pods.labels import Labels
from labelwrites import FOREVER, Bucket


@pytest.fixture
def cluster():
    """An API server with the election, and no pods."""
    cluster = FakeCluster()
    cluster.put_election(make_election())
    return cluster


@pytest.fixture
def learnt():
    """What was learnt."""
    return []


@pytest.fixture
def labels(cluster, learnt):
    return Labels(cluster, resource_from(make_election(), default_bucket="B"), learnt.append)


@pytest.fixture
def add(labels, cluster):
    """Return a coroutine function that adds the label under a warrant for each token."""

    async def call(pod, *tokens, until=lambda: FOREVER, first=False, delay=0.0):
        bucket = Bucket(cluster, *tokens, delay=delay)
        return await labels.add(pod, warrant=bucket.warrant, until=until, first=first)

    return call


@pytest.fixture
def doubt(cluster, add):
    """Return a coroutine function: a pod to which a label was sent, but has not arrived so far."""

    async def send():
        pod = cluster.add(make_pod("a"))
        with cluster.delaying_writes() as late:
            with pytest.raises(ClusterUnreachable):
                await add(pod, 5)
            late.pending.clear()
        return pod

    return send
