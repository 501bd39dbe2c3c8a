"""kopf, as the operator starts it."""

from __future__ import annotations

import asyncio
import getpass
import logging

import kopf

from incumbent.controller.lifecycle import watch_elections


async def test_user_of_the_process_needs_no_name(monkeypatch, caplog):
    """As in a pod, where a number is all that there is."""
    stop = asyncio.Event()
    started = []
    real = kopf.spawn_tasks

    def nameless():
        message = "getpwuid(): uid not found: 65532"
        raise KeyError(message)

    async def spawn_tasks(**how):
        stop.set()
        tasks = await real(**how)
        started.append(tasks)
        return tasks

    class NoSession:
        closed = False

        def __init__(self):
            self.headers = {}

        async def request(self, **_):
            await asyncio.Event().wait()

        async def close(self):
            self.closed = True

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr(kopf, "spawn_tasks", spawn_tasks)
    caplog.set_level(logging.CRITICAL, logger="kopf")
    await watch_elections(
        None,
        session=NoSession,
        namespaces=("shop",),
        without_finalizer=(),
        release_on_exit=False,
        stop=stop,
    )
    assert started
    left = asyncio.all_tasks() - {asyncio.current_task()}  # those with which kopf looks around
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
