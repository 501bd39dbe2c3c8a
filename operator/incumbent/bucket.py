"""The bucket on a real NATS server: the only module that imports `nats`.

nats-py's own `KeyValue` is not used: its `create` and `get` do not know the markers that a server
leaves when a record expires (nats-py 2.16: `create` stays refused until the marker has expired,
too), its writes ignore a JetStream domain, and its reads go to any replica.

Neither is its reconnect: publishes made in the meantime would be kept and sent later, after their
callers have given up, and a renewal that comes out of such a buffer holds a key with nobody
leading. Here a connection that is lost is replaced by a new client, and every watch starts again
with what the server then has.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from incumbent import wire
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketUnreachable,
    ConfigurationError,
)
from incumbent.model import BucketInfo, Entry, Nothing
from incumbent.ports import Answer, Outcome, Sighting

MINIMUM_SERVER = (2, 11)
"""From 2.11 on a new stream leader answers only after it has caught up with its log, and a record
that expires can leave a marker (release notes of nats-server 2.11)."""

CONNECT_TIMEOUT = 2.0
REQUEST_TIMEOUT = 2.0
PING_EVERY = 2.0
"""Seconds between the pings by which a black-holed connection is noticed."""
PING_TIMEOUT = 2.0
HEARTBEAT_EVERY = 3.0
"""Seconds between the heartbeats of a watch that has nothing to say."""
HEARTBEAT_TIMEOUT = 2.5 * HEARTBEAT_EVERY
INFO_EVERY = 10.0
"""Seconds between looks at the bucket's settings, which may change while elections run."""
LONGEST_PAUSE = 2.0
"""Seconds between attempts to connect, at most."""

