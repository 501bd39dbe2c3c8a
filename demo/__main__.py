"""Show what Incumbent does, and check each step: ``python -m demo [--context NAME]``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controlplane.processes import ControlPlaneError
from demo.stage import LABEL, ROOT, TTL, Change, DemoError, Stage, stage

_EXAMPLE = ROOT / "examples" / "quickstart.yaml"
_PODS = 3


def main() -> int:
    """Run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--context", help="a context of your kubeconfig, instead of our own API server"
    )
    context = parser.parse_args().context
    with tempfile.TemporaryDirectory(prefix="incumbent-demo-") as folder:
        try:
            asyncio.run(_demo(context, Path(folder)))
        except (DemoError, ControlPlaneError) as error:
            sys.stderr.write(f"\nerror: {error}\n")
            log = Path(folder) / "operator.log"
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-15:]
                sys.stderr.write("The end of the operator's log:\n  " + "\n  ".join(lines) + "\n")
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


async def _demo(context: str | None, folder: Path) -> None:
    started = time.monotonic()
    async with stage(context, folder, _say) as play:
        _say(f"applying crds/ and starting `incumbent operator` (bucket TTL {TTL} s)")
        await play.kubectl("apply", f"--filename={ROOT / 'crds'}")
        await play.kubectl(
            "wait", "crd/leaderelections.incumbent.dev", "--for=condition=Established"
        )
        play.operator.start()
        watching = asyncio.create_task(play.follow_pods())
        try:
            for step in (
                _elect,
                _delete_leader,
                _leader_not_ready,
                _kill_operator,
                _scale_to_zero,
                _delete_election,
            ):
                await step(play)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    _say(f"everything held; {time.monotonic() - started:.0f} s")


async def _elect(play: Stage) -> None:
    _title("kubectl apply -f examples/quickstart.yaml: three pods, one election, one Service")
    await play.kubectl("apply", f"--filename={_EXAMPLE}")
    await play.until(60, "three pods should become ready", _count(play, "ready", _PODS))
    leader = await _led(play, "one pod should carry the leader label")
    await play.until(
        10, "the others should carry `candidate`", _count(play, "candidate", _PODS - 1)
    )
    await _show(play)
    await _served(play, leader)
    holder = await play.record()
    if holder is None or not holder.endswith(f"/{play.namespace}/{_name(leader)}"):
        msg = f"the key should hold the leader's identity, it holds {holder!r}"
        raise DemoError(msg)
    _say(f"$ nats kv get LEADER_ELECTION {play.namespace}.billing --raw\n    {holder}")


async def _delete_leader(play: Stage) -> None:
    _title("the leader pod is deleted")
    old = await _led(play, "a pod should lead")
    seen = len(play.changes)
    await play.kubectl("delete", "pod", _name(old), "--wait=false")
    new = await _succeeded(play, old)
    await _timed(
        play,
        seen,
        lambda change: change.name == _name(old) and change.deleted,
        new,
        "from the deletion event to the new label",
    )
    await _served(play, new)


async def _leader_not_ready(play: Stage) -> None:
    _title("the leader turns NotReady")
    await play.until(30, "three pods should be ready again", _count(play, "ready", _PODS))
    old = await _led(play, "a pod should lead")
    seen = len(play.changes)
    await play.set_ready(old, ready=False)
    new = await _succeeded(play, old)
    await _timed(
        play,
        seen,
        lambda change: change.name == _name(old) and not change.ready,
        new,
        "from the NotReady event to the new label",
    )
    await _served(play, new)
    await play.set_ready(old, ready=True)
    await play.until(30, "three pods should be ready again", _count(play, "ready", _PODS))


