"""Calls that may block on a file system."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from services.contract.task_error import TaskError

P = ParamSpec("P")
R = TypeVar("R")

_ANSWER_SECONDS = 300.0


async def beside_loop(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do short work in a thread of its own. Raises TaskError (output_unavailable), retryable, if it takes minutes."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS) as limit:
            return await in_own_thread(work, *args, **kwargs)
    except TimeoutError:
        if not limit.expired():
            raise
        message = f"the worker's file system has not answered for {_ANSWER_SECONDS:g} seconds"
        raise TaskError("output_unavailable", message) from None


async def in_own_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Like asyncio.to_thread, but a call that never returns costs only its thread.

    It takes no thread of the pool that all others share, and does not keep the process from ending. The call of a
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

    threading.Thread(target=run, name=getattr(work, "__qualname__", None), daemon=True).start()
    return await done