_WRONG_LAST_SEQUENCE = 10071
_STREAM_NOT_FOUND = 10059
_JETSTREAM_NOT_ENABLED = frozenset({10039, 10076})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Where NATS is and how to log in. Files are read anew for every connection."""

    urls: Sequence[str]
    name: str = "incumbent"
    creds: Path | None = None
    nkey: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    domain: str | None = None


class Nats:
    """One connection to NATS for the whole process, kept up for as long as this runs.

    `start` returns at once, whether a server answers or not; `connected` and `problem` tell.
    """

    def __init__(self, access: NatsAccess) -> None:
        self.access = access
        self.problem = "not connected yet"
        """Why there is no connection, in words for a person; empty while there is one."""
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._denied: dict[str, float] = {}
        self._buckets: dict[str, NatsBucket] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._api = f"$JS.{access.domain}.API" if access.domain else "$JS.API"

    @property
    def connected(self) -> bool:
        """Whether a server answered lately."""
        return self._up.is_set()

    async def start(self) -> None:
        """Begin to connect, and to keep the connection."""
        self._tasks.append(asyncio.create_task(self._keep_connected(), name="nats connection"))

    async def aclose(self) -> None:
        """End everything, the watches too. Nothing is released here."""
        tasks = [*self._tasks, *(b.task for b in self._buckets.values() if b.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await _abandon(self._client)
        self._client = None

    def bucket(self, name: str) -> NatsBucket:
        """Return the bucket of that name, whether it exists or not: one object for each name."""
        if name not in self._buckets:
            self._buckets[name] = NatsBucket(self, name)
        return self._buckets[name]

    async def create_bucket(self, name: str, *, ttl: float, replicas: int) -> None:
        """Create a bucket with markers and history 1, unless there is one of that name.

        Raises:
            BucketError: the server refuses or does not answer.
        """
        config = {
            "name": f"KV_{name}",
            "subjects": [f"$KV.{name}.>"],
            "max_msgs_per_subject": 1,
            "max_age": int(ttl * 1e9),
            "duplicate_window": int(min(ttl, 120) * 1e9),
            "subject_delete_marker_ttl": int(max(1.0, ttl) * 1e9),
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
            "discard": "new",
            "storage": "file",
            "num_replicas": replicas,
            "retention": "limits",
        }
        try:
            await self.api(f"STREAM.INFO.KV_{name}")
        except BucketNotFound:
            await self.api(f"STREAM.CREATE.KV_{name}", config)
            log.info("bucket.created", bucket=name, ttl=ttl, replicas=replicas)

    # For the buckets

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._up.wait()

    @property
    def client(self) -> Client:
        """The client of the present connection."""
        if self._client is None or not self._up.is_set():
            msg = f"NATS is not reachable: {self.problem}"
            raise BucketUnreachable(msg)
        return self._client

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the decoded answer, which may hold an error.

        Raises:
            BucketUnreachable: no answer; the request may have been carried out.
            BucketDenied: the server said that we may not publish to this subject.
        """
        headers = None if headers is None else dict(headers)
        try:
            answer = await self.client.request(subject, payload, timeout=timeout, headers=headers)
        except nats.errors.NoRespondersError as error:
            msg = f"nothing answers on {subject}: no such stream, or it has no leader now"
            raise BucketUnreachable(msg) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if subject in self._denied:
                raise BucketDenied(_denial(subject)) from error
            msg = f"no answer from NATS on {subject} within {timeout:g} s"
            if not self._up.is_set():
                msg = f"the connection to NATS was lost: {self.problem}"
            raise BucketUnreachable(msg) from error
        self._denied.pop(subject, None)
        try:
            decoded = json.loads(answer.data)
        except ValueError as error:
            msg = f"an answer on {subject} is not JSON"
            raise BucketUnreachable(msg) from error
        return decoded if isinstance(decoded, dict) else {}

    async def api(
        self, subject: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Ask the JetStream API.

        Raises:
            BucketNotFound: there is no such stream.
            BucketInvalid: the server refuses what was asked, with its own words.
            BucketUnreachable, BucketDenied: as `request`.
        """
        payload = json.dumps(body).encode() if body else b""
        wait = REQUEST_TIMEOUT if timeout is None else timeout
        answer = await self.request(f"{self._api}.{subject}", payload, timeout=wait)
        error = answer.get("error")
        if error is None:
            return answer
        code, words = error.get("err_code"), error.get("description", "unknown error")
        if code == _STREAM_NOT_FOUND:
            name = subject.rpartition("KV_")[2]
            msg = (
                f"there is no bucket {name}: create it, or start the operator with --create-bucket"
            )
            raise BucketNotFound(msg)
        if error.get("code") in {503, 504} or code in _JETSTREAM_NOT_ENABLED:
            msg = f"JetStream cannot answer now: {words}"
            raise BucketUnreachable(msg)
        msg = f"JetStream refused {subject}: {words}"
        raise BucketInvalid(msg)

    def kv_subject(self, bucket: str, key: str) -> str:
        """Return the subject to which a write of the key is published."""
        prefix = f"{self._api}." if self.access.domain else ""
        return f"{prefix}$KV.{bucket}.{key}"

    def denied(self, subject: str) -> bool:
        """Whether the server refused the subject since it last answered there."""
        return subject in self._denied

    # The connection

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                client = await self._connect(failures)
            except (nats.errors.Error, OSError, TimeoutError, ConfigurationError) as error:
                self.problem = _words(error, self.access)
                if failures == 0:
                    log.warning("nats.unreachable", problem=self.problem)
                pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 8))
                failures += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            failures = 0
            self._client, self.problem = client, ""
            self._denied.clear()
            self._up.set()
            version = client.connected_server_version
            log.info("nats.connected", server=_server(client), version=str(version))
            try:
                await self._until_lost(client)
            finally:
                self._up.clear()
                self.problem = self.problem or "the connection was lost"
                for bucket in self._buckets.values():
                    bucket.disconnected()
            log.warning("nats.disconnected", problem=self.problem)
            await _abandon(client)

    async def _connect(self, attempt: int) -> Client:
        access, client = self.access, Client()
        self._closed = asyncio.Event()
        closed = self._closed

        async def on_closed() -> None:
            closed.set()

        connecting = True

        async def on_error(error: Exception) -> None:
            if connecting:
                raise error  # or nats-py would go round with its own pauses
            self._note(error)

        options: dict[str, Any] = {}
        if access.creds:
            options["user_credentials"] = str(access.creds)
        if access.nkey:
            options["nkeys_seed"] = str(access.nkey)
        if access.user is not None:
            options["user"] = access.user
        if access.password_file:
            options["password"] = access.password_file.read_text().strip()
        if access.token_file:
            options["token"] = access.token_file.read_text().strip()
        context = _tls(access)
        if context is not None:
            options["tls"] = context
            options["tls_handshake_first"] = access.tls_first
        async with asyncio.timeout(2 * CONNECT_TIMEOUT):
            await client.connect(
                servers=[access.urls[attempt % len(access.urls)]],
                name=access.name,
                allow_reconnect=False,
                connect_timeout=int(CONNECT_TIMEOUT),
                pending_size=0,
                ping_interval=3600,  # `_until_lost` has its own, which does not wait for a flush
                error_cb=on_error,
                closed_cb=on_closed,
                **options,
            )
        connecting = False
        version = client.connected_server_version
        if (version.major, version.minor) < MINIMUM_SERVER:
            await _abandon(client)
            msg = (
                f"the NATS server is version {version}; Incumbent needs"
                f" {MINIMUM_SERVER[0]}.{MINIMUM_SERVER[1]} or newer"
            )
            raise ConfigurationError(msg)
        return client

    async def _until_lost(self, client: Client) -> None:
        """Return when the connection is closed, or when a ping finds no answer."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY):
                    await self._closed.wait()
                    return
            try:
                await client.flush(timeout=int(PING_TIMEOUT))
            except (nats.errors.Error, OSError, TimeoutError):
                self.problem = f"the server did not answer a ping within {PING_TIMEOUT:g} s"
                return

    def _note(self, error: Exception) -> None:
        """Remember which subject the server refused: its error comes apart from the request."""
        words = str(error)
        lower = words.lower()
        if "permissions violation" not in lower:
            return
        subject = words.partition('"')[2].partition('"')[0]
        if subject and subject not in self._denied:
            log.warning("nats.denied", problem=_denial(subject))
        self._denied[subject] = time.monotonic()


class NatsBucket:
    """A bucket behind a `Nats` connection; implements `incumbent.ports.Bucket`.

    All watches of a bucket share one consumer, whose state is kept by key, so that a thousand
    elections cost the server one.
    """

    def __init__(self, connection: Nats, name: str) -> None:
        self.name = name
        self.problem: BucketError | None = None
        """Why the bucket cannot be used now; None while it can, and before the first look."""
        self.settings: BucketInfo | None = None
        """What the server said last."""
        self.task: asyncio.Task[None] | None = None
        self._nats = connection
        self._subject = f"$KV.{name}."
        self._watchers: dict[str, list[Callable[[Sighting], None]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._entries: dict[str, tuple[Entry, float]] = {}
        self._news: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._synced = False
        self._clock_offset = 0.0

    async def info(self) -> BucketInfo:
        """Ask the server for the bucket's settings."""
        sent_at = time.time()
        answer = await self._nats.api(f"STREAM.INFO.KV_{self.name}")
        info = _bucket_info(self.name, answer)
        self._clock_offset = info.server_time - (sent_at + time.time()) / 2
        return info

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put `value` if the last revision of the key is `expected` (0: no message at all)."""
        return await self._publish(key, value.encode(), expected, headers, timeout)

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put a delete marker if the last revision of the key is `expected`."""
        return await self._publish(key, b"", expected, headers, timeout)

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of the key from the stream's leader."""
        subject = f"$KV.{self.name}.{key}"
        try:
            answer = await self._nats.api(
                f"STREAM.MSG.GET.KV_{self.name}", {"last_by_subj": subject}, timeout=timeout
            )
        except BucketInvalid as error:
            if "no message found" in str(error):
                return Sighting(Nothing())
            raise
        entry, stored_at = _entry_from_message(answer["message"])
        return Sighting(entry, self._age(stored_at))

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Call `seen` for the latest entry of the key and for every later one, in order."""
        self._watchers.setdefault(key, []).append(seen)
        if self.task is None:
            self.task = asyncio.create_task(self._keep(), name=f"watch of bucket {self.name}")
        elif self._synced:
            seen(self._last_sighting(key))

        def end() -> None:
            watchers = self._watchers.get(key, [])
            if seen in watchers:
                watchers.remove(seen)
            if not watchers:
                self._watchers.pop(key, None)

        return end

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever `problem` or `settings` change; returns how to end that."""
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    def disconnected(self) -> None:
        """Take in that the connection is gone, and the watch with it."""
        self._synced = False
        self._news.put_nowait(None)

    # Inside

    async def _publish(
        self, key: str, payload: bytes, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        subject = self._nats.kv_subject(self.name, key)
        headers = {**headers, wire.EXPECTED: str(expected)}
        try:
            answer = await self._nats.request(subject, payload, timeout=timeout, headers=headers)
        except BucketError as failure:
            return Answer(Outcome.UNKNOWN, reason=str(failure))
        error = answer.get("error", {})
        if not error and isinstance(answer.get("seq"), int):
            return Answer(Outcome.STORED, answer["seq"])
        words = error.get("description", "an answer without a sequence")
        if error.get("err_code") == _WRONG_LAST_SEQUENCE:
            return Answer(Outcome.REFUSED, reason=words)
        # Among them 10164: another message on the subject is in flight, perhaps our own.
        return Answer(Outcome.UNKNOWN, reason=words)

    async def _keep(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._review())

    async def _review(self) -> None:
        """Look at the settings now and then."""
        while True:
            await asyncio.sleep(INFO_EVERY)
            await self._nats.wait_connected()
            try:
                self._take_settings(await self.info())
            except BucketUnreachable:
                continue  # whoever writes notices it sooner
            except BucketError as error:
                self._set_problem(error)

    async def _follow(self) -> None:
        """Keep the watch: from one loss of it to the next."""
        failures = 0
        while True:
            await self._nats.wait_connected()
            try:
                await self._follow_once()
            except (BucketError, nats.errors.Error, OSError, TimeoutError) as error:
                if isinstance(error, BucketError):
                    self._set_problem(error)
                pause = min(LONGEST_PAUSE, 0.05 * 2 ** min(failures, 8))
                failures += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            else:
                failures = 0
            finally:
                self._synced = False

    async def _follow_once(self) -> None:
        """Watch until a gap, silence or the end of the connection."""
        self._take_settings(await self.info())
        client = self._nats.client
        inbox = client.new_inbox()
        news: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._news = news
        subscription = await client.subscribe(inbox, cb=news.put)
        try:
            consumer = await self._nats.api(
                f"CONSUMER.CREATE.KV_{self.name}",
                _consumer(f"KV_{self.name}", self._subject, inbox),
            )
            expected, pending = 1, consumer["num_pending"]
            fresh: dict[str, tuple[Entry, float]] = {}
            if pending == 0:
                self._synchronised(fresh)
            while True:
                async with asyncio.timeout(HEARTBEAT_TIMEOUT):
                    message = await news.get()
                if message is None:
                    return
                headers = message.headers or {}
                if headers.get("Status"):
                    last = headers.get("Nats-Last-Consumer")
                    if last is not None and int(last) != expected - 1:
                        return
                    continue
                metadata = message.metadata
                if metadata.sequence.consumer != expected:
                    return
                expected += 1
                key = message.subject.removeprefix(self._subject)
                entry = wire.entry_from(message.data, headers, metadata.sequence.stream)
                stored_at = metadata.timestamp.timestamp()
                if pending == 0:
                    self._entries[key] = (entry, stored_at)
                    self._show(key, Sighting(entry, live=True))
                    continue
                fresh[key] = (entry, stored_at)
                pending = metadata.num_pending
                if pending == 0:
                    self._synchronised(fresh)
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    def _synchronised(self, fresh: dict[str, tuple[Entry, float]]) -> None:
        """Show every watcher what the key holds now, also that it holds nothing."""
        self._entries = fresh
        self._synced = True
        self._set_problem(None)
        for key in list(self._watchers):
            self._show(key, self._last_sighting(key))

    def _last_sighting(self, key: str) -> Sighting:
        entry, stored_at = self._entries.get(key, (Nothing(), None))
        return Sighting(entry, 0.0 if stored_at is None else self._age(stored_at))

    def _show(self, key: str, sighting: Sighting) -> None:
        for seen in tuple(self._watchers.get(key, ())):
            seen(sighting)

    def _age(self, stored_at: float) -> float:
        return max(0.0, time.time() + self._clock_offset - stored_at)

    def _take_settings(self, info: BucketInfo) -> None:
        before, self.settings = self.settings, info
        if before is None or before.created != info.created or before.ttl != info.ttl:
            self._tell()

    def _set_problem(self, problem: BucketError | None) -> None:
        before, self.problem = self.problem, problem
        if (type(before), str(before)) != (type(problem), str(problem)):
            if problem is not None:
                log.warning("bucket.problem", bucket=self.name, problem=str(problem))
            self._tell()

    def _tell(self) -> None:
        for changed in tuple(self._listeners):
            changed()


def _consumer(stream: str, subject: str, inbox: str) -> dict[str, Any]:
    """Return the request for the consumer of a watch: everything once, then as it happens."""
    return {
        "stream_name": stream,
        "config": {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": f"{subject}>",
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": int(HEARTBEAT_EVERY * 1e9),
            # The server removes it soon after our subscription is gone.
            "inactive_threshold": int(5e9),
        },
    }


def _bucket_info(name: str, answer: Mapping[str, Any]) -> BucketInfo:
    config = answer["config"]
    return BucketInfo(
        name=name,
        ttl=config.get("max_age", 0) / 1e9,
        history=config.get("max_msgs_per_subject", 1),
        replicas=config.get("num_replicas", 1),
        created=answer["created"],
        markers=bool(config.get("subject_delete_marker_ttl")),
        mirror=bool(config.get("mirror") or config.get("sources")),
        clustered=bool((answer.get("cluster") or {}).get("name")),
        server_time=_timestamp(answer["ts"]) if "ts" in answer else time.time(),
    )


def _entry_from_message(message: Mapping[str, Any]) -> tuple[Entry, float]:
    """Decode what STREAM.MSG.GET returns: the entry, and when the server stored it."""
    value = _decode64(message.get("data"))
    headers = dict(_header_lines(_decode64(message.get("hdrs"))))
    entry = wire.entry_from(value, headers, message["seq"])
    return entry, _timestamp(message["time"])


def _decode64(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""


def _header_lines(block: bytes) -> Iterator[tuple[str, str]]:
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _timestamp(text: str) -> float:
    """Return seconds since 1970 of an RFC 3339 time with up to nine decimals."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _tls(access: NatsAccess) -> ssl.SSLContext | None:
    if not (access.tls_ca or access.tls_cert or access.tls_first):
        return None
    context = ssl.create_default_context(cafile=access.tls_ca)
    if access.tls_cert:
        context.load_cert_chain(access.tls_cert, access.tls_key)
    return context


def _server(client: Client) -> str:
    url = client.connected_url
    return f"{url.hostname}:{url.port}" if url is not None else ""


def _words(error: Exception, access: NatsAccess) -> str:
    """Say why a connection failed, without credentials."""
    servers = ", ".join(url.rpartition("@")[2].rpartition("//")[2] for url in access.urls)
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, nats.errors.AuthorizationError):
        return f"NATS at {servers} refused the credentials"
    if isinstance(error, TimeoutError):
        return f"no answer from NATS at {servers} within {CONNECT_TIMEOUT:g} s"
    words = str(error) or type(error).__name__
    if "authorization" in words.lower():
        return f"NATS at {servers} refused the credentials"
    return f"NATS at {servers} cannot be reached: {words.removeprefix('nats: ')}"


def _denial(subject: str) -> str:
    return f"NATS refuses us the subject {subject}: grant this permission to the operator's user"


async def _abandon(client: Client) -> None:
    """Close a connection, also one whose other end does not answer any more."""
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(1):
            await client.close()
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - there is no other way
    if writer is not None:
        writer.transport.abort()
