"""An open job with a future for each of its items: one thread appends what is put in, another follows the values."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from piecework.calls.errors import CallFailed, error_of
from piecework.calls.values import WAIT_SECONDS, value_of
from piecework.errors import ApiError, InputError, PieceworkError, ServerError, TransportError
from piecework.shapes import Value, Values

if TYPE_CHECKING:
    from piecework.client import Client

T = TypeVar("T")

CHUNK_ITEMS = 2_000
CHUNK_BYTES = 524_288  # half of what a request may have, unless the operator allows more
GATHER_SECONDS = 0.002  # for which a call waits for others that go with it
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 5.0  # before a request that failed is made again
IDLE_SECONDS = 3_600.0  # an open job fails if nothing is appended for so long
READERS = 8  # of values that are objects


@dataclass(slots=True)
class _Call:
    """An item on its way, and its future."""

    item: Any
    bytes: int
    future: "Future[Any]"


def encoded_bytes(item: Any) -> int:
    """The size of an item. Raises InputError if it can't be written as JSON, or is larger than a request."""
    try:
        size = len(json.dumps(item, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"an item must be a JSON value, or ship='pickle': {error}") from error
    if size > CHUNK_BYTES:
        raise InputError(
            f"an item has {size:,} bytes of JSON, more than {CHUNK_BYTES:,}: upload large data (client.upload), "
            "and give the function its URI"
        )
    return size


class OpenJob:
    """Calls of one processor. `decode` makes a call's result of the value that its task has left."""

    def __init__(
        self, client: "Client", spec: Mapping[str, Any], decode: Callable[[Any], Any] = lambda value: value
    ) -> None:
        self._client = client
        self._decode = decode
        self.job_id = client.submit_job(spec)["job_id"]
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        self._futures: dict[int, Future[Any]] = {}
        self._failure: PieceworkError | None = None
        self._closed = False
        self._readers: ThreadPoolExecutor | None = None
        self._appender = threading.Thread(target=self._append, name=f"appends {self.job_id}", daemon=True)
        self._follower = threading.Thread(target=self._follow, name=f"follows {self.job_id}", daemon=True)
        self._appender.start()
        self._follower.start()

    def put(self, item: Any) -> "Future[Any]":
        """Raises InputError; RuntimeError once the job is closed."""
        if self._closed:
            raise RuntimeError("can't call anything more: the executor was shut down")
        call = _Call(item, encoded_bytes(item), Future())
        self._waiting.put(call)
        return call.future

    def close(self) -> None:
        """No more calls come. The job ends with those that are there, whether or not somebody waits for it."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)

    def join(self) -> None:
        """Wait until all calls have ended."""
        self._appender.join()
        self._follower.join()

    def flush(self) -> None:
        """Wait until all calls have been sent, and the job is closed: it then goes on without this program."""
        self._appender.join()

    def cancel(self) -> None:
        """End all calls that have not ended."""
        self.close()
        try:
            self._client.cancel_job(self.job_id)
        except ApiError as error:
            if error.status != 409:  # else it has ended
                raise

    # The thread that appends.

    def _append(self) -> None:
        chunk = index = 0
        try:
            for calls in self._chunks():
                begun = [call for call in calls if call.future.set_running_or_notify_cancel()]
                for call in begun:
                    self._futures[index] = call.future
                    index += 1
                if begun or not calls:
                    items = [call.item for call in begun]
                    _patiently(self._client.append_items, self.job_id, chunk, items)
                    chunk += 1
            _patiently(self._client.close_job, self.job_id)
        except PieceworkError as error:
            self._fail(error)
        if self._failure is not None:  # of the other thread, maybe while the last calls were sent
            self._fail(self._failure)
        self._fail_waiting()

    def _chunks(self) -> Iterator[list[_Call]]:
        """Calls that go together, until the job is closed; none if nobody has called for a while."""
        closing = False
        while not closing and self._failure is None:
            calls: list[_Call] = []
            size, until = 0, None
            while len(calls) < CHUNK_ITEMS and size < CHUNK_BYTES // 2:
                pause = IDLE_SECONDS / 4 if until is None else max(0.0, until - time.monotonic())
                try:
                    call = self._waiting.get(timeout=pause)
                except Empty:
                    break
                if call is None:
                    closing = True
                    break
                calls.append(call)
                size += call.bytes
                until = until or time.monotonic() + GATHER_SECONDS
            if calls or not closing:
                yield calls

    def _fail_waiting(self) -> None:
        """What was put in since, of a job that takes no more."""
        while True:
            try:
                call = self._waiting.get_nowait()
            except Empty:
                return
            if call is not None and call.future.set_running_or_notify_cancel():
                call.future.set_exception(self._failure or CancelledError())

    # The thread that follows.

    def _follow(self) -> None:
        follow = partial(self._client.follow_values, self.job_id)
        after: str | None = None
        try:
            while True:
                page: Values = _patiently(follow, after=after, wait=WAIT_SECONDS)
                for value in page["values"]:
                    future = self._futures.pop(value["index"], None)
                    if future is not None:
                        self._settle(future, value)
                after = page["after"]
                if page["ended"]:
                    self._fail(self._end())
                    break
        except PieceworkError as error:
            self._fail(error)
        if self._readers is not None:
            self._readers.shutdown()

    def _settle(self, future: "Future[Any]", value: Value) -> None:
        if value["state"] != "succeeded":
            future.set_exception(error_of(value, self.job_id, 0))
        elif value["url"] is None:
            self._resolve(future, value["value"])
        else:
            self._readers = self._readers or ThreadPoolExecutor(READERS, "piecework reads values")
            self._readers.submit(self._read, future, value)

    def _read(self, future: "Future[Any]", value: Value) -> None:
        try:
            found = value_of(self._client, value)
        except (PieceworkError, ValueError) as error:
            future.set_exception(error)
        else:
            self._resolve(future, found)

    def _resolve(self, future: "Future[Any]", value: Any) -> None:
        try:
            result = self._decode(value)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _end(self) -> PieceworkError:
        """What calls raise that have not ended though the job has."""
        job = self._client.get_job(self.job_id)
        error = job["error"] or {"type": job["state"], "message": f"the job was {job['state']}"}
        return CallFailed(error["type"], f"job {self.job_id}: {error['message']}")

    def _fail(self, error: PieceworkError) -> None:
        """All that has not ended fails with this, and so does what is put in."""
        self._failure = error
        self._closed = True
        self._waiting.put(None)
        while self._futures:
            _, future = self._futures.popitem()
            future.set_exception(error)


def _patiently(request: Callable[..., T], *args: Any, **named: Any) -> T:
    """The answer to a request that is safe to repeat, however long the API is away or the job is full."""
    pause = PAUSE_SECONDS
    while True:
        try:
            return with_room(request, *args, **named)
        except (TransportError, ServerError):
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)


def with_room(request: Callable[..., T], *args: Any, **named: Any) -> T:
    """The answer to a request, once the job has room for more tasks."""
    while True:
        try:
            return request(*args, **named)
        except ApiError as error:
            if error.status != 429:
                raise
            time.sleep(PAUSE_SECONDS)


def chunks_of(items: Iterable[Any], items_max: int = CHUNK_ITEMS) -> Iterator[list[Any]]:
    """Items that go together. One that is too large for others goes alone."""
    chunk: list[Any] = []
    size = 0
    for item in items:
        more = len(json.dumps(item))
        if chunk and (len(chunk) == items_max or size + more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += more
    if chunk:
        yield chunk


def append_all(client: "Client", job_id: str, items: Iterable[Any]) -> None:
    """Append all items of an iterable, and close the job. Raises InputError and the errors of the API."""
    for number, chunk in enumerate(chunks_of(map(_checked, items))):
        _patiently(client.append_items, job_id, number, chunk)
    _patiently(client.close_job, job_id)


def _checked(item: Any) -> Any:
    encoded_bytes(item)
    return item
