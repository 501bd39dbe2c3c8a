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
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from chaos import report
from chaos.checker import Finding, Verdict, check
from chaos.history import Entry
from chaos.operators import previous_version
from chaos.plan import Kind, Plan, make_plan
from chaos.rehearsal import SCENARIOS, rehearse, servers
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
    folder = Path(tempfile.mkdtemp(prefix="incumbent-chaos-"))
    if options.planted is not None:
        work = _rehearse(folder, options.planted) if options.planted else _rehearse_all(folder)
        return _carry_out(folder, work, keep=options.timelines)
    previous, words = previous_version(folder / "previous")
    if options.routing:
        previous, words = None, "it knows no routing"
    plan = make_plan(
        options.seed,
        duration=options.duration,
        ttl=scale.ttl,
        elections=scale.elections,
        without=() if previous else (Kind.PREVIOUS,),
    )
    say(
        f"seed {options.seed}: {options.duration:.0f} s, {len(plan.faults)} faults planned; "
        f"{scale.elections} elections, TTL {scale.ttl:g} s, NATS servers: {scale.servers}"
    )
    say(f"Previous version of the operator: {words if previous else f'left out, for {words}.'}")
    world = World(folder, scale, previous, routing=options.routing)
    work = _run(world, folder, plan, timelines=options.timelines)
    return _carry_out(folder, work, keep=options.timelines)


def _carry_out(folder: Path, work: Coroutine[Any, Any, bool], *, keep: bool) -> int:
    """Do something, and keep its folder if it failed, or for whoever wants to see it."""
    failed = True
    try:
        failed = asyncio.run(work)
    except* (ControlPlaneError, ApiError, TimeoutError) as errors:
        say(f"error: {_first(errors)}")
    except* KeyboardInterrupt:
        say("interrupted")
    finally:
        if failed or keep:
            say(f"The logs are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(world: World, folder: Path, plan: Plan, *, timelines: bool) -> bool:
    """Carry out a plan, report, and return whether a promise was broken."""
    began, history = time.monotonic(), world.history
    async with world:
        async with world.recorded():
            await world.start_operators()
            await world.start_elections()
            history.began = time.monotonic()
            say(f"everything runs after {history.began - began:.0f} s")
            progress = asyncio.create_task(_tell(world))
            await world.suffer(plan.faults, history.began)
            await asyncio.sleep(history.began + plan.end - time.monotonic())
            await world.recorder.wait_led(3 * history.ttl + 20)
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


async def _rehearse(folder: Path, fault: str) -> bool:
    """Play the scenario of one planted fault, report, and return whether it was caught."""
    (scenario,) = (scenario for scenario in SCENARIOS if fault in scenario.faults)
    async with servers(folder) as running:
        rehearsal = await rehearse(running, scenario, fault)
    history, violations = rehearsal.history, rehearsal.verdict.violations
    say(f"{scenario.faults[fault]}: {len(violations)} violations")
    for line in report.findings(history, violations):
        say(line)
    history.save(folder / "history.jsonl")
    return bool(violations)


async def _rehearse_all(folder: Path) -> bool:
    """Play all scenarios, with the fault and without; return whether one went wrong."""
    began, failed = time.monotonic(), False
    say(f"{'planted fault':45}{'without':20}caught by")
    async with servers(folder) as running:
        for scenario in SCENARIOS:
            sound, *planted = await asyncio.gather(
                rehearse(running, scenario),
                *(rehearse(running, scenario, fault) for fault in scenario.faults),
            )
            for words, rehearsal in zip(scenario.faults.values(), planted, strict=True):
                say(report.rehearsed(words, sound, rehearsal))
                failed |= not rehearsal.caught
            if not sound.sound:
                failed = True
                for line in report.findings(sound.history, sound.verdict.violations):
                    say(line)
    say(f"all within {time.monotonic() - began:.0f} s")
    return failed


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
        "--routing", action="store_true", help="each election leads a Service by EndpointSlices"
    )
    names = [name for scenario in SCENARIOS for name in scenario.faults]
    parser.add_argument(
        "--planted",
        nargs="?",
        const="",
        choices=["", *names],
        metavar="FAULT",
        help="instead, have operators with a fault on purpose, which the checker has to catch: "
        f"each of {', '.join(names)}, with the code 0 if all were caught, or one of them, with "
        "the code 1 if it was",
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
