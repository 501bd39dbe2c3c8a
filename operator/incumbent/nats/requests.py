"""The requests to the stream of one bucket, and the clock of the server that answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.records import BucketInfo, Entry, Peer
from incumbent.nats import jetstream
from incumbent.nats.ports import Connection

REQUEST_TIMEOUT = 2.0
CREATE_TIMEOUT = 5.0


class BucketRequests:
    """The requests about one bucket. Each of them raises a `BucketError` if it fails.

    Args:
        connection: the connection to NATS.
        name: the name of the bucket.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.last_revision = 0
        """The last revision in the stream, as of the last call of `info`."""
        self.server_ahead: float | None = None
        """Seconds that the server's clock is ahead of `incumbent.clock`; None if not known yet."""
        self._server_ahead_at_most = 0.0
        self._connection = connection
        self._name = name
        self._api = jetstream.api_of(connection.domain)
        # nats-py's KeyValue ignores the domain here, and writes to a stream of the leaf node.
        self._writes = f"{self._api}.$KV.{name}" if connection.domain else f"$KV.{name}"

    async def info(self) -> BucketInfo:
        """Ask for the settings, the last revision and the server's clock."""
        asked_at = clock.now()
        answer = await self._ask("STREAM.INFO")
        info = jetstream.info_from(self._name, answer)
        self.last_revision = answer["state"]["last_seq"]
        # Assume that the answer took no time. Then a computed age may be too small, never too
        # great.
        self.server_ahead = info.server_time - clock.now()
        self._server_ahead_at_most = info.server_time - asked_at
        return info

    async def create(self, *, ttl: float, replicas: int, max_bytes: int | None) -> None:
        """Create the bucket with markers and history 1.

        Without `max_bytes` it has no limit, or a default limit if the account requires one.
        """
        request = jetstream.stream_request(
            self._name, ttl=ttl, replicas=replicas, max_bytes=max_bytes
        )
        try:
            await self._ask("STREAM.CREATE", request, timeout=CREATE_TIMEOUT)
        except jetstream.MaxBytesRequired:
            request = {**request, "max_bytes": jetstream.DEFAULT_MAX_BYTES}
            await self._ask("STREAM.CREATE", request, timeout=CREATE_TIMEOUT)

    async def peers(self) -> list[Peer]:
        """Ask which servers hold the bucket, and whether they are up to date."""
        return jetstream.peers_from(await self._ask("STREAM.INFO"))

    async def clock_of_a_server(self) -> tuple[str, float]:
        """Ask a random one of the servers that hold the bucket for its name and its clock.

        This needs the right to create a consumer, as the watch does. The clock is in seconds since
        1970.
        """
        request = jetstream.clock_request(self._name)
        return jetstream.clock_from(await self._ask("CONSUMER.CREATE", request))

    async def create_consumer(self, inbox: str, *, heartbeat: float) -> bool:
        """Create a consumer that delivers each key's latest and later messages to an inbox.

        Returns whether messages are pending. While there are no messages, a heartbeat comes every
        `heartbeat` seconds.
        """
        request = jetstream.consumer_request(self._name, inbox, heartbeat)
        return bool((await self._ask("CONSUMER.CREATE", request))["num_pending"])

    async def latest(self, key: str, *, timeout: float) -> tuple[Entry, float] | None:
        """Read the latest entry of a key, and when it was stored, from the stream's leader.

        Returns None if the key holds no message.
        """
        what = {"last_by_subj": f"$KV.{self._name}.{key}"}
        try:
            answer = await self._ask("STREAM.MSG.GET", what, timeout=timeout)
        except jetstream.NoMessage:
            return None
        return jetstream.entry_from(answer["message"])

    async def publish(
        self,
        key: str,
        payload: bytes,
        *,
        expected: int,
        headers: Mapping[str, str],
        timeout: float,
    ) -> dict[str, Any]:
        """Store a message if the last revision of the key is `expected`, and return the answer."""
        return await self._connection.request(
            f"{self._writes}.{key}",
            payload,
            timeout=timeout,
            headers={**headers, wire.EXPECTED: str(expected)},
        )

    def age(self, stored_at: float) -> float:
        """Return the age of a message that the server stored at `stored_at`, or less than that."""
        if self.server_ahead is None:
            return 0.0
        return max(0.0, clock.now() + self.server_ahead - stored_at)

    def stored_after(self, stored_at: float) -> float:
        """Convert the server's time `stored_at` to our own clock; the result may be too early."""
        return min(clock.now(), stored_at - self._server_ahead_at_most)

    async def _ask(
        self,
        call: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> dict[str, Any]:
        subject = f"{self._api}.{call}.KV_{self._name}"
        payload = json.dumps(body).encode() if body else b""
        answer = await self._connection.request(subject, payload, timeout=timeout)
        error = jetstream.error_from(answer, self._name)
        if error is not None:
            raise error
        return answer
