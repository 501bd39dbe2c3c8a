"""What README.md and the pages say about measurements, from the files in `bench/results`."""  # noqa: INP001  # beside `generate.py`

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.report import RESULTS, at, table  # noqa: E402
from bench.scene import PER_NAMESPACE  # noqa: E402

from bench import bucket, cost, failover, hostile, report, scale, speed, storm  # noqa: E402  # after that
from e2e import report as nodes  # noqa: E402

del sys.path[:2]

Found = Mapping[str, Any]


def readme() -> str:
    """Return the few figures that README.md shows."""
    costs = _found(cost).values()
    rows = _costs(max(costs, key=lambda found: found["elections"]))
    rows += _kills(_one("failover"), {"the longest": 1.0})
    short = [(what, leases, ours.partition(" (")[0]) for what, leases, ours, _ in rows]
    return table(("", "Leases with client-go", "Incumbent"), short)


def measurements() -> str:
    """Return the figures of the page about measurements."""
    parts = [
        "Beside client-go's `LeaderElector`, each in one run on one machine:",
        _beside(_found(cost), _one("failover")),
        "How fast another pod leads (p50, p90, p99 and maximum, and of how many):",
        _first_table(speed.section(_found(speed)).text),
        "One operator process with many elections:",
        _first_table(scale.section(_found(scale)).text),
        "A thousand elections when much happens at once:",
        _storms(_one("storm")),
    ]
    if found := _one("hostile"):
        page = "security.md#measured-beside-a-hostile-tenant"
        who = f"{found['clients']} hostile clients and a hostile tenant ([what they do]({page}))"
        parts += [f"{found['elections']:,} elections beside {who}:", hostile.verdict(found)]
    if soak := _one("soak"):
        parts.append(_soak(soak))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def hostility() -> str:
    """Return what hostile clients and a hostile tenant do to the elections of others."""
    found = report.results(["hostile", *hostile.KEPT], RESULTS)
    if "hostile" not in found:
        return "There is no result yet: `make bench-hostile` on a quiet machine writes it.\n"
    earlier = (
        "The last column is an earlier state, with fewer elections, because with 5,000 it did not"
        " come to rest on that machine."
    )
    return f"{hostile.verdict(found['hostile'])}\n\n{hostile.figures(found)}\n{earlier}\n"


def stream_leaders() -> str:
    """Return what the loss of a stream's leader does to elections, by TTL."""
    found = {"bucket-leaders": _one("bucket-leaders")}
    return _first_table(bucket.section(found).text) + "\n"


def writes() -> str:
    """Return how fast a bucket takes conditional writes."""
    return _first_table(bucket.section({"bucket-writes": _one("bucket-writes")}).text) + "\n"


