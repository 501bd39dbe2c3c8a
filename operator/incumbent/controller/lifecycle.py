"""The life cycle of `LeaderElection` resources: the only module that imports `kopf`.

kopf watches the resources, keeps one daemon for each, and holds the finalizer until the daemon has
ended, but in namespaces that go without one. Everything else it could do (annotations, events,
peering) is switched off: pods, labels, status and events go through `incumbent.kubernetes.api`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import kopf
import structlog

from incumbent.controller.registry import Registry
from incumbent.kubernetes.resource import FINALIZER, GROUP, PLURAL, VERSION, lean
from incumbent.kubernetes.session import Session
from incumbent.reconciler.teardown import Ending

log = structlog.get_logger(__name__)

BACKOFFS = (0.5, 1.0, 2.0, 5.0)
"""Seconds between kopf's attempts at a request that fails; the last one again and again."""
PAUSE = 5.0
"""Seconds before kopf is started again, if it has failed."""
LEAVE_WITHIN = 15.0
"""Seconds that all elections have to end in order when the process ends. Each has its own limits;
this is for many, of which 2,000 take 3 s (measured). Half of what the chart gives to the pod."""
FOREVER = 1e9
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set this event on SIGTERM and SIGINT."""
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def watch_elections(
    registry: Registry,
    *,
    session: Callable[[], Session],
    namespaces: tuple[str, ...],
    without_finalizer: Collection[str],
    release_on_exit: bool,
    stop: asyncio.Event,
) -> None:
    """Serve the elections of these namespaces (of all, if none are named) until `stop`.

    Those of the namespaces `without_finalizer` are gone as soon as somebody deletes them.
    """
    while not stop.is_set():
        try:
            await _watch(
                registry,
                session=session,
                namespaces=namespaces,
                without_finalizer=without_finalizer,
                release_on_exit=release_on_exit,
                stop=stop,
            )
        except Exception:
            # All elections were left in order, and nobody steps down for this.
            log.exception("elections.watch_broke")
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))  # noqa: S311


async def _watch(
    registry: Registry,
    *,
    session: Callable[[], Session],
    namespaces: tuple[str, ...],
    without_finalizer: Collection[str],
    release_on_exit: bool,
    stop: asyncio.Event,
) -> None:
    async def wait_long() -> None:
        await stop.wait()
        await asyncio.sleep(LEAVE_WITHIN)

    too_late = asyncio.create_task(wait_long(), name="end of all elections")
    try:
        tasks = await kopf.spawn_tasks(
            registry=_handlers(
                registry,
                session=session,
                without_finalizer=without_finalizer,
                release_on_exit=release_on_exit,
                too_late=too_late,
            ),
            settings=_settings(scan=not namespaces),
            # Asked for by nobody. By default kopf makes it of the user's name, and in a pod the
            # user has none.
            identity=cast("Any", "incumbent"),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )
        # kopf has put its own signal handlers there, which fail at a second signal.
        stop_on_signals(stop)
        # At its end kopf would wait 5 s for all other tasks of the loop, and then cancel them.
        await kopf.run_tasks(tasks, ignored=_Everything())
    finally:
        too_late.cancel()


def _handlers(
    registry: Registry,
    *,
    session: Callable[[], Session],
    without_finalizer: Collection[str],
    release_on_exit: bool,
    too_late: asyncio.Task[None],
) -> kopf.OperatorRegistry:
    """Return what kopf is to do with each resource."""
    handlers = kopf.OperatorRegistry()
    _hold_only_some(handlers, without_finalizer)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # The session knows where the API server is.
        return kopf.AiohttpSession(server="", aiohttp_session=cast("Any", session()))

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def look(event: kopf.RawEvent, body: Mapping[str, Any], **_: Any) -> None:
        lean(cast("dict[str, Any]", event["object"]))  # kopf keeps it for as long as it exists
        if event["type"] == "DELETED":
            registry.forget_body(body)
        else:
            registry.look(_plain(body))

    @kopf.daemon(GROUP, VERSION, PLURAL, registry=handlers, backoff=PAUSE)
    async def serve(body: Mapping[str, Any], stopped: kopf.DaemonStopped, **_: Any) -> None:
        def ending() -> Ending | None:
            reason = stopped.reason
            if reason is None:
                return None
            if kopf.DaemonStoppingReason.RESOURCE_DELETED in reason:
                return Ending.RETIRE
            return Ending.RESIGN if release_on_exit else Ending.LEAVE

        serving = asyncio.create_task(
            registry.serve(body, stopped.wait(), ending=ending), name="election"
        )
        try:
            await asyncio.wait({serving, too_late}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()

    return handlers


def _hold_only_some(handlers: kopf.OperatorRegistry, without_finalizer: Collection[str]) -> None:
    """Keep kopf from adding the finalizer in some namespaces, and have it removed there.

    kopf has no option for this: it wants a finalizer for every resource that has a daemon.
    """
    spawning = handlers._spawning  # noqa: SLF001
    required = spawning.requires_finalizer

    def requires_finalizer(cause: Any, *arguments: Any, **more: Any) -> bool:
        if cause.body["metadata"]["namespace"] in without_finalizer:
            return False
        return required(cause, *arguments, **more)

    spawning.requires_finalizer = requires_finalizer  # type: ignore[method-assign]


class _Everything(Collection[Any]):
    """A collection that contains everything."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Endless(Iterable[float]):
    """Backoffs that never end: kopf's watches, and so the operator, fail with their last one."""

    def __iter__(self) -> Iterator[float]:
        yield from BACKOFFS
        while True:
            yield BACKOFFS[-1]


def _settings(*, scan: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 15
    settings.networking.error_backoffs = _Endless()
    settings.watching.server_timeout = 300
    settings.scanning.disabled = not scan
    # Otherwise kopf kills the process 10 minutes after it has failed, also if it runs again.
    settings.process.ultimate_exiting_timeout = None
    # For a daemon that needs longer than this to end, kopf annotates the resource again and again.
    settings.background.instant_exit_timeout = FOREVER
    return settings


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that does not change under our hands, as kopf's live view does."""
    return {name: body[name] for name in body}
