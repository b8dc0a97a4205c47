"""A loop's pace: soon again while there is work, woken early, ever slower while it fails."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import aiohttp
import asyncpg
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from services.inputs.chunk import SplitError
from services.scheduler import loop as loop_module
from services.scheduler.loop import Loop, passes, wake_resting
from services.scheduler.quiet import Quiet

GRID: Any = None
NEVER = 3600.0


class Script:
    """A step that answers, or raises, as written; after the last answer it sets `over`."""

    def __init__(self, *answers: float | Exception) -> None:
        self._answers: Iterator[float | Exception] = iter(answers)
        self.times: list[float] = []
        self.begun, self.over = asyncio.Event(), asyncio.Event()
        self.left = len(answers)

    @property
    def pauses(self) -> list[float]:
        """Seconds from each step to the next; uvloop's timers may be two milliseconds early (libuv's `uv_now`)."""
        return [b - a + 0.002 for a, b in pairwise(self.times)]

    async def step(self, grid: Any) -> bool | float:
        await asyncio.sleep(0)
        self.times.append(asyncio.get_running_loop().time())
        self.begun.set()
        self.left -= 1
        if not self.left:
            self.over.set()
        answer = next(self._answers, False)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def play(script: Script, loop: Loop, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run the loop until the script is over."""
    running = asyncio.create_task(loop.run(GRID))
    if meanwhile is not None:
        await meanwhile()
    await asyncio.wait_for(script.over.wait(), 10)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_a_loop_whose_look_costs_much_rests_though_it_is_woken() -> None:
    script = Script(0.2, 0.01, True)
    loop = Loop("test", script.step, busy_seconds=0.05, idle_seconds=NEVER)

    async def wake() -> None:
        await script.begun.wait()
        loop.wake.set()

    await play(script, loop, wake)

    rest, pause = script.pauses
    assert rest >= 0.2
    assert 0.05 <= pause < 0.2


async def test_a_busy_loop_repeats_at_once_and_an_idle_one_waits() -> None:
    script = Script(True, True, True, False, True)
    loop = Loop("test", script.step, busy_seconds=0.0, idle_seconds=0.05)

    await play(script, loop)

    assert max(script.pauses[:3]) < 0.05 <= script.pauses[3]


async def test_an_idle_loop_is_woken_for_one_step() -> None:
    script = Script(False, False, False)
    loop = Loop("test", script.step, busy_seconds=0.0, idle_seconds=0.3)

    async def wake() -> None:
        await script.begun.wait()
        await asyncio.sleep(0)
        loop.wake.set()

    await play(script, loop, wake)

    first, second = script.pauses
    assert first < 0.3 <= second


async def test_a_wake_during_the_step_is_not_lost() -> None:
    script = Script(False, False)

    async def step(grid: Any) -> bool:
        loop.wake.set()  # while this very step looked, something came up behind it
        return await script.step(grid)

    loop = Loop("test", step, busy_seconds=0.0, idle_seconds=NEVER)

    await play(script, loop)


async def test_a_loop_that_is_woken_all_the_time_looks_for_half_of_it_at_most() -> None:
    script = Script(False, False, False, False)
    loop: Loop

    async def step(grid: Any) -> bool | float:
        answer = await script.step(grid)
        await asyncio.sleep(0.005)
        loop.wake.set()
        return answer

    loop = Loop("test", step, busy_seconds=0.0, idle_seconds=NEVER)

    await play(script, loop)

    assert min(script.pauses) >= 0.01


async def test_a_loop_rests_while_the_grid_is_quiet_until_that_ends() -> None:
    script, quiet = Script(False, False), Quiet()
    loop = Loop("test", script.step, busy_seconds=0.0, idle_seconds=0.0, rests=True)
    quiet.wake = partial(wake_resting, [loop])
    quiet.is_heard = True
    quiet.begin(0.0)

    running = asyncio.create_task(loop.run(SimpleNamespace(quiet=quiet)))  # type: ignore[arg-type]
    await script.begun.wait()
    await asyncio.sleep(0.05)
    assert len(script.times) == 1
    quiet.end()

    await asyncio.wait_for(script.over.wait(), 10)
    running.cancel()
    await asyncio.wait({running})


def test_who_hears_no_notifications_has_no_quiet() -> None:
    quiet = Quiet()
    quiet.begin(0.0)
    assert not quiet.is_on
    quiet.is_heard = True
    assert quiet.is_on


@pytest.mark.parametrize("busy_seconds", [0.0, 0.1])
async def test_a_failing_loop_slows_down_and_recovers(busy_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "BACKOFF_SECONDS_FIRST", 0.01)
    monkeypatch.setattr(loop_module, "BACKOFF_SECONDS_MAX", 0.05)
    script = Script(*[OSError("down")] * 5, False, True)
    loop = Loop("test", script.step, busy_seconds, idle_seconds=0.0)

    await play(script, loop)

    assert all(pause >= least for pause, least in zip(script.pauses, [0.02, 0.04, 0.05, 0.05, 0.05], strict=False))


async def test_no_error_and_no_length_of_an_outage_ends_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "BACKOFF_SECONDS_MAX", 0.0)
    errors = [KeyError(), ZeroDivisionError(), TimeoutError(), asyncpg.InterfaceError(""), *[OSError("down")] * 1200]
    script = Script(*errors, True)

    await play(script, Loop("test", script.step, 0.0, 0.0))


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        OSError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.ReadOnlySQLTransactionError(),  # the old primary, after a failover
        asyncpg.DeadlockDetectedError(),
        EndpointConnectionError(endpoint_url=""),
        aiohttp.ClientPayloadError(),
        *map(client_error, ["SlowDown", "InternalError", "503", "RequestTimeout", "ExpiredToken", "NoSuchUpload"]),
    ],
    ids=repr,
)
def test_what_passes_is_tried_again(error: Exception) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [
        SplitError(""),
        KeyError(),
        ValueError(),
        ParamValidationError(report=""),
        asyncpg.UntranslatableCharacterError(),
        *map(client_error, ["NoSuchKey", "NoSuchBucket", "404", "AccessDenied", "403", "412", "InvalidRange"]),
    ],
    ids=repr,
)
def test_what_does_not_pass_is_final(error: Exception) -> None:
    assert not passes(error)
