"""The checks of `kubectl incumbent doctor` in NATS. This module imports nats."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from incumbent import clock
from incumbent.campaign.ports import Outcome
from incumbent.campaign.records import Record
from incumbent.cli.bucket import warnings_about_peers
from incumbent.errors import BucketError
from incumbent.kubectl.describe import condition, status_of
from incumbent.kubectl.doctor.cluster import LOOK_AGAIN, Examination
from incumbent.kubectl.doctor.findings import (
    Finding,
    Level,
    ServerClock,
    about_bucket,
    about_clock,
    about_clocks,
    about_record,
)
from incumbent.kubernetes.resource import resource_from
from incumbent.nats.connection import NatsBucket, NatsConnection
from incumbent.nats.login import access_from
from incumbent.settings import Settings
from incumbent.status.conditions import warnings_about

POLL = 0.1
SHOWN_WITHIN = 5.0
"""Longest wait in seconds until the watch of a bucket shows its keys."""

REQUEST = 2.0
"""Seconds for a request to NATS."""

IMPOSSIBLE = 2**62
"""A revision that no key has. A permitted write that expects it is refused."""

MOST_KEYS = 20
"""Greatest number of keys for which the right to write is tried in each bucket."""

ASKED_FOR_CLOCKS = 10
"""Questions about clocks for each server of a bucket. A random server answers each question. With 3
servers, one of them never answers in 1 of 60,000 runs; with 5 servers, in 1 of 14,000 runs."""

REMEDY = "see docs/nats.md: the bucket, and the rights of the login"


async def of_nats(
    examination: Examination, settings: Settings, *, named: str | None
) -> list[Finding]:
    """Check the buckets of the elections, and the `named` bucket if given."""
    examination.progress.say("for NATS")
    used: dict[str, list[dict[str, Any]]] = {}
    for election in filter(_served, examination.elections):
        name = (status_of(election).get("bucket") or {}).get("name")
        used.setdefault(name or election["spec"].get("bucket") or settings.bucket, []).append(
            election
        )
    if named or not used:
        used.setdefault(named or settings.bucket, [])
    async with NatsConnection(access_from(settings, name="kubectl incumbent doctor")) as nats:
        try:
            async with asyncio.timeout(nats.access.patience):
                await nats.wait_connected()
        except TimeoutError:
            todo = "correct the flags, or look at the server and at what lies between"
            return [Finding("NATS", Level.PROBLEM, nats.problem, todo)]
        findings = [Finding("NATS", Level.OK, "it answers, and takes the login")]
        for name, elections in sorted(used.items()):
            findings += await _of_bucket(examination, nats.bucket(name), elections)
    return findings


async def _of_bucket(
    examination: Examination, bucket: NatsBucket, elections: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    topic = f"Bucket {bucket.name}"
    try:
        question = Question()
        info = await bucket.info()
        question.answered()
        peers = await bucket.peers()
    except BucketError as error:
        return [Finding(topic, Level.PROBLEM, str(error), REMEDY)]
    findings = about_bucket(info, [*warnings_about(info), *warnings_about_peers(peers)])
    ahead = question.ahead(info.server_time)
    findings.append(about_clock(topic, ahead, uncertain=question.uncertain))
    if info.mirror or info.unfit:
        return findings
    names = [peer.name for peer in peers if not peer.offline]
    if len(names) > 1:
        clocks = await _clocks(bucket, names)
        findings += about_clocks(topic, names, clocks, ttl=info.ttl)
    keys = [_key(election) for election in elections]
    problems = await _problems(bucket, keys[:MOST_KEYS] or ["incumbent-doctor"])
    if problems:
        return [*findings, *(Finding(topic, Level.PROBLEM, text, REMEDY) for text in problems)]
    text = "the login may read, watch and write the keys"
    findings.append(Finding(topic, Level.OK, text))
    wrong = await _of_records(bucket, elections)
    if wrong:  # the leader may just have changed
        await asyncio.sleep(LOOK_AGAIN)
        await examination.refresh()
        same = [one for one in examination.elections if _served(one) and _key(one) in keys]
        wrong = [finding for finding in await _of_records(bucket, same) if finding in wrong]
    return [*findings, *wrong]


class Question:
    """Compares the wall clock of a server with ours, by a question and its answer.

    A clock that never steps measures the time until the answer. If our wall clock steps meanwhile,
    the step counts as uncertainty.
    """

    def __init__(self) -> None:
        self._sent, self._began = time.time(), clock.now()
        self.uncertain = math.inf
        """Seconds by which `ahead` may be wrong; infinite before the answer."""
        self._half = 0.0

    def answered(self) -> None:
        """Record that the answer has arrived."""
        took = clock.now() - self._began
        stepped = abs(time.time() - self._sent - took)
        self._half = took / 2
        self.uncertain = self._half + stepped

    def ahead(self, shown: float) -> float:
        """Return by how many seconds a server with this time is ahead of us."""
        return shown - self._sent - self._half


async def _clocks(bucket: NatsBucket, names: Sequence[str]) -> list[ServerClock]:
    """Read the clocks of those servers of a bucket that answer."""
    clocks: dict[str, ServerClock] = {}
    for _ in range(ASKED_FOR_CLOCKS * len(names)):
        if clocks.keys() >= {*names}:
            break
        question = Question()
        try:
            name, shown = await bucket.clock_of_a_server()
        except BucketError:
            break  # the check of the watch reports this error, too
        question.answered()
        found = ServerClock(name, ahead=question.ahead(shown), uncertain=question.uncertain)
        if name not in clocks or found.uncertain < clocks[name].uncertain:
            clocks[name] = found
    return [clocks[name] for name in names if name in clocks]


def _served(election: Mapping[str, Any]) -> bool:
    """Whether an election may use its lock. Other elections are not checked in NATS."""
    return condition(election, "Stalled")["reason"] not in {"LockNotAllowed", "QuotaExceeded"}


def _key(election: Mapping[str, Any]) -> str:
    return resource_from(election, default_bucket="").record_key


async def _of_records(bucket: NatsBucket, elections: Sequence[Mapping[str, Any]]) -> list[Finding]:
    findings = []
    for election in elections:
        try:
            entry = (await bucket.read(_key(election), timeout=REQUEST)).entry
        except BucketError as error:
            return [Finding(f"Bucket {bucket.name}", Level.PROBLEM, str(error), REMEDY)]
        metadata = election["metadata"]
        record = entry if isinstance(entry, Record) else None
        findings += about_record(f"{metadata['namespace']}/{metadata['name']}", election, record)
    return findings


async def _problems(bucket: NatsBucket, keys: Sequence[str]) -> list[str]:
    """Try to read, watch and write a bucket as an operator does, and return the problems.

    The writes expect an impossible revision, so they store nothing even if they are permitted.
    """
    problems = []
    try:
        await bucket.read(keys[0], timeout=REQUEST)
    except BucketError as error:
        problems.append(str(error))
    shown = asyncio.Event()
    end = bucket.follow(lambda key, _: None if key else shown.set())
    try:
        async with asyncio.timeout(SHOWN_WITHIN):
            await shown.wait()
            while not bucket.delivers:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(POLL)
    except TimeoutError:
        problem: BucketError | None = bucket.problem
        text = (
            f"the watch of the bucket delivered nothing within {SHOWN_WITHIN:g} s: log in to the"
            " account of the bucket, or let it export what consumers deliver"
        )
        problems.append(str(problem or text))
    finally:
        end()
    for key in keys:
        answer = await bucket.write(key, "", expected=IMPOSSIBLE, headers={}, timeout=REQUEST)
        if denied := bucket.denied.get(key):
            problems.append(str(denied))
        elif answer.outcome is Outcome.UNKNOWN:
            problems.append(f"a write of key {key} was not answered: {answer.reason}")
            break
    return list(dict.fromkeys(problems))
