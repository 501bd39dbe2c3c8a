"""The life cycle of `LeaderElection` resources: the only module that imports `kopf`.

kopf watches the resources, keeps one daemon for each, and holds the finalizer until the daemon has
ended. Everything else it could do (annotations, events, peering) is switched off: pods, labels,
status and events go through `incumbent.cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from incumbent.campaigner import DELETE_WITHIN
from incumbent.cluster import Access
from incumbent.resource import FINALIZER, GROUP, PLURAL, VERSION
from incumbent.roster import Roster


async def watch_elections(
    roster: Roster,
    *,
    log_in: Callable[[], Awaitable[Access]],
    namespaces: tuple[str, ...],
    release_on_exit: bool,
    ready: asyncio.Event,
) -> None:
    """Serve the elections of these namespaces (of all, if none are named) until SIGTERM or SIGINT.

    Sets `ready` when the resources are watched. Waits for as long as the kind is not installed,
    if it may look for it: in all namespaces, but not with `namespaces`.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        access = await log_in()
        return kopf.ConnectionInfo(
            server=access.server,
            ca_path=access.ca_path,
            insecure=access.insecure,
            scheme=access.scheme,
            token=access.token,
            certificate_path=access.certificate_path,
            private_key_path=access.private_key_path,
            proxy_url=access.proxy_url,
            default_namespace=access.default_namespace,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def look(type: str | None, body: Mapping[str, Any], **_: Any) -> None:  # noqa: A002
        if type == "DELETED":
            roster.forget_body(body)
        else:
            roster.look(_plain(body))

    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry, backoff=5.0, cancellation_polling=1.0)
    async def serve(body: Mapping[str, Any], stopped: kopf.DaemonStopped, **_: Any) -> None:
        def ending() -> str:
            reason = stopped.reason
            if reason is None:
                return ""
            if kopf.DaemonStoppingReason.RESOURCE_DELETED in reason:
                return "retire"
            return "resign" if release_on_exit else "leave"

        await roster.serve(_plain(body), stopped.wait(), ending=ending)

    await kopf.operator(
        registry=registry,
        settings=_settings(scan=not namespaces),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        ready_flag=ready,
    )


def _settings(*, scan: bool) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 15
    settings.networking.error_backoffs = (0.5, 1, 2, 3)
    settings.watching.server_timeout = 300
    settings.scanning.disabled = not scan
    # A daemon that needs longer than this to end makes kopf touch the resource again and again.
    settings.background.instant_exit_timeout = DELETE_WITHIN + 3.0
    return settings


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that does not change under our hands, as kopf's live view does."""
    return {name: body[name] for name in body}
