"""A call that blocks holds up nobody but its caller, and that one not forever."""

import asyncio
import threading

import pytest

from services.contract.task_error import TaskError
from services.platform import threads
from services.platform.threads import beside_loop


async def test_a_file_system_that_does_not_answer_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_ANSWER_SECONDS", 0.01)
    answer = threading.Event()
    with pytest.raises(TaskError, match=r"has not answered for 0\.01 seconds") as failed:
        await beside_loop(answer.wait)
    answer.set()
    assert (failed.value.type, failed.value.retryable) == ("node_unfit", True)
    assert await asyncio.to_thread(lambda: True)


async def test_results_and_errors_arrive() -> None:
    assert await beside_loop(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await beside_loop(divmod, 7, 0)


async def test_a_cancelled_caller_does_not_wait() -> None:
    end = threading.Event()
    waiting = asyncio.create_task(beside_loop(end.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    end.set()