def real_nodes() -> str:
    """Return what clients saw of faults of real nodes."""
    found = _one("e2e")
    about = json.loads((RESULTS / "e2e.json").read_text())["environment"]
    parts = [
        f"On {about['machine']}, with {about['versions']}, commit {about['commit']}.",
        "## One cluster",
        nodes.tables(found["one"]),
        "## Two clusters",
        nodes.tables(found["two"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def routes() -> str:
    """Return how long it takes until clients reach the next leader, by the way to route."""
    return nodes.routes(_one("e2e")["one"]["routes"]) + "\n"


SPARE = 1.25
"""A limit is so many times what was measured: pods and statuses may be larger than those."""


def memory() -> str:
    """Return how much memory the operator takes, and what limit that asks for."""
    head = ("elections", "after a first start", "after a restart", "limit")
    rows = [
        (f"{elections:,}", f"{first:.0f} MB", f"{again:.0f} MB", f"{limit(elections)}Mi")
        for elections, first, again in _resident()
    ]
    return table(head, rows) + "\n"


def limit(elections: int) -> int:
    """Return the limit in MiB for so many elections: between two measurements, on their line."""
    points = [(number, max(both)) for number, *both in _resident()]
    elections = max(elections, points[0][0])
    (low, less), (high, more) = next(
        (before, after)
        for before, after in itertools.pairwise(points)
        if elections <= after[0] or after is points[-1]
    )
    resident = less + (more - less) * (elections - low) / (high - low)
    return 64 * math.ceil(resident * SPARE / 64)


def _resident() -> list[tuple[int, float, float]]:
    """Return numbers of elections, and the MB that the operator took after start and restart."""
    found = [
        (
            one["elections"],
            max(one["start"]["resident"], one["rest"]["usage"]["operator"]["resident"]),
            one["restart"]["resident"],
        )
        for one in _found(scale).values()
        if one["per_namespace"] == PER_NAMESPACE
    ]
    return sorted(found)


def _found(module: Any) -> dict[str, Any]:
    return report.results([one.name for one in module.measurements(short=False)], RESULTS)


def _one(name: str) -> Any:
    return report.results([name], RESULTS).get(name)


def _first_table(text: str) -> str:
    """Return the first table of a text."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rest = lines[first:]
    last = next((number for number, line in enumerate(rest) if not line.startswith("|")), None)
    return "\n".join(rest[:last])


def _beside(costs: Mapping[str, Found], kills: Found) -> str:
    shares = {"half of all": 0.5, "nine of ten": 0.9, "the longest": 1.0}
    rows = [row for found in costs.values() for row in _costs(found)] + _kills(kills, shares)
    return table(("", "Leases", "Incumbent", "the same, with Choria's manners"), rows)


def _costs(found: Found) -> list[tuple[str, str, str, str]]:
    """Return what elections at rest cost."""
    name = f"{found['elections']:,} elections at rest"
    above = {client: sum(cost.above(found, client).values()) for client in cost.CLIENTS}
    writes = {client: found[client]["writes"] for client in cost.CLIENTS}
    return [
        (
            f"{name}: CPU of all processes above idle, of a core",
            f"{above['Leases']:.0f} %",
            f"{above['Incumbent']:.1f} % ({cost.ratio(found)})",
            "",
        ),
        (
            f"{name}: writes at the API server, beyond those of others",
            f"{writes['Leases'] - found['Idle']['writes']:.0f}/s",
            f"{found['Incumbent']['audited']} in {cost.LOOK} s",
            "",
        ),
    ]


def _kills(kills: Found, shares: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Return how long it takes until the next member leads, for shares of all tries."""
    outages = kills["outages"]
    return [
        (
            f"a member is killed, TTL {kills['ttl']} s, until the next one leads: {name}",
            f"{at(outages[failover.LEASE], share):.1f} s",
            f"{at(outages['Prompt'], share):.1f} s",
            f"{at(outages['Choria'], share):.1f} s",
        )
        for name, share in shares.items()
    ]


def _storms(found: Found) -> str:
    rows = [
        (
            storm.STORMS[name],
            one["lost"],
            storm.after_it(one, "led"),
            f"{at(one['gaps'], 0.5):.1f} / {one['gaps'][-1]:.1f} s" if one["gaps"] else "-",
            f"{one['memory']['after'] / one['memory']['before']:.2f}",
        )
        for name, one in found["storms"].items()
    ]
    head = ("", "leases lost", "all led after it", "without a label, p50 / max", "memory after it")
    return table(head, rows)


def _soak(found: Found) -> str:
    samples, churn = found["samples"], found["churn"]
    first, last = samples[0], samples[-1]
    memory = [one["resident"] for one in samples]
    held = ", ".join(
        f"{kind} {first[kind]:g} and {last[kind]:g}"
        for kind in ("tasks", "handles", "connections", "consumers")
    )
    return (
        f"In {last['at'] / 3600:.1f} h of light churn ({churn['pods']} pods deleted,"
        f" {churn['leaders']} of them leaders, and {churn['elections']} of"
        f" {found['elections']:,} elections deleted and created) {last['lost']} leases were lost"
        f" and {last['twice']} elections had two labels; memory was between {min(memory):.0f} and"
        f" {max(memory):.0f} MB, and {memory[-1]:.0f} MB at the end. At the first sample and at the"
        f" last: {held}."
    )
