"""Calls by an executor, against a scripted grid: what goes over the wire, and what comes back."""

import asyncio
import concurrent.futures
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from piecework import AsyncExecutor, CallFailed, Client, Conflict, InputError, RemoteTraceback, TransportError, attach
from piecework.calls import open_job, values
from tests.unit.client.conftest import HANG_UP, Answer, Asked, Service, answer, lines, problem
from tests.until import until

JOB = "/v1/jobs/j0"


class Unlucky(Exception):
    """A class of the caller's own."""

    def __init__(self, number: int, *, reason: str) -> None:
        super().__init__(f"{number}: {reason}")


class ScriptedJob:
    """An open job, as the API shows it."""

    def __init__(self, grid: "ScriptedGrid", job_id: str) -> None:
        self.grid, self.path = grid, f"/v1/jobs/{job_id}"
        self.items: list[Any] = []
        self.chunks: list[list[Any]] = []
        self.closed = self.cancelled = False
        self.gone: list[int] = []  # items that were cancelled
        grid.service.on("POST", f"{self.path}/items", self.append)
        grid.service.on("POST", f"{self.path}/items/cancel", self.cancel_items)
        grid.service.on("POST", f"{self.path}/close", self.close)
        grid.service.on("POST", f"{self.path}/cancel", self.cancel)
        grid.service.on("GET", f"{self.path}/values", self.values)
        grid.service.on("GET", self.path, answer({"job_id": job_id, "state": "cancelled", "error": None}))

    def append(self, asked: Asked) -> Answer:
        if asked.body["chunk"] == len(self.chunks):
            self.chunks.append(asked.body["items"])
            self.items += asked.body["items"]
        return answer({"job_id": "j", "chunks": len(self.chunks), "items": len(self.items)})

    def cancel_items(self, asked: Asked) -> Answer:
        assert max(asked.body["items"]) < len(self.items)
        self.gone += asked.body["items"]
        return answer({"job_id": "j", "cancelled": asked.body["items"]})

    def close(self, _: Asked) -> Answer:
        self.closed = True
        return answer({})

    def cancel(self, _: Asked) -> Answer:
        self.cancelled = True
        return answer({})

    def values(self, asked: Asked) -> Answer:
        told = int(asked.query.get("after", ["0"])[0])
        ended = len(self.items) if self.grid.goes_on.is_set() else told
        values = [self.value(number) for number in range(told, ended)]
        if not values:
            time.sleep(0.001)
        over = self.cancelled or (self.closed and ended == len(self.items))
        read_to = {"after": str(ended), "ended": over}
        return lines(*(values[::-1] if self.grid.backwards else values), read_to)

    def value(self, number: int) -> dict[str, Any]:
        value = {"index": number, "state": "succeeded", "attempt": 1, "value": None, "url": None, "error": None}
        try:
            return value | {"value": self.grid.work(self.items[number])}
        except Exception as error:
            name = f"{type(error).__module__}:{type(error).__qualname__}"
            message = f"{type(error).__name__}: {error}"
            raised = {"class": name, "traceback": "Traceback: there"}
            told = {"type": "exception", "message": message, "raised": raised}
            return value | {"state": "failed", "error": told, "attempt": 3}


