"""The operator process: settings become adapters, adapters become an operator, and it runs."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog
import uvloop

from incumbent.campaigner.campaigner import Campaigner, Shared
from incumbent.controller import descriptors, gc_pauses, lifecycle
from incumbent.controller.registry import Registry
from incumbent.errors import (
    BucketError,
    ClusterError,
    ConfigurationError,
    Forbidden,
    IncumbentError,
)
from incumbent.history.stream import HistoryStream
from incumbent.history.writer import HistoryWriter
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import API_VERSION, PLURAL, Resource
from incumbent.kubernetes.session import Session
from incumbent.kubernetes.turns import CHANGES, QUESTIONS, Turns
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import access_from
from incumbent.nats.lookups import SELDOM
from incumbent.pods.cache import NamespacePods
from incumbent.pods.orphans import take_back
from incumbent.replicas.confirmation import Stewards
from incumbent.replicas.site import Replica, Site
from incumbent.server.feed import Feed
from incumbent.server.frontend import Frontend
from incumbent.server.listen import bind
from incumbent.server.metrics import Metrics
from incumbent.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

LONGEST_PAUSE = 5.0
"""Seconds between attempts at what has to work before the operator can, at most."""
LIST_AGAIN = 2.0
"""Seconds between looks for the elections that are not served yet after a start."""
FINISH_WITHIN = 1.0
"""Seconds for the last entries of the history at the end."""
SITE_NAME_LENGTH = 8
ELECTIONS = re.compile(rf"/apis/{API_VERSION}/(?:namespaces/(?P<namespace>[^/]+)/)?{PLURAL}")
"""The path of elections, of one namespace or of all."""


def run(settings: Settings, *, version: str) -> int:
    """Run the operator until SIGTERM or SIGINT; return the exit code.

    The version is what the log and the metrics say.

    Raises:
        ConfigurationError: the settings cannot work, whatever happens later.
    """
    uvloop.run(_operate(settings, version=version))
    return 0


class Health:
    """The parts that are missing before the process can work; see `/readyz`."""

    def __init__(self) -> None:
        self.waiting = {"nats": "not connected yet", "kubernetes": "not reached yet"}
        """The part that is missing, and the reason in words."""

    @property
    def ready(self) -> bool:
        """Whether everything was there at least once."""
        return not self.waiting

    def wait_for(self, what: str, why: str) -> None:
        """Record that a part is missing."""
        if self.waiting.get(what) != why:
            log.info("operator.waiting", what=what, why=why)
        self.waiting[what] = why

    def found(self, what: str) -> None:
        """Record that a part is there; nothing asks for it again."""
        self.waiting.pop(what, None)

    def problems(self) -> Mapping[str, str]:
        """Return what keeps the process from being ready, by component."""
        return self.waiting


class Operator:
    """The parts of the process, and what they do together."""

    def __init__(self, settings: Settings, cluster: ApiServer, *, version: str) -> None:
        self.health = Health()
        self.connection = NatsConnection(
            access_from(settings, name=f"incumbent {settings.replica}")
        )
        self.replica = Replica(settings.replica, secrets.token_hex(4))
        self.registry = Registry(
            self._campaigner,
            default_bucket=settings.bucket,
            allowed_locks=settings.allow_locks,
            label_prefixes=settings.label_prefixes,
            most_per_namespace=settings.max_elections_per_namespace,
            gets_finalizer=lambda namespace: namespace not in settings.without_finalizer,
        )
        self.metrics = Metrics(
            lambda: [one.view for one in self.registry.campaigners.values()],
            connected=lambda: self.connection.connected,
            tasks=lambda: len(asyncio.all_tasks()),
            version=version,
        )
        self.history_writer: HistoryWriter | None = None
        if settings.history_stream is not None:
            store = HistoryStream(self.connection, settings.history_stream)
            self.history_writer = HistoryWriter(
                store, replica=str(self.replica), observer=self.metrics
            )
        self._settings = settings
        self._cluster = cluster
        self._bucket = self.connection.bucket(settings.bucket)  # is told at the start what to do
        self._namespaces: WeakValueDictionary[str, NamespacePods] = WeakValueDictionary()
        """Those that have elections."""
        self._shared = Shared(
            Site(settings.site or "", ""),  # until the cluster has been asked
            self.replica,
            cluster,
            self.metrics,
            Turns(CHANGES),
            stewards=Stewards(Turns(QUESTIONS).turn),
            history_writer=self.history_writer,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the elections, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            await self.connection.start()
            preparing = tasks.create_task(
                _prepare_bucket(self._settings, self.connection, self.health)
            )
            serving = tasks.create_task(self._serve(stop))
            writing = tasks.create_task(self.history_writer.run()) if self.history_writer else None
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self.registry.close()
            if "kubernetes" in self.health.waiting:
                serving.cancel()
            await asyncio.wait({serving})
            stopping.cancel()
            preparing.cancel()
            if self.history_writer is not None and writing is not None:
                writing.cancel()
                await self.history_writer.finish(within=FINISH_WITHIN)

    def problems(self) -> Mapping[str, str]:
        """Return what keeps the process from being ready, by component.

        Beside what it still waits for, this is its own bucket, if that is of no use until a person
        acts. It counts only if elections use it and no other bucket works, so a tenant's bucket
        takes no operator out of its Service.
        """
        return self._problems(self._bucket_troubles())

    def _problems(self, troubles: Mapping[str, str]) -> Mapping[str, str]:
        own = f"bucket {self._settings.bucket}"
        if troubles.get(own) and all(troubles.values()):
            return {**self.health.problems(), own: troubles[own]}
        return self.health.problems()

    def notes(self) -> Mapping[str, str]:
        """Return what is wrong without keeping the process from being ready, by component."""
        troubles = self._bucket_troubles()
        shown = self._problems(troubles)
        notes = {name: wrong for name, wrong in troubles.items() if wrong and name not in shown}
        return (
            notes
            if self.history_writer is None
            else {**notes, "history": self.history_writer.problem}
        )

    def _bucket_troubles(self) -> dict[str, str]:
        """Return of each bucket in use why no election can use it; empty if one can."""
        troubles: dict[str, str] = {}
        for campaigner in self.registry.campaigners.values():
            name = f"bucket {campaigner.resource.bucket}"
            if campaigner.view.barred or troubles.get(name) == "":
                continue
            trouble = campaigner.view.bucket_trouble
            troubles[name] = trouble and troubles.get(name, trouble)
        return troubles

    async def _serve(self, stop: asyncio.Event) -> None:
        site = await _until_found(
            self.health, "kubernetes", lambda: _find_site(self._settings, self._cluster)
        )
        log.info("site.found", site=site.name)
        self._shared = replace(self._shared, site=site)
        listing = asyncio.create_task(self._list_elections(), name="list of elections")
        sweeping = asyncio.create_task(self._take_back_orphans(), name="orphaned labels")
        try:
            with gc_pauses.looked_for_briefly(lambda: self.registry.turnover):
                await lifecycle.watch_elections(
                    self.registry,
                    session=lambda: Session(self._cluster.connection, interrupted=self._look_again),
                    namespaces=self._settings.namespaces,
                    without_finalizer=self._settings.without_finalizer,
                    release_on_exit=self._settings.release_on_exit,
                    stop=stop,
                )
        finally:
            listing.cancel()
            sweeping.cancel()

    async def _list_elections(self) -> None:
        """Tell the registry which elections there are, until all of them are served.

        kopf does not tell when its first list has been carried out. An election that is being
        deleted is not served any more.
        """
        while self.registry.pending():
            try:
                self.registry.expect(
                    [
                        ElectionKey(one["metadata"]["namespace"], one["metadata"]["name"])
                        for namespace in self._settings.namespaces or (None,)
                        async for page, _ in self._cluster.election_pages(namespace)
                        for one in page
                        if "deletionTimestamp" not in one["metadata"]
                    ]
                )
            except ClusterError as error:
                log.debug("elections.not_listed", problem=str(error))
            await asyncio.sleep(LIST_AGAIN * random.uniform(0.5, 1.0))  # noqa: S311

    async def _take_back_orphans(self) -> None:
        """Take away the labels of elections that were deleted while no operator ran.

        With a finalizer there are none.
        """
        for namespace in self._settings.without_finalizer:
            tries = 0
            while True:
                try:
                    found = await take_back(
                        self._cluster,
                        namespace,
                        elections=partial(self._cluster.list_elections, namespace),
                        prefixes=self._settings.label_prefixes,
                    )
                except ClusterError as error:
                    log.warning("orphans.not_taken_back", namespace=namespace, problem=str(error))
                else:
                    for orphan in found:
                        log.info("orphan.taken_back", pod=orphan.pod.name, labels=orphan.labels)
                    if not found:
                        break
                await asyncio.sleep(min(LONGEST_PAUSE, 0.1 * 2 ** min(tries, 8)))
                tries += 1

    async def _look_again(self, path: str, version: str) -> bool:
        """See which elections there are, after a watch of kopf's was interrupted.

        Returns whether kopf has to do so, too; of other kinds it always has.
        """
        elections = ELECTIONS.fullmatch(path)
        if elections is None:
            return True
        namespace, restored = elections["namespace"], False

        async def pages() -> AsyncIterator[list[dict[str, Any]]]:
            nonlocal restored
            async for page, now in self._cluster.election_pages(namespace):
                restored = restored or self._cluster.watches.went_back(version, now)
                yield page

        return await self.registry.look_again(namespace, pages()) or restored

    def _campaigner(self, body: Mapping[str, Any], resource: Resource) -> Campaigner:
        namespace = resource.key.namespace
        bucket = self.connection.bucket(resource.bucket)
        bucket.lookups.if_missing = if_missing(bucket.name, self._settings)
        if bucket.name != self._settings.bucket:
            bucket.lookups.longest_pause = SELDOM  # anybody can name it, and it may never be there
        pods = self._namespaces.get(namespace)
        if pods is None:
            pods = self._namespaces[namespace] = NamespacePods(self._cluster, namespace)
        return Campaigner(
            body,
            resource,
            self._shared,
            bucket=bucket,
            pods=pods,
            changed=partial(self.registry.touch, resource.key),
        )


def if_missing(bucket: str, settings: Settings) -> str:
    """Say what to do about a bucket that does not exist."""
    if bucket != settings.bucket:
        return (
            f"if the operator's default bucket, {settings.bucket}, is meant, delete the election"
            " and create it again without `bucket`, which cannot be changed; otherwise create this"
            " one (--create-bucket creates only the default bucket), which is noticed about"
            f" {SELDOM:g} s later"
        )
    if settings.create_bucket:
        return "create it, or restart the operator, which creates it at its start"
    return "create it, or start the operator with --create-bucket"


async def _operate(settings: Settings, *, version: str) -> None:
    # Each namespace takes a connection; container runtimes give a process 1024 files or so.
    limit = descriptors.raise_limit()
    cluster = await ApiServer.connect(
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        replica=settings.replica,
        watches=descriptors.watches_for(limit, others=len(settings.namespaces)),
    )
    operator = Operator(settings, cluster, version=version)
    frontend = await _frontend(settings, operator)
    stop = asyncio.Event()
    lifecycle.stop_on_signals(stop)
    log.info("operator.started", version=version, replica=str(operator.replica))
    try:
        await operator.run(stop)
    except* IncumbentError as errors:
        raise errors.exceptions[0] from None
    finally:
        log.info("operator.stopped")
        await frontend.aclose()
        await operator.connection.aclose()
        await cluster.aclose()


async def _frontend(settings: Settings, operator: Operator) -> Frontend:
    """Serve HTTP.

    Raises:
        ConfigurationError: this process cannot listen at an address.
    """
    addresses = {
        "http": settings.http_address,
        "metrics": settings.metrics_address,
        "probes": settings.probes_address,
    }
    sockets = {
        part: await bind(address, flag=f"--{part}-address")
        for part, address in addresses.items()
        if address is not None
    }
    frontend = Frontend(
        sockets,
        Feed(operator, operator.metrics, operator.registry, operator.notes),
        hosts=settings.http_hosts,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )
    frontend.start()
    return frontend


async def _prepare_bucket(settings: Settings, connection: NatsConnection, health: Health) -> None:
    """Wait for NATS, and create the bucket where that is asked for.

    Until that was tried, nobody is told that the bucket is missing.
    """
    tried = connection.bucket(settings.bucket).hold() if settings.create_bucket else lambda: None
    while not connection.connected:
        health.wait_for("nats", connection.problem)
        await asyncio.sleep(0.1)
    health.found("nats")

    async def create() -> None:
        try:
            await connection.create_bucket(
                settings.bucket,
                ttl=settings.bucket_ttl,
                replicas=settings.bucket_replicas,
                max_bytes=settings.bucket_max_bytes,
            )
        finally:
            tried()

    if settings.create_bucket:
        await _until_found(health, "bucket", create)


async def _find_site(settings: Settings, cluster: ApiServer) -> Site:
    """Ask the cluster who it is, and whether it knows the kind.

    An operator that is given a name and namespaces may have rights there and nowhere else: then its
    site has no UID, and each election's own stands for it. Which namespaces it serves does not
    matter.

    Raises:
        ConfigurationError: the name has to be given, for it may not be looked up.
    """
    restricted = bool(settings.site and settings.namespaces)
    try:
        uid = "" if restricted else await cluster.cluster_uid()
    except Forbidden as error:
        if settings.site is None:
            msg = (
                "the service account may not read the namespace kube-system, from which the name"
                " of the site is taken: give it with --site"
            )
            raise ConfigurationError(msg) from error
        uid = ""
    namespace = settings.namespaces[0] if settings.namespaces else "default"
    await cluster.get_election(namespace, "incumbent")
    given = settings.site is not None
    return Site(settings.site or uid[:SITE_NAME_LENGTH], uid, given=given)


async def _until_found(health: Health, what: str, find: Callable[[], Awaitable[T]]) -> T:
    """Try until it works, with growing, jittered pauses, and say on `/readyz` why it does not."""
    tries = 0
    while True:
        try:
            found = await find()
        except (ClusterError, BucketError) as error:
            health.wait_for(what, str(error))
        else:
            health.found(what)
            return found
        pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(tries, 8))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        tries += 1
