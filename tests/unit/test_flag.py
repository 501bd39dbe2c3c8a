"""An event that takes little memory."""

from __future__ import annotations

import asyncio
import sys

from incumbent.flag import Flag


async def test_all_who_wait_go_on_when_it_is_set():
    """Also if it is cleared at once, as with an event of asyncio."""
    flag = Flag()
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not flag.is_set()
    flag.set()
    flag.clear()
    await asyncio.gather(*waiting)
    assert not flag.is_set()


async def test_who_comes_while_it_is_set_does_not_wait():
    """Until it is cleared."""
    flag = Flag()
    flag.set()
    flag.set()
    assert flag.is_set()
    await flag.wait()
    flag.clear()
    late = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not late.done()
    late.cancel()


async def test_who_gives_up_leaves_nothing_behind():
    """Nor is anybody else woken by that."""
    flag = Flag()
    gone, stays = (asyncio.create_task(flag.wait()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    assert not stays.done()
    assert len(flag._waiting) == 1
    flag.set()
    await stays
    assert not flag._waiting


def test_it_is_small():
    """Which is the reason for it."""
    flag = Flag()
    assert sys.getsizeof(flag) + sys.getsizeof(flag._waiting) < 150


async def test_a_wait_with_a_limit_says_whether_it_was_set():
    """A limit that has passed is a short wait, not an endless one."""
    flag = Flag()
    assert not await flag.wait_within(-1.0)
    assert not flag._waiting
    asyncio.get_running_loop().call_soon(flag.set)
    assert await flag.wait_within(None)
    assert await flag.wait_within(0.0)
