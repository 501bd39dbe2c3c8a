"""Two sites contest elections while things break at random; the promises are checked.

Prints how it goes every 10 s, and in the end what happened and what was found. The exit code is 1
if a promise was broken; then the logs stay.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos import report
from chaos.checker import Finding, Verdict, check
from chaos.history import Entry
from chaos.plan import Plan, make_plan
from chaos.world import Scale, World
from controlplane.kube import ApiError
from controlplane.processes import ControlPlaneError

FULL = Scale(elections=20, servers=3, ttl=15)
SHORT = Scale(elections=8, servers=1, ttl=6)
DURATION = 900.0
SHORT_DURATION = 90.0
LEAST = 5
"""A run lasts this many TTLs at least, or nothing would happen."""
PROGRESS_EVERY = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    options = _options(arguments)
    scale = SHORT if options.short else FULL
    plan = make_plan(
        options.seed, duration=options.duration, ttl=scale.ttl, elections=scale.elections
    )
    say(
        f"seed {options.seed}: {options.duration:.0f} s, {len(plan.faults)} faults planned; "
        f"{scale.elections} elections, TTL {scale.ttl:g} s, NATS servers: {scale.servers}"
    )
    folder = Path(tempfile.mkdtemp(prefix="incumbent-chaos-"))
    failed = True
    try:
        failed = asyncio.run(_run(folder, scale, plan, timelines=options.timelines))
    except* (ControlPlaneError, ApiError) as errors:
        say(f"error: {_first(errors)}")
    except* KeyboardInterrupt:
        say("interrupted")
    finally:
        if failed or options.timelines:
            say(f"The logs are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(folder: Path, scale: Scale, plan: Plan, *, timelines: bool) -> bool:
    """Carry out a plan, report, and return whether a promise was broken."""
    began = time.monotonic()
    async with World(folder, scale) as world:
        history = world.history
        async with world.recorded():
            await world.start_operators()
            await world.start_elections()
            history.began = time.monotonic()
            say(f"everything runs after {history.began - began:.0f} s")
            progress = asyncio.create_task(_tell(world))
            await world.suffer(plan.faults, history.began)
            await asyncio.sleep(history.began + plan.end - time.monotonic())
            await world.wait_led(3 * scale.ttl + 20)
            progress.cancel()
        history.ended = time.monotonic()
        writes, complaints = world.label_writes(), world.complaints()
    verdict = check(history)
    verdict.violations += [Finding("log", history.ended, "", words) for words in complaints]
    lasted = history.ended - history.began
    say(f"\n{lasted:.0f} s, and {history.began - began:.0f} s to start")
    say("\n".join(report.counts(history, verdict, world.done, writes)))
    _judge(world, verdict, timelines=timelines)
    if verdict.violations or timelines:
        history.save(folder / "history.jsonl")
    return bool(verdict.violations)


def _judge(world: World, verdict: Verdict, *, timelines: bool) -> None:
    history = world.history
    say(f"\n{len(verdict.apart)} overlaps or losses where nothing is promised")
    for finding in verdict.apart:
        say("  " + report.describe(history, finding))
        if timelines:
            say("\n".join(report.timeline(history, finding)))
    say(f"\n{len(verdict.violations)} violations")
    for line in report.findings(history, verdict.violations):
        say(line)


async def _tell(world: World) -> None:
    """Say now and then how it goes."""
    history = world.history
    while True:
        await asyncio.sleep(PROGRESS_EVERY)
        terms = sum(m.entry is Entry.RECORD and m.term == m.revision for m in history.messages)
        led = sum(len(world.recorder.leaders(election)) == 1 for election in history.elections)
        now = "; ".join(world.under_way) or "quiet"
        say(
            f"{time.monotonic() - history.began:5.0f} s: {len(world.done)} faults, {terms} terms, "
            f"{led} of {len(history.elections)} led; {now}"
        )


def say(words: str) -> None:
    """Print at once, for somebody who waits."""
    print(words, flush=True)  # noqa: T201


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument(
        "--duration", type=float, help=f"seconds of faults ({DURATION:.0f}, short: 90)"
    )
    parser.add_argument("--seed", type=int, help="decides which faults come when (random)")
    parser.add_argument(
        "--short", action="store_true", help="one NATS server, 8 elections, TTL 6 s, 90 s"
    )
    parser.add_argument(
        "--timelines", action="store_true", help="keep the logs, and tell what was found apart"
    )
    options = parser.parse_args(arguments)
    if options.duration is None:
        options.duration = SHORT_DURATION if options.short else DURATION
    least = LEAST * (SHORT if options.short else FULL).ttl
    if not least <= options.duration < float("inf"):
        parser.error(f"--duration must be at least {least:.0f} seconds, it is {options.duration:g}")
    if options.seed is None:
        options.seed = random.randrange(10**6)
    return options


if __name__ == "__main__":
    sys.exit(main())
