"""Slots: one piece of work for each key at a time, and each end frees its own place alone."""

import asyncio

from structlog.testing import capture_logs

from services.scheduler.slots import Slots


class Work:
    """Pieces of work that go on until `over`."""

    def __init__(self) -> None:
        self.begun = 0
        self.over = asyncio.Event()

    async def piece(self) -> None:
        self.begun += 1
        await self.over.wait()


async def test_a_key_that_runs_is_not_started_again() -> None:
    slots, work = Slots[str](), Work()
    first = slots.start("a", work.piece())
    assert slots.start("a", work.piece()) is first
    await slots.advance({"a": work.piece(), "b": work.piece()})
    assert (work.begun, sorted(slots.keys), slots.free(4)) == (2, ["a", "b"], 2)
    work.over.set()
    await slots.settle()
    assert (slots.keys, slots.free(4)) == ([], 4)


async def test_a_key_is_free_as_soon_as_its_work_ends_and_that_end_leaves_the_next_alone() -> None:
    slots, work, again = Slots[str](), Work(), Work()

    async def start_again() -> bool:
        await work.over.wait()  # woken right behind the piece, before the slots hear of its end
        slots.start("a", again.piece())
        return first.done()

    first = slots.start("a", work.piece())
    starting = asyncio.create_task(start_again())
    await asyncio.sleep(0)
    work.over.set()
    assert await starting
    await asyncio.sleep(0)
    assert (slots.keys, again.begun) == (["a"], 1)
    again.over.set()
    await slots.settle()
    assert slots.keys == []


async def test_work_that_breaks_off_is_told_once_under_its_key() -> None:
    async def fail() -> None:
        raise ValueError("no")

    slots = Slots[str]()
    with capture_logs() as logs:
        await asyncio.wait([slots.start("a", fail()), slots.start("b", asyncio.sleep(0))])
        await asyncio.sleep(0)
    assert [(line["event"], line["work"]) for line in logs] == [("work broke off", "a")]
    assert slots.keys == []
