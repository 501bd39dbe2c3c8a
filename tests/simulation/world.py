"""Virtual time, the processes that live in it, and what went wrong."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

_TICK = 1e-9
"""Added to every timer, so that rounding never rings it a moment too early, again and again."""


class Violation(Exception):
    """A promise was broken."""


class World:
    """Virtual seconds, an agenda, and a timeline that is kept only when somebody will read it."""

    __slots__ = ("_agenda", "_count", "faults", "now", "random", "timeline")

    def __init__(self, seed: int, *, timeline: bool) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.faults = 0
        self.timeline: list[str] | None = [] if timeline else None
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        """Call the action at that time, or now if that has passed; in order for equal times."""
        self._count += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._count, action, arguments))

    def run(self, until: float) -> None:
        """Let time pass."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(agenda)
            action(*arguments)
        self.now = until

    def chance(self, probability: float) -> bool:
        """Throw the dice."""
        return self.random.random() < probability

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return low + (high - low) * self.random.random()

    def note(self, who: str, what: str, *values: object) -> None:
        """Write a line of the timeline; `what` is a format with a %s for each value."""
        if self.timeline is not None:
            self.timeline.append(f"{self.now:9.3f}  {who:<16} {what % values}")


class Process:
    """One process: alive or not, paused or not, with a clock of its own.

    A paused process runs nothing. What the network brings and the timers that ring are kept for
    it, and come at once when it goes on, in the one order or the other.
    """

    __slots__ = (
        "_mail",
        "_offset",
        "_rung",
        "alive",
        "name",
        "paused",
        "paused_at",
        "rate",
        "world",
    )

    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        """Seconds on its clock for each second of the world."""
        self.alive = True
        self.paused = False
        self.paused_at = -1.0
        """When it was paused last."""
        self._offset = 1000.0 * world.random.random()
        self._mail: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._rung: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def clock(self) -> float:
        """Return what its clock shows."""
        return self._offset + self.world.now * self.rate

    def world_time(self, clock: float) -> float:
        """Return when its clock will show that."""
        return (clock - self._offset) / self.rate + _TICK

    def receive(self, action: Callable[..., None], *arguments: object) -> None:
        """Take in something that the network brings."""
        if not self.alive:
            return
        if self.paused:
            self._mail.append((action, arguments))
        else:
            action(*arguments)

    def ring_at(self, clock: float, action: Callable[..., None], *arguments: object) -> None:
        """Set a timer. There is no way to unset it: the action looks whether it still matters."""
        self.world.at(self.world_time(clock), self._ring, action, *arguments)

    def pause(self) -> None:
        """Stop the process as SIGSTOP does."""
        self.paused, self.paused_at = True, self.world.now
        self.world.note(self.name, "paused")

    def resume(self) -> None:
        """Let it go on."""
        if not self.alive or not self.paused:
            return
        self.paused = False
        self.world.note(self.name, "goes on")
        batches = [self._mail, self._rung]
        self._mail, self._rung = [], []
        if self.world.chance(0.5):
            batches.reverse()
        for batch in batches:
            for action, arguments in batch:
                if self.alive:
                    action(*arguments)

    def kill(self) -> None:
        """End it as SIGKILL does."""
        self.alive = False
        self.world.note(self.name, "killed")

    def _ring(self, action: Callable[..., None], *arguments: object) -> None:
        if not self.alive:
            return
        if self.paused:
            self._rung.append((action, arguments))
        else:
            action(*arguments)
