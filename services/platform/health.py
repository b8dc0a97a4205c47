"""Whether this process is well: what its loops say of themselves, and the server that tells it.

The server has a thread of its own, so it answers within milliseconds whatever the event loop, the database or AWS do.
An outage of these is not a reason to restart a process, so it makes it unready, but not dead.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ParamSpec, TypeVar

import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.platform.auth import Unauthorized, require_bearer
from services.platform.metrics import LOOP_FAILURES, LOOP_SUCCEEDED_AT, STEP_SECONDS, expose
from services.platform.settings import Settings, refuse_to_start
from services.platform.systemd import Systemd
from services.platform.version import VERSION

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

BEAT_SECONDS = 1.0
EVENT_LOOP_SECONDS = 15.0  # an event loop that stands still for longer hangs
FAILURES_MAX = 2  # in a row: then it is not a passing fault of one statement
CONNECTIONS_MAX = 16  # at once
CONNECTION_SECONDS = 5.0
DATABASE_AWAITED = "the database, or its schema, is not there yet"


class Pulse:
    """One loop of the process. The event loop writes it, the thread that answers reads it."""

    def __init__(self, name: str, period_seconds: float | None = None) -> None:
        """`period_seconds` is the longest pause between two steps; None if it may pause for ever."""
        self.name = name
        self.period_seconds = period_seconds
        self._began_at: float | None = None
        self._turned_at = self._succeeded_at = time.monotonic()
        self._failures = 0
        self._error = ""
        self._passes = True

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step of the loop: it must end in time, however it ends."""
        self._began_at = began_at = time.monotonic()
        try:
            yield
        finally:
            self._turned_at, self._began_at = time.monotonic(), None
            STEP_SECONDS.labels(self.name).observe(self._turned_at - began_at)

    def succeeded(self) -> None:
        self._turned_at = self._succeeded_at = time.monotonic()
        self._failures = 0
        LOOP_SUCCEEDED_AT.labels(self.name).set_to_current_time()

    def failed(self, error: BaseException, *, passes: bool = True) -> None:
        """A try failed; `passes` if the cause is elsewhere, as with a database that is away."""
        self._turned_at = time.monotonic()
        self._failures += 1
        self._error, self._passes = f"{type(error).__name__}: {error}", passes
        LOOP_FAILURES.labels(self.name).inc()

    @property
    def step_seconds(self) -> float:
        """The age of the step that is under way; 0 between two."""
        began_at = self._began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def hangs(self, hung_seconds: float) -> str | None:
        """Why a restart would help; None if it would not."""
        now = time.monotonic()
        if (seconds := self.step_seconds) > hung_seconds:
            return f"the loop {self.name} has been in one step for {seconds:.0f} s"
        if self.period_seconds is None:
            return None
        limit_seconds = self.period_seconds + hung_seconds
        if self._began_at is None and now - self._turned_at > limit_seconds:
            return f"the loop {self.name} has not begun a step for {now - self._turned_at:.0f} s"
        if self._failures and not self._passes and now - self._succeeded_at > limit_seconds:
            return f"the loop {self.name} has not succeeded for {now - self._succeeded_at:.0f} s: {self._error}"
        return None

    def fails(self) -> str | None:
        """Why the process can't do its work now; None if this loop can."""
        if self._failures < FAILURES_MAX:
            return None
        seconds = time.monotonic() - self._succeeded_at
        return f"{self.name} has failed {self._failures} times and not succeeded for {seconds:.0f} s: {self._error}"


