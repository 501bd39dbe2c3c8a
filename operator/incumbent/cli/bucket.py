"""`incumbent list`, `info`, `evict` and `watch`: look at a bucket, and take a key away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from incumbent import terminal
from incumbent.campaign import wire
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.campaign.records import Entry, Marker, Peer, Record
from incumbent.campaign.timing import LONGEST_WRITE
from incumbent.cli.flags import Failure
from incumbent.cli.session import KEY_ARGUMENT, Session, command
from incumbent.display import cell, shown
from incumbent.errors import BucketError, BucketUnreachable
from incumbent.nats.connection import NatsConnection
from incumbent.status.conditions import warnings_about

LOOK_WITHIN = 5.0
"""Longest wait in seconds until all keys are read."""
MOST_LAG = 100
"""Operations by which a replica may lag behind, as in Choria."""
EVICT_TRIES = 5


@click.command(name="list", short_help="List who holds which key.")
@command
async def list_keys(session: Session) -> None:
    """List every key of the bucket that somebody holds.

    \b
    Examples:
      incumbent list
      incumbent list --bucket CHORIA_LEADER_ELECTION -o json
    """  # noqa: D301
    async with session.connected() as nats:
        found = await _entries(nats, session.bucket)
    held = {key: s for key, s in sorted(found.items()) if isinstance(s.entry, Record)}
    rows = [_row(key, sighting) for key, sighting in held.items()]
    lines = [
        (row["key"], shown(row["holder"]), str(row["token"] or ""), f"{row['age']:.1f} s")
        for row in rows
    ]
    session.show(rows, *_table(("KEY", "HOLDER", "TOKEN", "RENEWED AGO"), lines))


@click.command(short_help="Show a bucket, and what is risky about it.")
@click.argument("key", required=False, type=KEY_ARGUMENT)
@command
async def info(session: Session, key: str | None) -> None:
    """Show the settings of the bucket with what is risky about them, and who holds KEY.

    \b
    Examples:
      incumbent info
      incumbent info shop.billing -o json
    """  # noqa: D301
    async with session.connected() as nats:
        bucket = nats.bucket(session.bucket)
        settings, peers = await bucket.info(), await bucket.peers()
        sighting = await bucket.read(key, timeout=LONGEST_WRITE) if key else None
    warnings = [*warnings_about(settings), *warnings_about_peers(peers)]
    value: dict[str, Any] = {
        "bucket": settings.name,
        "created": settings.created,
        "ttlSeconds": settings.ttl,
        "history": settings.history,
        "replicas": settings.replicas,
        "markers": settings.markers,
        "peers": [
            {"name": p.name, "leader": p.leader, "current": p.current, "offline": p.offline}
            for p in peers
        ],
        "warnings": warnings,
    }
    lines = [
        f"Bucket    {settings.name}, created {settings.created}",
        f"TTL       {settings.ttl:g} s",
        f"History   {settings.history}",
        f"Replicas  {settings.replicas}"
        + (f" on {', '.join(p.name + '*' * p.leader for p in peers)}" if peers else ""),
        f"Markers   {'yes' if settings.markers else 'no'}",
    ]
    if key is not None and sighting is not None:
        value["election"] = _row(key, sighting)
        lines += ["", *_about(key, sighting)]
    lines += ["", *(f"WARNING   {warning}" for warning in warnings)] if warnings else []
    session.show(value, *lines)


@click.command(short_help="Take a key from its holder.")
@click.argument("key", type=KEY_ARGUMENT)
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def evict(session: Session, key: str, *, yes: bool) -> None:
    """Delete the record of KEY, so that its holder steps down and somebody else can lead.

    A holder of ours steps down as soon as it sees that, and stays out for one interval; a Choria
    member notices at its next tick, after 0.75 of the bucket's TTL at the most. Exit code 1 if
    nobody holds the key.

    \b
    Examples:
      incumbent evict shop.billing
      incumbent evict shop.billing --yes
    """  # noqa: D301
    async with session.connected() as nats:
        bucket = nats.bucket(session.bucket)
        for _ in range(EVICT_TRIES):
            entry = (await bucket.read(key, timeout=LONGEST_WRITE)).entry
            if not isinstance(entry, Record):
                msg = f"nobody holds {key}"
                raise Failure(msg)
            if not yes:
                terminal.agreed(f"Evict {shown(entry.holder)} from {key}?")
                yes = True
                continue  # the holder has renewed the record meanwhile
            answer = await bucket.remove(
                key,
                expected=entry.revision,
                headers={wire.OPERATION: "DEL"},
                timeout=LONGEST_WRITE,
            )
            if answer.outcome is Outcome.STORED:
                value = {"key": key, "evicted": entry.holder}
                session.show(value, f"{shown(entry.holder)} was evicted from {key}")
                return
            if answer.outcome is Outcome.UNKNOWN:
                holder = shown(entry.holder)
                msg = f"it is not known whether {holder} was evicted: {answer.reason}"
                raise BucketUnreachable(msg)
    msg = f"{key} changed at every try; try again"
    raise Failure(msg)


@click.command(short_help="Show changes of holders as they happen.")
@click.argument("key", required=False, type=KEY_ARGUMENT)
@command
async def watch(session: Session, key: str | None) -> None:
    """Show who holds KEY, or every key, and each change, until interrupted.

    In a bucket without markers the server says nothing when a record expires, so only the next
    holder shows.

    \b
    Examples:
      incumbent watch
      incumbent watch shop.billing -o json
    """  # noqa: D301
    holders: dict[str, str | None] = {}
    sightings: asyncio.Queue[tuple[str, Sighting]] = asyncio.Queue()

    def show(name: str, entry: Entry) -> None:
        holder = entry.holder if isinstance(entry, Record) else None
        if holders.get(name) == holder:
            return
        holders[name] = holder
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        cause = str(entry.cause.value) if isinstance(entry, Marker) else ""
        value = {"time": now, "key": name, "holder": holder, "cause": cause or None}
        text = shown(holder) if holder else f"vacant ({cause})"
        session.show(value, f"{now}  {name}  {text}")

    async with session.connected() as nats:
        await nats.bucket(session.bucket).info()
        session.warn()
        nats.bucket(session.bucket).follow(lambda *seen: sightings.put_nowait(seen))
        while True:
            name, sighting = await sightings.get()
            if name and key in {None, name}:
                show(name, sighting.entry)


async def _entries(nats: NatsConnection, name: str) -> dict[str, Sighting]:
    """Return the latest entry of every key."""
    bucket, found, complete = nats.bucket(name), dict[str, Sighting](), asyncio.Event()
    await bucket.info()  # raises an error, whereas the watch would go on trying

    def seen(key: str, sighting: Sighting) -> None:
        if key:
            found[key] = sighting
        else:
            complete.set()

    end = bucket.follow(seen)
    try:
        async with asyncio.timeout(LOOK_WITHIN):
            await complete.wait()
    except TimeoutError as error:
        problem: BucketError | None = bucket.problem
        msg = str(problem or f"the keys of bucket {name} were not shown within {LOOK_WITHIN:g} s")
        raise BucketUnreachable(msg) from error
    finally:
        end()
    return found


def _row(key: str, sighting: Sighting) -> dict[str, Any]:
    entry = sighting.entry
    record = entry if isinstance(entry, Record) else None
    return {
        "key": key,
        "holder": record.holder if record else None,
        "token": record.term if record and not record.stranger else None,
        "replica": (record.replica or None) if record else None,
        "site": (record.site or None) if record else None,
        "age": round(sighting.age, 3) if record else None,
    }


def _about(key: str, sighting: Sighting) -> list[str]:
    entry = sighting.entry
    if not isinstance(entry, Record):
        cause = f" ({entry.cause.value})" if isinstance(entry, Marker) else ""
        return [f"Key       {key}", f"Holder    nobody{cause}"]
    lines = [f"Key       {key}", f"Holder    {shown(entry.holder)}"]
    if entry.stranger:
        lines.append("Member    not one of ours: no token")
    else:
        lines.append(f"Token     {entry.term}")
        lines.append(
            f"Replica   {shown(entry.replica)}"
            + (f" of site {shown(entry.site)}" if entry.site else "")
        )
    return [*lines, f"Renewed   {sighting.age:.1f} s ago"]


def warnings_about_peers(peers: list[Peer]) -> list[str]:
    """Return warnings about a missing leader, and about copies that are offline or behind."""
    warnings = []
    if peers and not peers[0].leader:
        warnings.append("the bucket has no leader now")
    for peer in peers:
        if peer.offline:
            warnings.append(f"replica {peer.name} is offline")
        elif not peer.leader and (not peer.current or peer.lag > MOST_LAG):
            warnings.append(f"replica {peer.name} is {peer.lag} operations behind")
    return warnings


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    table = [titles, *(tuple(map(cell, row)) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(titles))]
    lines = ["   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    return [line.rstrip() for line in lines]
