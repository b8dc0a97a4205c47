"""Traces (https://opentelemetry.io): an API request, and all that is done for it, down to the tasks of its job.

The context (https://www.w3.org/TR/trace-context) is always passed on: from a request's `traceparent` to its job, to
tasks, webhooks and log lines. Spans are recorded only if OTEL_EXPORTER_OTLP_ENDPOINT says where to send them; only then
is OpenTelemetry imported.
"""

import atexit
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Kind = Literal["internal", "server", "client", "producer", "consumer"]

# Of a stage's tasks, those that have spans: all of a small one, and some of one of millions.
TASKS_MAX = 1_000
FLUSH_SECONDS = 2.0

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Span:
    """A span that is being recorded, or stands for one that is not."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def set(self, **attributes: object) -> None:
        """Attributes, by their names without `piecework.`."""
        if self._span is not None:
            self._span.set_attributes(_attributes(attributes))

    def fail(self, message: str) -> None:
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, message))


@dataclass(frozen=True, slots=True)
class _Context:
    traceparent: str
    recorded: bool = True  # whether spans below it are
    span: Span = field(default_factory=Span)


_current: ContextVar[_Context | None] = ContextVar("trace", default=None)
_tracer: Any = None  # of OpenTelemetry; None: no span is recorded


def configure_tracing(service: str) -> None:
    """Record spans if the environment says where they go (the standard's OTEL_… variables, for OTLP over HTTP)."""
    global _tracer
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"piecework-{service}"}
    # The sampler is that of OTEL_TRACES_SAMPLER: by default, the parent decides.
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())  # its queue is bounded: what does not fit is dropped
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("piecework")
    atexit.register(_flush, provider)


def _flush(provider: Any) -> None:
    """Send what is left, but let no endpoint that is away hold up the end of the process."""
    flushing = threading.Thread(target=provider.force_flush, daemon=True)
    flushing.start()
    flushing.join(FLUSH_SECONDS)


def recording() -> bool:
    """Whether spans are recorded in this process."""
    return _tracer is not None


def has_spans(index: int) -> bool:
    """Whether the spans of a stage's task are recorded."""
    return index < TASKS_MAX or index % TASKS_MAX == 0


def valid_traceparent(header: str | None) -> str | None:
    """The header, if it is one of the standard's; None if it must be ignored."""
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def current_traceparent() -> str | None:
    """The context to pass on; None outside of any trace."""
    context = _current.get()
    return None if context is None else context.traceparent


@contextmanager
def span(
    name: str,
    parent: str | None = None,
    *,
    kind: Kind = "internal",
    root: bool = False,
    recorded: bool = True,
    started_ns: int | None = None,
    **attributes: object,
) -> Iterator[Span]:
    """A span below `parent`, a traceparent, or below the current one. Outside of any trace there is none, unless it may
    be the `root` of a new one. If it is not `recorded`, neither are those below it.

    Attributes get the prefix `piecework.`; `started_ns` is the time since the epoch.
    """
    above = _current.get() if parent is None else _Context(parent)
    recorded = recorded and (above is None or above.recorded)
    if _tracer is None or not recorded or (above is None and not root):
        token = _current.set(None if above is None else _Context(above.traceparent, recorded))
        try:
            yield Span()
        finally:
            _current.reset(token)
        return
    recording = _start(name, above, kind, attributes, started_ns)
    recorded_span = Span(recording)
    token = _current.set(_Context(_traceparent(recording), span=recorded_span))
    try:
        yield recorded_span
    except Exception as error:
        recording.record_exception(error)
        recorded_span.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        _current.reset(token)
        recording.end()


def within(traceparent: str | None) -> AbstractContextManager[Span]:
    """What happens here belongs to the trace, and has no span of its own."""
    return span("", traceparent, recorded=False)


def annotate(**attributes: object) -> None:
    """Attributes of the current span, if there is one."""
    if (context := _current.get()) is not None:
        context.span.set(**attributes)


def traced(
    name: str, *, root: bool = False
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """A decorator: each call is a span below the current one, or the `root` of a trace."""

    def trace(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name, root=root):
                return await function(*args, **kwargs)

        return call

    return trace


def _start(name: str, above: _Context | None, kind: Kind, attributes: dict[str, object], started_ns: int | None) -> Any:
    from opentelemetry import trace

    context = None
    if above is not None:
        _, trace_id, span_id, flags = above.traceparent[:55].split("-")
        of_above = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
        )
        context = trace.set_span_in_context(trace.NonRecordingSpan(of_above))
    return _tracer.start_span(
        name,
        context=context,
        kind=trace.SpanKind[kind.upper()],
        attributes=_attributes(attributes),
        start_time=time.time_ns() if started_ns is None else started_ns,
    )


def _attributes(attributes: dict[str, object]) -> dict[str, Any]:
    return {
        f"piecework.{name}": value if isinstance(value, bool | int | float) else str(value)
        for name, value in attributes.items()
        if value is not None
    }


def _traceparent(recording: Any) -> str:
    of = recording.get_span_context()
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"


def add_trace(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: log lines name their trace."""
    if (traceparent := current_traceparent()) is not None:
        _, event["trace_id"], event["span_id"], *_ = traceparent.split("-")
    return event
