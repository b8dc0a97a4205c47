"""Calls that may block on a file system."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from services.contract.task_error import TaskError

P = ParamSpec("P")
R = TypeVar("R")

_ANSWER_SECONDS = 300.0
_IDLE_MAX = 32

# Threads that wait for their next call. A start costs the loop up to 5 ms beside a busy thread, a handover does not.
_idle: list[SimpleQueue[Callable[[], None]]] = []


async def beside_loop(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do short work in a thread of its own. Raises TaskError (node_unfit) if it takes minutes."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS) as limit:
            return await in_own_thread(work, *args, **kwargs)
    except TimeoutError:
        if not limit.expired():
            raise
        message = f"its file system has not answered for {_ANSWER_SECONDS:g} seconds"
        raise TaskError("node_unfit", message) from None


async def in_own_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Like asyncio.to_thread, but a call that never returns costs only its thread.

    Whoever calls gets a thread at once, however many are stuck, and none keeps the process from ending. The call of a
    cancelled caller runs on, and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()
    context = copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = context.run(work, *args, **kwargs)
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        threading.Thread(target=_serve, args=(calls,), name="own", daemon=True).start()
    calls.put(run)
    return await done


async def in_thread_or_undone(make: Callable[[], R], undo: Callable[[R], object]) -> R:
    """Make something in a thread. If the caller is cancelled meanwhile, it is undone before the caller goes on."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.wait({making})
        if not making.exception():
            await asyncio.to_thread(undo, making.result())
        raise


def _serve(calls: SimpleQueue[Callable[[], None]]) -> None:
    """One call after the other; a call that does not return keeps its thread from all others."""
    while True:
        calls.get()()
        if len(_idle) >= _IDLE_MAX:
            return
        _idle.append(calls)
