"""The stream that keeps the history, behind any connection; a `ports.HistoryStore`.

It is made by an administrator, never here. The entries of a key are the messages of one subject,
`<prefix>.<bucket>.<key>`; the prefix comes from the stream's own subjects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome
from incumbent.errors import BucketInvalid, BucketNotFound
from incumbent.history.ports import Stored
from incumbent.nats import jetstream
from incumbent.nats.ports import Connection
from incumbent.nats.requests import REQUEST_TIMEOUT
from incumbent.nats.watch import INFO_EVERY

MOST_MESSAGES = 1000
"""Per subject, for a replica reads all of a key's before it adds to them."""


class HistoryStream:
    """One stream. Every method raises a `BucketError` if the stream cannot be used."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self._connection = connection
        self._api = jetstream.api_of(connection.domain)
        self._prefix = ""
        self._created = ""
        self._looked_at = -INFO_EVERY
        self.kept = 0
        """How many messages the stream keeps of each subject."""

    async def look(self) -> bool:
        """Look at the settings, if that was some time ago; false if it is another stream."""
        if clock.now() < self._looked_at + INFO_EVERY:
            return True
        answer = await self._ask("STREAM.INFO", {})
        config, created = answer["config"], answer["created"]
        self._prefix, self.kept = self._checked(config), config["max_msgs_per_subject"]
        self._looked_at = clock.now()
        before, self._created = self._created, created
        return bool(created == before)

    async def last(self, bucket: str, key: str) -> Stored | None:
        """Return the last message of a key."""
        return await self._get({"last_by_subj": self._subject(bucket, key)})

    async def next(self, bucket: str, key: str, *, after: int) -> Stored | None:
        """Return the first message of a key behind a sequence."""
        return await self._get({"seq": after + 1, "next_by_subj": self._subject(bucket, key)})

    async def append(self, bucket: str, key: str, data: bytes, *, expected: int) -> Answer:
        """Add a message, if the sequence of the key's last one is `expected` (0: there is none)."""
        answer = await self._connection.request(
            self._subject(bucket, key),
            data,
            timeout=REQUEST_TIMEOUT,
            headers={wire.EXPECTED: str(expected)},
        )
        found = jetstream.answer_from(answer)
        if found.outcome is Outcome.UNKNOWN:
            self._looked_at = -INFO_EVERY
            msg = f"stream {self.name} does not take an entry of the history: {found.reason}"
            raise BucketInvalid(msg)
        return found

    def _subject(self, bucket: str, key: str) -> str:
        return f"{self._prefix}.{bucket}.{key}"

    async def _get(self, what: Mapping[str, Any]) -> Stored | None:
        try:
            message = (await self._ask("STREAM.MSG.GET", what))["message"]
        except jetstream.NoMessage:
            return None
        return Stored(message["seq"], jetstream.data_from(message))

    async def _ask(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        subject = f"{self._api}.{call}.{self.name}"
        payload = json.dumps(body).encode() if body else b""
        answer = await self._connection.request(subject, payload, timeout=REQUEST_TIMEOUT)
        error = jetstream.error_from(answer, self.name)
        if isinstance(error, BucketNotFound):
            msg = f"there is no stream {self.name}: make it as docs/history.md says"
            raise BucketNotFound(msg)
        if isinstance(error, BucketInvalid):
            said = answer["error"].get("description", "unknown error")
            msg = f"JetStream refuses what was asked of stream {self.name}: {said}"
            raise BucketInvalid(msg)
        if error is not None:
            raise error
        return answer

    def _checked(self, config: Mapping[str, Any]) -> str:
        """Return the prefix of the subjects.

        Raises:
            BucketInvalid: the stream cannot keep a history.
        """
        wrong = ""
        subjects = config.get("subjects") or [""]
        if config.get("mirror") or config.get("sources") or not subjects[0].endswith(".>"):
            wrong = f"has no subjects like {self.name}.>"
        elif not 1 < config.get("max_msgs_per_subject", -1) <= MOST_MESSAGES:
            wrong = f"keeps not 2 to {MOST_MESSAGES} messages per subject"
        elif config.get("retention", "limits") != "limits":
            wrong = "does not keep what was read"
        if wrong:
            msg = f"stream {self.name} {wrong}: make it as docs/history.md says"
            raise BucketInvalid(msg)
        prefix: str = subjects[0].removesuffix(".>")
        return prefix
