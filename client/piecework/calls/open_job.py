"""An open job with a future for each of its items: one thread writes (appends, cancels, closes), another follows."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from piecework.calls.errors import CallFailed, error_of
from piecework.calls.values import PAUSE_SECONDS, PAUSE_SECONDS_MAX, value_of, values_of
from piecework.errors import ApiError, InputError, PieceworkError, ServerError, TransportError
from piecework.shapes import Value

if TYPE_CHECKING:
    from piecework.client import Client

T = TypeVar("T")

CHUNK_ITEMS = 2_000
CANCELLED_ITEMS = 1_000  # in one request
CHUNK_BYTES = 524_288  # half of what a request may have, unless the operator allows more
GATHER_SECONDS = 0.002  # for which a call waits for others that go with it
IDLE_SECONDS = 3_600.0  # an open job fails if nothing is appended for so long
READERS = 8  # of values that are objects


class Call(Future[Any]):
    """The future of an item. It is pending until the grid tells how its task has ended, and can be cancelled till then:
    a task that waits then never runs, one that runs is killed."""

    def __init__(self, job: "OpenJob", item: Any, bytes: int) -> None:
        super().__init__()
        self.item, self.bytes = item, bytes
        self.index: int | None = None  # once it is sent
        self._job = job

    def cancel(self) -> bool:
        """True if the call is cancelled, as it then counts at once; the grid is told soon after."""
        cancelled = super().cancel()
        if cancelled:
            self._job.dismiss(self)
        return cancelled


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
        self._lock = threading.Lock()  # of the calls' indexes
        self._waiting: SimpleQueue[Call | None] = SimpleQueue()  # None: look again at what else there is to do
        self._calls: dict[int, Call] = {}  # that were sent and have not ended, by index
        self._dismissed: deque[int] = deque()  # that were sent and then cancelled
        self._sent = 0
        self._failure: PieceworkError | CancelledError | None = None
        self._closed = self._cancelled = self._ended = False
        self._is_closed = threading.Event()  # there
        self._readers: ThreadPoolExecutor | None = None
        self._writer = threading.Thread(target=self._write, name=f"writes {self.job_id}", daemon=True)
        self._follower = threading.Thread(target=self._follow, name=f"follows {self.job_id}", daemon=True)
        self._writer.start()
        self._follower.start()

    def put(self, item: Any) -> "Future[Any]":
        """Raises InputError; RuntimeError once the job is closed."""
        if self._closed:
            raise RuntimeError("can't call anything more: the executor was shut down")
        call = Call(self, item, encoded_bytes(item))
        self._waiting.put(call)
        return call

    def dismiss(self, call: Call) -> None:
        """Nobody waits for this call any more. One that was not sent yet never is."""
        with self._lock:
            sent = call.index is not None and self._calls.pop(call.index, None) is not None
        if sent and call.index is not None:
            call.set_running_or_notify_cancel()  # who waits for it hears of it
            self._dismissed.append(call.index)
            self._waiting.put(None)

    def close(self) -> None:
        """No more calls come. The job ends with those that are there, whether or not somebody waits for it."""
        self._closed = True
        self._waiting.put(None)

    def join(self) -> None:
        """Wait until all calls have ended."""
        self._writer.join()
        self._follower.join()

    def flush(self) -> None:
        """Wait until all calls have been sent, and the job is closed: it then goes on without this program."""
        self._is_closed.wait()

    def cancel(self) -> None:
        """End all calls that have not ended; they then count as cancelled."""
        self._cancelled = True
        self.close()
        try:
            self._client.cancel_job(self.job_id)
        except ApiError as error:
            if error.status != 409:  # else it has ended
                raise

    # The thread that writes.

    def _write(self) -> None:
        chunk = 0
        try:
            while self._failure is None and not (self._closed and self._waiting.empty()):
                calls = self._gather()
                items = self._number(calls or [])
                if items or calls is None:
                    _patiently(self._append, chunk, items)
                    self._sent += len(items)
                    chunk += 1
                self._cancel_dismissed()
            _patiently(self._client.close_job, self.job_id)
            self._is_closed.set()
            while not self._ended:
                self._waiting.get()
                self._cancel_dismissed()
        except PieceworkError as error:
            self._fail(error)
        if self._failure is not None:  # of the other thread, maybe while the last calls were sent
            self._fail(self._failure)
        self._fail_waiting()
        self._is_closed.set()

    def _gather(self) -> list[Call] | None:
        """Calls that go together, none if there is something else to do; None if nobody has called for a while."""
        calls: list[Call] = []
        size, until, pause = 0, 0.0, IDLE_SECONDS / 4
        while len(calls) < CHUNK_ITEMS and size < CHUNK_BYTES // 2:
            try:
                call = self._waiting.get(timeout=pause)
            except Empty:
                return calls or None
            if call is None:
                break
            calls.append(call)
            size += call.bytes
            until = until or time.monotonic() + GATHER_SECONDS
            pause = max(0.0, until - time.monotonic())
        return calls

    def _number(self, calls: list[Call]) -> list[Any]:
        """The items of those calls that were not cancelled: they have their indexes now."""
        items: list[Any] = []
        with self._lock:
            for call in calls:
                if call.cancelled():
                    call.set_running_or_notify_cancel()
                    continue
                call.index = self._sent + len(items)
                self._calls[call.index] = call
                items.append(call.item)
        return items

    def _append(self, chunk: int, items: list[Any]) -> None:
        """Raises the client's errors. A job that is full may have room once what was cancelled here is so there."""
        self._cancel_dismissed()
        self._client.append_items(self.job_id, chunk, items)

    def _cancel_dismissed(self) -> None:
        dismissed = [self._dismissed.popleft() for _ in range(len(self._dismissed))]
        self._dismissed.extend(index for index in dismissed if index >= self._sent)
        there = [index for index in dismissed if index < self._sent]
        for at in range(0, len(there), CANCELLED_ITEMS):
            _patiently(self._client.cancel_items, self.job_id, there[at : at + CANCELLED_ITEMS])

    def _fail_waiting(self) -> None:
        """What was put in since, of a job that takes no more."""
        while True:
            try:
                call = self._waiting.get_nowait()
            except Empty:
                return
            if call is not None:
                _end(call, self._failure or CancelledError())

    # The thread that follows.

    def _follow(self) -> None:
        try:
            for portion in values_of(self._client, self.job_id, is_known=True):
                for value in portion["values"]:
                    if call := self._calls.pop(value["index"], None):
                        self._settle(call, value)
            self._fail(self._why_ended())
        except PieceworkError as error:
            self._fail(error)
        self._ended = True
        self._waiting.put(None)
        if self._readers is not None:
            self._readers.shutdown()

    def _settle(self, call: Call, value: Value) -> None:
        if not call.set_running_or_notify_cancel():
            pass  # cancelled here just now
        elif value["state"] != "succeeded":
            call.set_exception(error_of(value, self.job_id, 0))
        elif value["url"] is None:
            self._resolve(call, value["value"])
        else:
            self._readers = self._readers or ThreadPoolExecutor(READERS, "piecework reads values")
            self._readers.submit(self._read, call, value)

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

    def _why_ended(self) -> PieceworkError | CancelledError:
        """What calls raise that have not ended though the job has."""
        job = self._client.get_job(self.job_id)
        if job["state"] == "cancelled" and self._cancelled:
            return CancelledError()
        error = job["error"] or {"type": job["state"], "message": f"the job was {job['state']}"}
        return CallFailed(error["type"], f"job {self.job_id}: {error['message']}")

    def _fail(self, error: PieceworkError | CancelledError) -> None:
        """All that has not ended fails with this, and so does what is put in."""
        self._failure = self._failure or error
        self._closed = True
        self._waiting.put(None)
        while self._calls:
            _end(self._calls.popitem()[1], self._failure)


def _end(call: Call, error: PieceworkError | CancelledError) -> None:
    """Let a call raise this, unless it was cancelled; whoever has taken it from its job does so, once."""
    if isinstance(error, CancelledError):
        Future.cancel(call)  # the grid need not be told
    if call.set_running_or_notify_cancel():
        call.set_exception(error)


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
            time.sleep(PAUSE_SECONDS if error.retry_after is None else error.retry_after)


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