class Vitals(Collector):
    """All that tells whether the process is well. `waits_for` says why it has no work yet, or takes none any more."""

    def __init__(self) -> None:
        self.hung_seconds = 120.0
        self.waits_for: str | None = None
        self._pulses: dict[str, Pulse] = {}
        self._beaten_at: float | None = None  # None: nobody beats

    def pulse(self, name: str, period_seconds: float | None = None) -> Pulse:
        """The pulse of this name: a new one if its loop begins with a period of its own."""
        if period_seconds is not None or name not in self._pulses:
            self._pulses[name] = Pulse(name, period_seconds)
        return self._pulses[name]

    def forget(self, *names: str) -> None:
        """These loops have ended in good order."""
        for name in names:
            self._pulses.pop(name, None)

    def forget_all(self) -> None:
        """The work of this process has ended in good order."""
        self._pulses.clear()
        self.waits_for = None

    async def beat(self) -> None:
        """Show until cancelled that the event loop turns."""
        systemd = Systemd()
        try:
            while True:
                self._beaten_at = time.monotonic()
                systemd.beat(self.waits_for, self.hung())
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            self._beaten_at = None
            systemd.stop()

    def hung(self) -> list[str]:
        """Why the process should be restarted; nothing if it lives."""
        beaten_at = self._beaten_at
        still_seconds = 0.0 if beaten_at is None else time.monotonic() - beaten_at
        if still_seconds > EVENT_LOOP_SECONDS:
            return [f"the event loop has stood still for {still_seconds:.0f} s"]
        return [why for pulse in list(self._pulses.values()) if (why := pulse.hangs(self.hung_seconds))]

    def unready(self) -> list[str]:
        """Why the process can't do its work; nothing if it can."""
        waits = [] if self.waits_for is None else [self.waits_for]
        return [*waits, *self.ill()]

    def ill(self) -> list[str]:
        """What of its work the process can't do, though it waits for nothing."""
        return [*self.hung(), *(why for pulse in list(self._pulses.values()) if (why := pulse.fails()))]

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "piecework_loop_step_age_seconds",
            "Age of the loop's step that is under way; 0 between two",
            labels=["loop"],
        )
        for pulse in list(self._pulses.values()):
            family.add_metric([pulse.name], pulse.step_seconds)
        yield family


VITALS = Vitals()
REGISTRY.register(VITALS)


def watched(name: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """A decorator: each call is a step of this loop, which hangs if it does not end in time."""

    def watch(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @wraps(function)
        async def step(*args: P.args, **kwargs: P.kwargs) -> R:
            with VITALS.pulse(name).step():
                return await function(*args, **kwargs)

        return step

    return watch


@asynccontextmanager
async def beating(settings: Settings) -> AsyncIterator[None]:
    """Show that the event loop turns, and tell systemd of this process, if it is there."""
    VITALS.hung_seconds = settings.hung_seconds
    beat = asyncio.create_task(VITALS.beat())
    try:
        yield
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[None]:
    """Beat, and answer /healthz, /readyz and /metrics of this process, if `health_port` is set.

    Raises SystemExit if the port can't be had.
    """
    async with beating(settings):
        if settings.health_port is None:
            yield
            return
        server = _listen(settings.health_host, settings.health_port, settings)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def _listen(host: str, port: int, settings: Settings) -> ThreadingHTTPServer:
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        refuse_to_start(f"PIECEWORK_HEALTH_PORT: can't listen on {host}:{port}: {error.strerror}; choose another port")
    server.metrics_key = settings.metrics_key
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True).start()
    log.info("health endpoints", host=host, port=server.server_address[1])
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    metrics_key: str | None = None

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("health connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_SECONDS
    server_version = f"piecework/{VERSION}"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/healthz":
                self._tell(VITALS.hung())
            case "/readyz":
                self._tell(VITALS.unready())
            case "/metrics":
                self._tell_metrics()
            case _:
                self._answer(404, "application/json", b'{"detail": "there are /healthz, /readyz and /metrics"}')

    def _tell(self, errors: list[str]) -> None:
        told: dict[str, Any] = {"status": "failing" if errors else "ok", "version": VERSION}
        body = json.dumps(told | ({"errors": errors} if errors else {})).encode()
        self._answer(503 if errors else 200, "application/json", body)

    def _tell_metrics(self) -> None:
        if self.server.metrics_key is not None:
            try:
                require_bearer(self.headers.get("authorization"), self.server.metrics_key)
            except Unauthorized as error:
                self._answer(401, "application/json", json.dumps({"detail": str(error)}).encode())
                return
        body, content_type = expose(self.headers.get("accept", ""))
        self._answer(200, content_type, body)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: not logged."""
