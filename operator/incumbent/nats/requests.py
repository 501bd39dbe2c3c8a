"""What is asked of the stream of one bucket, and the clock of the server that answers."""

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
        connection: to NATS.
        name: of the bucket.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.last_revision = 0
        """The last revision in the stream, when `info` asked for it last."""
        self.server_ahead: float | None = None
        """How many seconds the server's clock is ahead of `incumbent.clock`; None: not asked."""
        self._server_ahead_at_most = 0.0
        self._connection = connection
        self._name = name
        self._api = jetstream.api_of(connection.domain)
        # nats-py's KeyValue forgets the domain here, and writes to a stream of the leaf node.
        self._writes = f"{self._api}.$KV.{name}" if connection.domain else f"$KV.{name}"

    async def info(self) -> BucketInfo:
        """Ask for the settings, the last revision and the server's clock."""
        asked_at = clock.now()
        answer = await self._ask("STREAM.INFO")
        info = jetstream.info_from(self._name, answer)
        self.last_revision = answer["state"]["last_seq"]
        # As if the answer had come in no time: an age may be said too small, never too great.
        self.server_ahead = info.server_time - clock.now()
        self._server_ahead_at_most = info.server_time - asked_at
        return info

    async def create(self, *, ttl: float, replicas: int, max_bytes: int | None) -> None:
        """Create the bucket with markers and history 1.

        Without `max_bytes` it has no limit, or a default one if the account requires one.
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
        """Ask which servers hold the bucket, and how they fare."""
        return jetstream.peers_from(await self._ask("STREAM.INFO"))

    async def clock_of_a_server(self) -> tuple[str, float]:
        """Ask one of the servers that hold the bucket, by chance, for its name and its clock.

        Takes the right that the watch has: to create a consumer. The clock is in seconds since
        1970.
        """
        request = jetstream.clock_request(self._name)
        return jetstream.clock_from(await self._ask("CONSUMER.CREATE", request))

    async def create_consumer(self, inbox: str, *, heartbeat: float) -> bool:
        """Let the server deliver the latest message of each key, and every later one, to an inbox.

        Returns whether anything is pending. Without messages a heartbeat comes every `heartbeat`
        seconds.
        """
        request = jetstream.consumer_request(self._name, inbox, heartbeat)
        return bool((await self._ask("CONSUMER.CREATE", request))["num_pending"])

    async def latest(self, key: str, *, timeout: float) -> tuple[Entry, float] | None:
        """Read the latest entry of a key from the stream's leader, and when it was stored there.

        None if there is no message of the key.
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
        """Return how old a message is, or less: it was stored then by the server's clock."""
        if self.server_ahead is None:
            return 0.0
        return max(0.0, clock.now() + self.server_ahead - stored_at)

    def stored_after(self, stored_at: float) -> float:
        """Return when such a message was stored, or a moment before, on our own clock."""
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