async def _kill_operator(play: Stage) -> None:
    _title("the operator is killed with SIGKILL and started again within the TTL")
    leader = await _led(play, "a pod should lead")
    token = (await play.election() or {})["status"]["token"]
    seen = len(play.changes)
    play.operator.kill()
    await asyncio.sleep(1)
    play.operator.start()
    await asyncio.sleep(1.25 * TTL)
    after = await _led(play, "a pod should lead")
    status = (await play.election() or {})["status"]
    if _name(after) != _name(leader) or status["token"] != token:
        msg = f"the leader should not change: {_name(leader)}, token {token}, became {_name(after)}"
        raise DemoError(msg)
    if flaps := [c for c in play.changes[seen:] if c.name == _name(leader) and c.label != "leader"]:
        msg = f"the leader label should stay where it is, it changed {len(flaps)} times"
        raise DemoError(msg)
    _say(f"{_name(leader)} still leads with token {token}: the same term, and no label was touched")


async def _scale_to_zero(play: Stage) -> None:
    _title("scaled to zero, and up again")
    started = time.monotonic()
    await play.kubectl("scale", "deployment/billing", "--replicas=0")

    async def released() -> bool:
        return await play.record() is None

    await play.until(TTL / 3, "the key should be released at once", released)
    _say(f"the key was released {time.monotonic() - started:.2f} s after `kubectl scale`")
    await play.kubectl("scale", "deployment/billing", f"--replicas={_PODS}")
    leader = await _led(play, "a pod should lead again", seconds=60)
    await play.until(60, "three pods should be ready again", _count(play, "ready", _PODS))
    await _served(play, leader)
    await _show(play)


async def _delete_election(play: Stage) -> None:
    _title("kubectl delete leaderelection billing")
    await play.kubectl("delete", "leaderelection", "billing", "--timeout=10s")
    left = [
        f"{kind} {key} on pod {_name(pod)}"
        for pod in await play.pods()
        for kind in ("labels", "annotations")
        for key in pod["metadata"].get(kind, {})
        if "incumbent.dev" in key
    ]
    if left or await play.record() is not None:
        msg = f"nothing should be left, there is {', '.join(left) or 'the record'}"
        raise DemoError(msg)
    _say("no label, no annotation and no record is left")


# What the steps have in common


async def _led(play: Stage, sentence: str, *, seconds: float = 15) -> Any:
    return await play.until(seconds, sentence, play.leader)


async def _succeeded(play: Stage, old: Any) -> Any:
    async def other() -> Any | None:
        leader = await play.leader()
        return leader if leader and leader["metadata"]["uid"] != old["metadata"]["uid"] else None

    return await play.until(10, "another pod should lead", other)


async def _served(play: Stage, leader: Any) -> None:
    """Check that the Service's EndpointSlice holds the leader's address and nothing else."""

    async def routed() -> bool:
        return await play.addresses() == [leader["status"]["podIP"]]

    await play.until(10, "the Service should have the leader's address alone", routed)
    _say(f"the EndpointSlice of billing-leader holds {leader['status']['podIP']} and nothing else")


def _count(play: Stage, what: str, number: int) -> Callable[[], Awaitable[bool]]:
    async def counted() -> bool:
        pods = await play.pods()
        if what == "ready":
            return sum(_ready(pod) for pod in pods) == number
        labels = [pod["metadata"].get("labels", {}).get(LABEL) for pod in pods]
        return labels.count(what) == number

    return counted


async def _timed(
    play: Stage, seen: int, begins: Callable[[Change], bool], new: Any, what: str
) -> None:
    """Say how long it took, on the clock of our watch, which may be a moment behind a read."""

    async def both() -> tuple[float, float] | None:
        changes = play.changes[seen:]
        began = [change.at for change in changes if begins(change)]
        led = [c.at for c in changes if c.name == _name(new) and c.label == "leader"]
        return (began[0], led[0]) if began and led else None

    began, led = await play.until(10, "the watch should show the change and the new leader", both)
    _say(f"{_name(new)} leads: {1000 * (led - began):.0f} ms {what}")


async def _show(play: Stage) -> None:
    for arguments in (
        ("get", "leaderelections"),
        ("get", "pods", f"--label-columns={LABEL}"),
    ):
        printed = await play.kubectl(*arguments)
        _say(f"$ kubectl {' '.join(arguments)}\n    " + printed.rstrip().replace("\n", "\n    "))


def _name(pod: Any) -> str:
    return str(pod["metadata"]["name"])


def _ready(pod: Any) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _title(text: str) -> None:
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
