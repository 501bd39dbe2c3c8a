"""An election for any asyncio program: no Kubernetes, no files, one object."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import secrets
import socket
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from incumbent import clock
from incumbent.campaign.configuration import (
    BucketSettings,
    CampaignSpec,
    unfit_reason,
    unsettled_reason,
)
from incumbent.campaign.driver import Driver
from incumbent.campaign.events import CampaignEvent, Lost, Relieved, Won
from incumbent.campaign.machine import Campaign, Member
from incumbent.campaign.ports import WatchedBucket
from incumbent.campaign.records import BucketInfo, Nominee, Profile, Promotion, State
from incumbent.campaign.timing import Backoff, Timing
from incumbent.errors import BucketInvalid, ConfigurationError, IncumbentError
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import NatsAccess
from incumbent.validation import bucket_name, identity_name, key_name, nats_url

log = structlog.get_logger(__name__)

KEPT_EVENTS = 256
"""How many events wait for a slow reader before the oldest are dropped."""
LAST_WORDS = 1.0
"""Seconds that callbacks have at the end, at least."""


@dataclass(frozen=True, slots=True)
class HolderChanged:
    """Somebody else holds the key now, or nobody (None)."""

    holder: str | None


ElectionEvent = Won | Lost | HolderChanged
Callback = Callable[[], Awaitable[None] | None]
CampaignCallback = Callable[[State], Awaitable[None] | None]


class StoppedError(IncumbentError):
    """The election was stopped while somebody waited for it."""


class Election:
    """One member's part in an election.

    ::

        async with Election("nats://localhost:4222", "LEADER_ELECTION", "jobs", "worker-1") as e:
            token = await e.won()
            while e.is_leader:
                ...

    Leadership ends by itself at a deadline: `is_leader` compares it with the clock at each call. A
    process that stands still does not notice, and what it has under way goes on; give `token` to
    whatever must refuse an old leader.

    Args:
        nats: a URL or several, a `NatsAccess` with credentials, or a `NatsConnection` that was
            started and is shared; only the last is not closed at the end. A client of nats-py
            cannot be used: its reconnect sends writes after their callers have given up.
        bucket: the name of the key-value bucket; it has to exist. Its TTL is that of the lease.
        key: the key in the bucket.
        identity: what the record says; for people, so it should be unique.
        profile: `Profile.PROMPT`, or `Profile.CHORIA` for exactly the manners of a Choria member.
        interval: seconds between renewals instead of the profile's.
        splay: longest random delay of the first campaign, in seconds, instead of the profile's.
        promotion: when leadership begins after the record was won, instead of the profile's.
        backoff: seconds to the next try, by the number of failed tries, instead of the interval; in
            the Prompt profile they are counted from the eighth on.
        on_won: called when leadership begins. It should start the work, not be the work: `on_lost`
            is not called before it returned.
        on_lost: called when it has ended. At `stop` the key is released only after it returned,
            or at the deadline.
        on_campaign: called with the state as each try is begun.

    The callbacks run one after the other in tasks of their own, may be coroutine functions, may be
    slow, may fail (that is logged), may ask the election anything, and may stop it.

    Raises:
        ConfigurationError: a URL, the bucket's name, the key or the identity is not valid.
    """

    def __init__(
        self,
        nats: str | Sequence[str] | NatsAccess | NatsConnection,
        bucket: str,
        key: str,
        identity: str | None = None,
        *,
        profile: Profile = Profile.PROMPT,
        interval: float | None = None,
        splay: float | None = None,
        promotion: Promotion | None = None,
        backoff: Backoff | None = None,
        on_won: Callback | None = None,
        on_lost: Callback | None = None,
        on_campaign: CampaignCallback | None = None,
    ) -> None:
        self.bucket = bucket_name(bucket)
        self.key = key_name(key)
        self.identity = identity_name(socket.gethostname() if identity is None else identity)
        self.problem: IncumbentError | None = None
        """Why it does not campaign, or cannot see the bucket; None while all is well."""
        self._nats: NatsAccess | NatsConnection
        if isinstance(nats, NatsAccess | NatsConnection):
            self._nats = nats
        else:
            urls = [nats_url(url) for url in ([nats] if isinstance(nats, str) else nats)]
            self._nats = NatsAccess(urls, name=f"incumbent {self.identity}")
        self._spec = CampaignSpec(profile, interval, splay, promotion, backoff)
        self._on_won, self._on_lost, self._on_campaign = on_won, on_lost, on_campaign
        self._replica = f"{self.identity}/{secrets.token_hex(4)}"
        self._connection: NatsConnection | None = None
        self._store: WatchedBucket | None = None
        self._settings = BucketSettings()
        self._driver: Driver | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._calling: asyncio.Task[None] | None = None
        self._stopped: asyncio.Task[None] | None = None
        self._end: list[Callable[[], None]] = []
        self._changed = asyncio.Event()
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._callbacks: asyncio.Queue[Callback] = asyncio.Queue()
        self._holder: str | None = None
        self._started = False

    # What is the case

    @property
    def _stopping(self) -> bool:
        return self._stopped is not None

    @property
    def campaign(self) -> Campaign | None:
        """The machine; None until the bucket has been read, and after `stop`."""
        return self._driver.campaign if self._driver is not None else None

    @property
    def state(self) -> State:
        """Unknown, candidate or leader; leader also before the record may be acted on."""
        return self._driver.state if self._driver is not None else State.UNKNOWN

    @property
    def is_leader(self) -> bool:
        """Whether this member may act as the leader at this very moment."""
        return not self._stopping and self._driver is not None and self._driver.leads

    @property
    def token(self) -> int | None:
        """The fencing token of our term; None while we do not lead. It grows from term to term."""
        lease = self._driver.lease if self._driver is not None else None
        return lease.record.term if lease is not None and self.is_leader else None

    @property
    def deadline(self) -> float | None:
        """When our leadership ends unless it is renewed, in seconds of `incumbent.clock.now`."""
        lease = self._driver.lease if self._driver is not None else None
        return lease.deadline if lease is not None and self.is_leader else None

    @property
    def remaining(self) -> float:
        """Seconds to the deadline; 0 while we do not lead."""
        deadline = self.deadline
        return 0.0 if deadline is None else max(0.0, deadline - clock.now())

    @property
    def leader(self) -> str | None:
        """The identity that holds the key, as last seen; None: nobody."""
        record = self._driver.record if self._driver is not None else None
        return record.holder if record is not None else None

    @property
    def campaigns(self) -> Counter[State]:
        """How many writes were tried so far, by the state before."""
        return self._driver.attempts if self._driver is not None else Counter()

    @property
    def interval(self) -> float | None:
        """Seconds between renewals; None until the bucket has been read, and after `stop`."""
        return self.campaign.timing.interval if self.campaign is not None else None

    # Beginning and end

    async def start(self) -> None:
        """Connect, read the bucket's settings, and begin to campaign.

        Waits for as long as NATS or the bucket is away (`problem` says so).

        Raises:
            RuntimeError: it was started before.
            ConfigurationError: the TTL breaks a limit, or the interval does not fit it.
            StoppedError: `stop` was called meanwhile.
        """
        if self._started:
            msg = "this election was started before; make a new one"
            raise RuntimeError(msg)
        self._started = True
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End leadership, announce that, release the key, and end everything.

        May be called in any state, and again. Bounded: callbacks that are not done at the deadline
        (or after 1 s, if that is later) are cancelled, and if NATS does not answer the record
        lapses. Called by a callback it returns at once, and all this begins when that has returned.
        """
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop(), name=f"end of {self.key}")
            self._changed.set()
        if asyncio.current_task() is not self._calling:
            # A caller that is cancelled while it waits does not cancel the release.
            await asyncio.shield(self._stopped)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    async def won(self) -> int:
        """Wait until this member leads; return the token.

        Raises:
            StoppedError: the election was stopped.
        """
        while (token := self.token) is None:
            self._check_running()
            await self._wait()
        return token

    async def lost(self) -> None:
        """Wait until this member does not lead; return at once if it does not."""
        while self.is_leader:
            await self._wait()

    async def changed(self) -> None:
        """Wait until anything has changed, also the deadline."""
        await self._wait()

    def __aiter__(self) -> AsyncIterator[ElectionEvent]:
        """Return an iterator over what happens from now on, until the election is stopped.

        A reader that falls more than 256 events behind loses the oldest.
        """
        reader = _Reader(closed=self._stopping)
        self._readers.add(reader)
        return reader

    # Inside

    async def _start(self) -> None:
        self._check_running()
        if isinstance(self._nats, NatsConnection):
            self._connection = self._nats
        else:
            self._connection = NatsConnection(self._nats)
            await self._connection.start()
        self._store = self._connection.bucket(self.bucket)
        self._driver = Driver(
            Member(self._replica),
            self._store,
            self.key,
            happened=self._happened,
            trying=self._trying,
        )
        self._end = [self._store.listen(self._configure), self._driver.end]
        self._configure()
        while self._driver.campaign is None:
            if isinstance(self.problem, ConfigurationError):
                raise self.problem
            await self._wait()
            self._check_running()
        self._tasks = [
            asyncio.create_task(self._call(), name=f"callbacks of {self.key}"),
            asyncio.create_task(self._driver.run(), name=f"campaign for {self.key}"),
        ]

    def _check_running(self) -> None:
        if self._stopping:
            msg = "the election was stopped"
            raise StoppedError(msg)

    async def _stop(self) -> None:
        try:
            if self._driver is not None and self._tasks:
                await self._resign(self._driver)
        finally:
            for end in self._end:
                end()
            if self._calling is not None:
                self._tasks.append(self._calling)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._connection is not None and self._connection is not self._nats:
                await self._connection.aclose()
            for reader in tuple(self._readers):
                reader.close()
            self._changed.set()

    def _configure(self) -> None:
        """Bring the campaign in line with the bucket, which may change while it runs."""
        store, driver = self._store, self._driver
        if store is None or driver is None or self._stopping:
            return
        self.problem = store.problem or store.denied.get(self.key)
        # 1. Observe the settings of the bucket, and judge whether we can campaign in it.
        info, now = store.settings, clock.now()
        recreated = self._settings.observe(info, now)
        timing = self._timing(info) if info is not None else None
        if driver.campaign is not None:
            # 2. Go on with other settings, or without any: then give the key up.
            if timing is not None:
                driver.adjust(timing)
            if recreated:
                driver.forget()
            stands = timing is not None and not self._waits(now)
            driver.nominate(Nominee(self.identity) if stands else None)
            if timing is None and info is not None:
                self._tasks.append(asyncio.create_task(self._resign(driver)))
        elif timing is not None:
            # 3. Or begin.
            driver.begin(timing)
            driver.nominate(Nominee(self.identity))
        self._changed.set()

    def _waits(self, now: float) -> bool:
        """Whether a lower TTL keeps us from leading; then `problem` says so.

        A leader that cannot reach NATS counts on the TTL with which it wrote its record.
        """
        info, driver, left = self._settings.info, self._driver, self._settings.unsettled_for(now)
        if info is None or left <= 0 or driver is None or driver.lease is not None:
            return False
        self.problem = self.problem or BucketInvalid(unsettled_reason(info))
        asyncio.get_running_loop().call_later(left, self._configure)
        return True

    def _timing(self, info: BucketInfo) -> Timing | None:
        """Return the durations of our campaign; None: there can be none, and `problem` says why."""
        if reason := unfit_reason(info):
            self.problem = BucketInvalid(reason)
            return None
        try:
            return self._spec.timing(info.ttl)
        except ConfigurationError as error:
            self.problem = error
            return None

    def _trying(self, state: State) -> None:
        if self._on_campaign is not None:
            self._callbacks.put_nowait(functools.partial(self._on_campaign, state))

    def _happened(self, news: list[CampaignEvent]) -> None:
        """Tell everybody what the campaign reports."""
        for event in news:
            match event:
                case Won(record):
                    log.info("election.won", key=self.key, token=record.term)
                    self._tell(event, self._on_won)
                case Lost(record, loss):
                    log.info("election.lost", key=self.key, token=record.term, loss=loss.value)
                    self._tell(event, self._on_lost)
                case Relieved():  # only replicas of a site are
                    continue
        if self.leader != self._holder:
            self._holder = self.leader
            self._tell(HolderChanged(self._holder), None)
        self._changed.set()

    def _tell(self, event: ElectionEvent, callback: Callback | None) -> None:
        for reader in tuple(self._readers):
            reader.put(event)
        if callback is not None:
            self._callbacks.put_nowait(callback)

    async def _wait(self) -> None:
        """Wait until something has changed."""
        self._changed.clear()
        await self._changed.wait()

    async def _call(self) -> None:
        """Call the callbacks, one after the other, for as long as the election runs."""
        while True:
            callback = await self._callbacks.get()
            # A task, so that one that takes too long can be cancelled, and the next one called.
            self._calling = asyncio.create_task(self._call_one(callback))
            await asyncio.wait({self._calling})
            self._callbacks.task_done()

    async def _call_one(self, callback: Callback) -> None:
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except Exception:  # a callback that fails does not end the election
            log.exception("election.callback_failed", key=self.key)

    async def _called(self, *, within: float) -> None:
        """Wait until all callbacks have returned; cancel the one that has not by then."""
        for patience in (max(LAST_WORDS, within), LAST_WORDS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._callbacks.join()
                return
            if self._calling is not None:
                self._calling.cancel()

    async def _resign(self, driver: Driver) -> None:
        """Announce the loss, let the callbacks end, and only then release the key."""
        driver.nominate(None)
        deadline = driver.lease.deadline if driver.lease is not None else 0.0
        await driver.release(first=lambda: self._called(within=deadline - clock.now()))
        await self._called(within=0)  # of a loss that was found out before


class _Reader(AsyncIterator[ElectionEvent]):
    """The events that one reader has not read yet."""

    def __init__(self, *, closed: bool) -> None:
        self._events: deque[ElectionEvent] = deque(maxlen=KEPT_EVENTS)
        self._news = asyncio.Event()
        self._closed = closed

    def put(self, event: ElectionEvent) -> None:
        self._events.append(event)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def __anext__(self) -> ElectionEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()