class ScriptedGrid:
    """Plays the API and the grid: an item's value is what `work` makes of it, or the error that it raises."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.work: Callable[[Any], Any] = lambda item: item * 2
        self.backwards = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.jobs: list[ScriptedJob] = []
        service.on("POST", "/v1/jobs", self.submit)

    @property
    def job(self) -> ScriptedJob:
        return self.jobs[0]

    def submit(self, _: Asked) -> Answer:
        job_id = f"j{len(self.jobs)}"
        self.jobs.append(ScriptedJob(self, job_id))
        return answer({"job_id": job_id}, 201)


@pytest.fixture
def grid(service: Service) -> ScriptedGrid:
    return ScriptedGrid(service)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_job, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(values, "PAUSE_SECONDS", 0.001)


def test_results_come_in_the_order_of_the_items(client: Client, grid: ScriptedGrid) -> None:
    grid.backwards = True
    with client.executor(name="doubles", retries=1, memory="1GB", labels={"a": "b"}) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert list(executor.map("double@1", range(10), currency="EUR")) == [n * 2 for n in range(10)]

    [submitted] = grid.service.requests("POST", "/v1/jobs")
    assert submitted.body == {
        "name": "doubles",
        "labels": {"a": "b"},
        "input": {"type": "stream", "idle_seconds": 3600.0},
        "stages": [
            {
                "processor": "double@1",
                "params": {"currency": "EUR"},
                "pool": "default",
                "retry": {"max_attempts": 2},
                "timeout_seconds": 3600.0,
                "memory": "1GB",
                "tolerated_failures": 10_000_000,
            }
        ],
    }


def test_items_are_taken_as_results_are(client: Client, grid: ScriptedGrid) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with client.executor(ahead=5) as executor:
        results = executor.map("double", endless())
        assert taken == [0, 1, 2, 3, 4]
        assert [next(results) for _ in range(3)] == [0, 2, 4]
        assert taken == [0, 1, 2, 3, 4, 5, 6, 7]
        results.close()
    assert grid.job.cancelled


def test_results_come_as_they_end_if_wanted(client: Client, grid: ScriptedGrid) -> None:
    grid.backwards = True
    grid.goes_on.clear()
    with client.executor() as executor:
        threading.Timer(0.05, grid.goes_on.set).start()
        ended = [(item, future.result()) for item, future in executor.map_unordered("double", range(3))]
    assert sorted(ended) == [(0, 0), (1, 2), (2, 4)]


def test_an_exception_comes_back_as_itself_with_where_it_was_raised(client: Client, grid: ScriptedGrid) -> None:
    def work(item: int) -> int:
        raise Unlucky(item, reason="odd") if item % 2 else ValueError("even")

    grid.work = work
    with client.executor() as executor:
        even, odd = executor.submit("f", 2), executor.submit("f", 3)
        with pytest.raises(Unlucky, match="3: odd") as raised:
            odd.result()
        assert isinstance(even.exception(), ValueError)

    error: Any = raised.value
    assert (error.job_id, error.index, error.attempts) == ("j0", 1, 3)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "Traceback: there" in str(error.__cause__)
    assert "piecework logs j0 0 1" in error.__notes__[0]


def test_an_exception_whose_class_is_not_here_is_a_failed_call(client: Client, grid: ScriptedGrid) -> None:
    class Elsewhere(Exception): ...

    Elsewhere.__module__ = "elsewhere"

    def work(item: int) -> int:
        raise Elsewhere("gone")

    grid.work = work
    with client.executor() as executor, pytest.raises(CallFailed, match="Elsewhere: gone") as raised:
        executor.submit("f", 1).result()
    assert raised.value.type == "exception"


def test_a_failed_item_ends_the_map_and_cancels_the_rest(client: Client, grid: ScriptedGrid) -> None:
    def work(item: int) -> int:
        return 6 // item

    grid.work = work
    with client.executor() as executor, pytest.raises(ZeroDivisionError):
        list(executor.map("f", [3, 0, 1]))
    assert grid.job.cancelled


def test_a_call_is_sent_again_until_the_grid_has_it(client: Client, grid: ScriptedGrid) -> None:
    job = ScriptedJob(grid, "j0")
    grid.service.on("POST", "/v1/jobs", answer({"job_id": "j0"}, 201))
    grid.service.on("POST", f"{JOB}/items", HANG_UP, problem(503), problem(429), *[HANG_UP] * 6, job.append)
    grid.service.on("GET", f"{JOB}/values", *[problem(503)] * 5, job.values)
    with client.executor() as executor:
        assert executor.submit("f", 4).result(10) == 8
    assert job.items == [4]


def test_a_job_that_is_gone_fails_its_calls(client: Client, grid: ScriptedGrid) -> None:
    ScriptedJob(grid, "j0").cancelled = True
    grid.service.on("POST", "/v1/jobs", answer({"job_id": "j0"}, 201))
    grid.service.on("POST", f"{JOB}/items", problem(409, "a job that is cancelling takes no more items"))
    with client.executor() as executor, pytest.raises((Conflict, CallFailed)):
        executor.submit("f", 4).result(10)


def test_calls_of_a_job_that_somebody_cancels_fail(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()
    with client.executor() as executor:
        future = executor.submit("f", 4)
        while not grid.job.items:
            time.sleep(0.001)
        grid.job.cancelled = True
        with pytest.raises(CallFailed, match="the job was cancelled"):
            future.result(10)


def test_a_call_that_is_cancelled_ends_here_at_once_and_on_the_grid(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()
    done: list[Any] = []
    with client.executor() as executor:
        futures = [executor.submit("f", number) for number in range(4)]
        futures[1].add_done_callback(done.append)
        while len(grid.job.items) < 4:
            time.sleep(0.001)
        assert [future.cancel() for future in futures[1:3]] == [True, True]
        assert futures[1].cancel()
        assert done == [futures[1]] and futures[1].cancelled()
        assert concurrent.futures.wait(futures[1:3], timeout=10).not_done == set()
        with pytest.raises(concurrent.futures.CancelledError):
            futures[2].result(10)
        while len(grid.job.gone) < 2:
            time.sleep(0.001)
        grid.goes_on.set()
        assert (futures[0].result(10), futures[3].result(10)) == (0, 6)
        assert not futures[3].cancel() and not futures[3].cancelled()
    assert sorted(grid.job.gone) == [1, 2]


def test_a_call_that_is_cancelled_before_it_is_sent_never_is(
    client: Client, grid: ScriptedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_job, "GATHER_SECONDS", 10.0)
    with client.executor() as executor:
        futures = [executor.submit("f", number) for number in range(3)]
        assert futures[0].cancel()
    assert (grid.job.items, grid.job.gone) == ([1, 2], [])
    assert [future.cancelled() for future in futures] == [True, False, False]


def test_cancelled_calls_make_room_in_a_job_that_is_full(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()
    with client.executor() as executor:
        first = executor.submit("f", 1)
        while not grid.job.items:
            time.sleep(0.001)
        append = grid.job.append
        grid.service.on(
            "POST",
            f"{JOB}/items",
            lambda asked: append(asked) if grid.job.gone else problem(429, "enough items", **{"Retry-After": "0"}),
        )
        second = executor.submit("f", 2)
        while len(grid.service.requests("POST", f"{JOB}/items")) < 2:
            time.sleep(0.001)
        assert first.cancel()
        grid.goes_on.set()
        assert second.result(10) == 4


def test_a_full_job_is_asked_again_when_it_said(
    client: Client, grid: ScriptedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    ScriptedJob(grid, "j0")
    grid.service.on("POST", "/v1/jobs", answer({"job_id": "j0"}, 201))
    refused = problem(429, "enough items", **{"Retry-After": "7"})
    grid.service.on("POST", f"{JOB}/items", *[refused] * 5, answer({}))
    client.executor().start_map("f", [1])
    assert slept == [7.0] * 5


def test_who_cancels_all_futures_finds_them_cancelled(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()
    executor = client.executor()
    future = executor.submit("f", 4)
    while not grid.job.items:
        time.sleep(0.001)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_an_error_in_the_block_cancels_what_has_not_ended(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()
    with pytest.raises(KeyboardInterrupt), client.executor() as executor:
        executor.submit("f", 4)
        raise KeyboardInterrupt
    assert grid.job.cancelled


def test_nothing_is_called_after_the_end(client: Client, grid: ScriptedGrid) -> None:
    with client.executor() as executor:
        executor.submit("f", 4)
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit("f", 5)


@pytest.mark.parametrize(
    ("function", "item", "message"),
    [
        ("f", object(), "must be a JSON value"),
        ("f", "x" * 600_000, "upload large data"),
        (lambda x: x, 1, "with `def`"),
    ],
)
def test_what_can_not_be_called(client: Client, grid: ScriptedGrid, function: Any, item: Any, message: str) -> None:
    with client.executor() as executor, pytest.raises(InputError, match=message):
        executor.submit(function, item)


def test_a_job_of_calls_is_started_and_read_later(client: Client, grid: ScriptedGrid) -> None:
    job = client.executor().start_map("double", iter(range(4_500)))
    assert [len(chunk) for chunk in grid.job.chunks] == [2_000, 2_000, 500]
    assert grid.job.closed
    found = attach(job.id, client)
    assert dict(found.results()) == {n: n * 2 for n in range(4_500)}
    assert list(attach(job.id, client).results(found.cursor)) == []


def test_values_that_break_off_are_read_on_from_where_they_were(client: Client, grid: ScriptedGrid) -> None:
    def value(index: int, content: Any) -> dict[str, Any]:
        return {"index": index, "state": "succeeded", "attempt": 1, "value": content, "url": None, "error": None}

    first = lines(value(0, "a\u2028b\x85"), {"after": "1", "ended": False}, value(1, "lost"), {"after": "2"})
    first.hang_up_after = len(first.content) - 40
    rest = lines(value(1, "c"), {"after": "2", "ended": True})
    grid.service.on("GET", f"{JOB}/values", first, HANG_UP, problem(503), lines(), rest)
    assert list(attach("j0", client).results()) == [(0, "a\u2028b\x85"), (1, "c")]
    asked = grid.service.requests("GET", f"{JOB}/values")
    assert {tuple(request.query.get("after", [])) for request in asked} == {(), ("1",)}
    assert {request.headers["accept"] for request in asked} == {"application/x-ndjson"}


def test_a_job_that_can_not_be_reached_is_not_waited_for(client: Client, grid: ScriptedGrid) -> None:
    grid.service.on("GET", f"{JOB}/values", HANG_UP)
    with pytest.raises(TransportError, match="can't reach"):
        next(attach("j0", client).results())


async def test_an_asyncio_program_awaits_its_calls(client: Client, grid: ScriptedGrid) -> None:
    async with AsyncExecutor(client, ahead=3) as executor:
        assert await (await executor.submit("double", 4)) == 8
        assert [result async for result in executor.map("double", [1, 2, 3, 4])] == [2, 4, 6, 8]
        ended = [(item, future.result()) async for item, future in executor.map_unordered("double", [1, 2, 3, 4])]
    assert sorted(ended) == [(1, 2), (2, 4), (3, 6), (4, 8)]


async def test_results_do_not_wait_for_items_that_come_slowly(client: Client, grid: ScriptedGrid) -> None:
    received: list[Any] = []
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            await go_on.wait()
            go_on.clear()

    async with AsyncExecutor(client) as executor:
        async for result in executor.map("f", slowly()):
            received.append(result)
            go_on.set()
        async for item, future in executor.map_unordered("f", slowly()):
            received.append((item, await future))
            go_on.set()
    assert received == [0, 2, 4, (0, 0), (1, 2), (2, 4)]


async def test_items_of_an_asyncio_program_are_taken_as_results_are(client: Client, grid: ScriptedGrid) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    async with AsyncExecutor(client, ahead=5) as executor:
        results = executor.map("double", endless())
        assert [await anext(results) for _ in range(3)] == [0, 2, 4]
        await asyncio.sleep(0)
        assert len(taken) <= 8
        await results.aclose()
        with pytest.raises(ValueError, match="no more"):
            async for _ in executor.map("double", broken()):
                pass
    assert grid.job.cancelled


def broken() -> Iterator[int]:
    yield 1
    raise ValueError("no more")


async def test_a_cancelled_program_cancels_its_calls(client: Client, grid: ScriptedGrid) -> None:
    grid.goes_on.clear()

    async def run() -> None:
        async with AsyncExecutor(client) as executor:
            async for _ in executor.map("double", [1]):
                pass

    running = asyncio.create_task(run())
    await until(lambda: grid.jobs and grid.job.items)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert grid.job.cancelled
