"""One connection to one NATS server: the only module that imports `nats`.

nats-py's own `KeyValue` is not used: its `create` and `get` do not know the markers that a server
leaves when a record expires (nats-py 2.16: `create` stays refused until the marker has expired,
too), its writes ignore a JetStream domain, and its reads go to any replica.

Neither is its reconnect: publishes made in the meantime would be kept and sent later, after their
callers have given up, and a renewal that comes out of such a buffer holds a key with nobody
leading. `incumbent.nats.connection` replaces a client that lost its connection by a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import ParseResult

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import WebSocketTransport

from incumbent.errors import BucketDenied, BucketError, BucketUnreachable
from incumbent.nats.login import NatsAccess, said
from incumbent.nats.ports import Take
from incumbent.nats.servers import Server

PING_EVERY = 1
"""Seconds between the pings by which a black-holed connection is noticed."""
MOST_PINGS = 2
"""Pings without an answer before the connection counts as lost. They are counted, not timed: an
event loop that was busy for long has to read first what has arrived."""
CLOSED = "the connection to NATS was closed"

_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

_GRANT = "grant it to our user, as docs/nats.md says"

log = structlog.get_logger(__name__)

Json = Any
"""Whatever a server says in JSON."""


class NatsClient(Client):
    """One connection to one server: nats-py's client, which here neither reconnects nor closes.

    Its own way to close a broken connection leaves tasks behind and does not always tell. Here
    `wait_lost` tells, and whoever owns the client calls `abandon`.
    """

    def __init__(
        self, access: NatsAccess, server: Server, *, named: Callable[[NatsClient, Json, bool], None]
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.server = server
        self.lost: asyncio.Future[Exception] = loop.create_future()
        """Done when the connection is lost, with the reason."""
        self.leaving: asyncio.Future[None] = loop.create_future()
        """Done when the server said that it is about to shut down."""
        self.version = ""
        self.server_id = ""
        self._access = access
        self._named = named
        self._opening = True
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._requests: dict[str, tuple[str, asyncio.Future[bytes | BucketError]]] = {}
        if server.websocket:
            self._transport = _WebSocket(server.certificate_name)

    async def open(self) -> None:
        """Connect and log in; raises whatever went wrong."""
        limit: Any = self._access.connect_timeout  # nats-py's types want whole seconds
        async with asyncio.timeout(2 * limit):
            await self.connect(
                servers=[self.server.url],
                name=self._access.name,
                allow_reconnect=False,
                connect_timeout=limit,
                inbox_prefix=self._access.inbox_prefix,
                tls_hostname=self.server.certificate_name or None,
                pending_size=0,
                ping_interval=PING_EVERY,
                max_outstanding_pings=MOST_PINGS,
                error_cb=self._error,
                **self._access.login(),
            )
        self._opening = False
        if not self.is_connected or self._reading_task is None:
            raise nats.errors.UnexpectedEOF
        self._reading_task.add_done_callback(self._no_longer_read)
        self._inbox = self.new_inbox()
        await self.subscribe(f"{self._inbox}.*", cb=self._answered)
        async with asyncio.timeout(limit):
            # Twice: nats-py's ping overtakes what is still in its buffer, and so the refusal of a
            # subscription would come after the first one's answer.
            await self.flush()
            await self.flush()
        if self.lost.done():
            raise self.lost.result()

    @property
    def problem(self) -> BucketError:
        """Why there is no connection any more, when it is lost."""
        lost = self.lost.result()
        if isinstance(lost, BucketDenied):
            return lost
        address = self.server.address
        return BucketUnreachable(f"the connection to NATS at {address} was lost: {said(lost)}")

    async def wait_leaving(self) -> None:
        """Return when the connection is lost, or about to be."""
        ends: set[asyncio.Future[Any]] = {self.lost, self.leaving}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def wait_idle(self) -> None:
        """Return when no request waits for its answer any more, or the connection is lost."""
        while self._requests and not self.lost.done():
            waiting: set[asyncio.Future[Any]] = {self.lost}
            waiting |= {answer for _, answer in self._requests.values()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> bytes:
        """Send a request and return the data of the answer; see `NatsConnection.request`."""
        loop = asyncio.get_running_loop()
        token, answer = str(next(self._tokens)), loop.create_future()
        self._requests[token] = (subject, answer)
        timer = loop.call_later(timeout, self._too_late, token, timeout)
        try:
            reply = f"{self._inbox}.{token}"
            await self.publish(subject, payload, reply, None if headers is None else {**headers})
            result: bytes | BucketError = await answer
        except (nats.errors.Error, OSError) as error:
            msg = f"a request on {subject} cannot be sent: {said(error)}"
            raise BucketUnreachable(msg) from error
        finally:
            timer.cancel()
            del self._requests[token]
        if isinstance(result, BucketError):
            raise result
        return result

    @contextlib.asynccontextmanager
    async def deliver(self, take: Take) -> AsyncIterator[str]:
        """Subscribe to a new inbox, whose name is the value of the context."""

        async def taken(message: Msg) -> None:
            take(message.subject, message.reply, message.data, message.headers or {})

        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox, cb=taken)
        try:
            yield inbox
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    def give_up(self, error: BucketError) -> None:
        """End all requests: nobody waits for an answer any more."""
        for _, answer in self._requests.values():
            _resolve(answer, error)

    async def abandon(self) -> None:
        """Close without farewell, for the other end may not listen, and leave nothing behind."""
        self._opening = False
        self.give_up(BucketUnreachable(CLOSED))
        tasks = [self._reading_task, self._flusher_task, self._ping_interval_task]
        tasks += [subscription._wait_for_msgs_task for subscription in self._subs.values()]  # noqa: SLF001
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        self._pending_data_size = 0  # or `close` would wait until it is sent
        with contextlib.suppress(nats.errors.Error, OSError, AssertionError):
            async with asyncio.timeout(1):
                await self.close()
        if running:
            await asyncio.wait(running, timeout=1)

    async def _answered(self, message: Msg) -> None:
        _, _, token = message.subject.rpartition(".")
        subject, answer = self._requests.get(token, ("", None))
        if answer is None:
            return
        if message.headers and message.headers.get("Status") == "503":
            what = "no such bucket" if "$KV." in subject else "JetStream is off on the server"
            msg = f"nothing answers on {subject}: {what}, or there is no leader now"
            _resolve(answer, BucketUnreachable(msg))
        else:
            _resolve(answer, message.data)

    def _too_late(self, token: str, timeout: float) -> None:
        subject, answer = self._requests[token]
        msg = f"no answer from NATS on {subject} within {timeout:.3g} s"
        _resolve(answer, BucketUnreachable(msg))

    def _denied(self, subject: str) -> None:
        """End the requests on a subject to which we may not publish; it is in lower case."""
        for asked, answer in self._requests.values():
            if asked.lower() == subject:
                msg = f"NATS refuses us the subject {asked}: {_GRANT}"
                _resolve(answer, BucketDenied(msg))

    def _no_longer_read(self, _: asyncio.Task[None]) -> None:
        if not self.lost.done():
            self.lost.set_result(nats.errors.ProtocolError())

    async def _error(self, error: Exception) -> None:
        if self._opening:
            raise error  # or nats-py would go round with its own pauses
        if not isinstance(error, nats.errors.Error | OSError):
            log.error("nats.error", exc_info=error)

    # nats-py's own methods, with other manners

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        """Observe what the server says about itself and its cluster, at first and later.

        nats-py itself would only add the other servers to a list of its own, which is not used.
        """
        trusted = True
        if initial_connection:
            self.version = self._access.check(info, self.server)
            self.server_id = str(info.get("server_id", ""))
            # TLS begins behind this message, unless it came first or below.
            below = self.server.websocket or self._access.tls_first
            trusted = below or not info.get("tls_required")
        elif info.get("ldm") and not self.leaving.done():
            self.leaving.set_result(None)
        self._named(self, info.get("connect_urls"), trusted)

    async def _process_err(self, err_msg: str) -> None:
        permission = _PERMISSION.search(err_msg)
        if permission is None:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))
        elif permission[1] == "publish":
            self._denied(permission[2])
        else:
            subject = f"{self._access.inbox_prefix}.>"
            way = f"give another --nats-inbox-prefix, or {_GRANT}"
            msg = f"NATS refuses us to subscribe to {subject}: {way}"
            await self._process_op_err(BucketDenied(msg))

    async def _process_op_err(self, e: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(e)


class _WebSocket(WebSocketTransport):
    """nats-py's websocket, which here checks the certificate for a given name.

    nats-py's own way to open it passes aiohttp a kind of time limit that it is about to drop, and
    its way to close it waits for the other end, which may not listen.
    """

    def __init__(self, certificate_name: str) -> None:
        super().__init__()
        self._certificate_name = certificate_name

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        """Open it without TLS."""
        self._ws = await self._client.ws_connect(uri.geturl(), max_msg_size=0)

    async def connect_tls(
        self,
        uri: ParseResult | str,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,  # noqa: ARG002
    ) -> None:
        """Open it with TLS; it is asked for that again when it is open."""
        if self._ws is None and not isinstance(uri, str):
            name = self._certificate_name or None
            self._ws = await self._client.ws_connect(
                uri.geturl(), max_msg_size=0, ssl=ssl_context, server_hostname=name
            )

    def close(self) -> None:
        """Leave it to `wait_closed`."""

    async def wait_closed(self) -> None:
        """Close it without farewell."""
        if self._ws is not None:
            self._ws._response.close()  # noqa: SLF001  # its `close` waits for an answer
        await self._client.close()


def _resolve(answer: asyncio.Future[bytes | BucketError], result: bytes | BucketError) -> None:
    if not answer.done():
        answer.set_result(result)
