"""One connection to one NATS server: the only module that imports `nats`.

We do not use nats-py's own `KeyValue`. Its `create` and `get` do not know the markers that a server
leaves when a record expires (nats-py 2.16: `create` stays refused until the marker has expired,
too). Its writes ignore a JetStream domain, and its reads go to any replica.

We do not use its reconnect either. It would keep messages that are published meanwhile, and send
them after their callers have given up. A renewal from such a buffer would hold a key while nobody
leads. `incumbent.nats.connection` replaces a client that lost its connection with a new client.
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
"""Seconds between the pings that detect a dead connection."""
MOST_PINGS = 2
"""Number of pings without an answer after which the connection counts as lost. We count pings and
not time, because an event loop that was busy for long must first read what has arrived."""
CLOSED = "the connection to NATS was closed"

_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

_GRANT = "grant it to our user, as docs/nats.md says"

log = structlog.get_logger(__name__)

Json = Any
"""A JSON value from a server."""


class NatsClient(Client):
    """One connection to one server: nats-py's client without its reconnect.

    nats-py's way to close a broken connection leaves tasks behind, and does not always report the
    loss. Here the future `lost` reports it, and the owner of the client then calls `abandon`.
    """

    def __init__(
        self, access: NatsAccess, server: Server, *, named: Callable[[NatsClient, Json, bool], None]
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.server = server
        self.lost: asyncio.Future[Exception] = loop.create_future()
        """Done when the connection is lost; the result is the reason."""
        self.leaving: asyncio.Future[None] = loop.create_future()
        """Done when the server has announced that it will shut down."""
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
        """Connect and log in. Any error is raised as it is."""
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
            # Flush twice, because nats-py's ping overtakes messages that are still in its buffer.
            # The refusal of a subscription would come after the answer to the first ping.
            await self.flush()
            await self.flush()
        if self.lost.done():
            raise self.lost.result()

    @property
    def problem(self) -> BucketError:
        """Why the connection was lost. Only valid after the loss."""
        lost = self.lost.result()
        if isinstance(lost, BucketDenied):
            return lost
        address = self.server.address
        return BucketUnreachable(f"the connection to NATS at {address} was lost: {said(lost)}")

    async def wait_leaving(self) -> None:
        """Wait until the connection is lost, or the server announces that it will shut down."""
        ends: set[asyncio.Future[Any]] = {self.lost, self.leaving}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def wait_idle(self) -> None:
        """Wait until no request waits for its answer any more, or the connection is lost."""
        while self._requests and not self.lost.done():
            waiting: set[asyncio.Future[Any]] = {self.lost}
            waiting |= {answer for _, answer in self._requests.values()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> bytes:
        """Send a request and return the data of its answer; see `NatsConnection.request`."""
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
        """Subscribe to a new inbox. The value of the context is the name of the inbox."""

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
        """End all open requests with this error."""
        for _, answer in self._requests.values():
            _resolve(answer, error)

    async def abandon(self) -> None:
        """Abort the connection, because the other end may not listen, and end all its tasks."""
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
        self._pending_data_size = 0  # otherwise `close` would wait until the data is sent
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
        """End the requests on a subject (in lower case) to which we may not publish."""
        for asked, answer in self._requests.values():
            if asked.lower() == subject:
                msg = f"NATS refuses us the subject {asked}: {_GRANT}"
                _resolve(answer, BucketDenied(msg))

    def _no_longer_read(self, _: asyncio.Task[None]) -> None:
        if not self.lost.done():
            self.lost.set_result(nats.errors.ProtocolError())

    async def _error(self, error: Exception) -> None:
        if self._opening:
            raise error  # otherwise nats-py would try again after its own pauses
        if not isinstance(error, nats.errors.Error | OSError):
            log.error("nats.error", exc_info=error)

    # Methods of nats-py that behave differently here

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        """Record what the server says about itself and its cluster, at first and later.

        nats-py's method would only add the other servers to a list that we do not use.
        """
        trusted = True
        if initial_connection:
            self.version = self._access.check(info, self.server)
            self.server_id = str(info.get("server_id", ""))
            # TLS begins after this message, unless the handshake came first or a websocket has it.
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
    """nats-py's websocket, but it checks the certificate for a given name.

    To open a websocket, nats-py passes aiohttp a kind of time limit that aiohttp will drop. To
    close it, nats-py waits for the other end, which may not listen.
    """

    def __init__(self, certificate_name: str) -> None:
        super().__init__()
        self._certificate_name = certificate_name

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        """Open the websocket without TLS."""
        self._ws = await self._client.ws_connect(uri.geturl(), max_msg_size=0)

    async def connect_tls(
        self,
        uri: ParseResult | str,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,  # noqa: ARG002
    ) -> None:
        """Open the websocket with TLS, unless it is open: nats-py calls this a second time."""
        if self._ws is None and not isinstance(uri, str):
            name = self._certificate_name or None
            self._ws = await self._client.ws_connect(
                uri.geturl(), max_msg_size=0, ssl=ssl_context, server_hostname=name
            )

    def close(self) -> None:
        """Do nothing, because `wait_closed` closes the websocket."""

    async def wait_closed(self) -> None:
        """Close the websocket without waiting for the other end."""
        if self._ws is not None:
            self._ws._response.close()  # noqa: SLF001  # its `close` waits for an answer
        await self._client.close()


def _resolve(answer: asyncio.Future[bytes | BucketError], result: bytes | BucketError) -> None:
    if not answer.done():
        answer.set_result(result)
