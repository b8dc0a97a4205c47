"""Traces: passed on always, recorded only when there is a place for them, and never in anybody's way."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from services.platform import tracing
from services.platform.tracing import current_traceparent, span, traced, valid_traceparent, within
from tests.collector import collecting
from tests.until import until

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = TRACEPARENT.split("-")[1]


@pytest.fixture(autouse=True)
def off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process begins."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracing, "_tracer", None)
    yield


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        TRACEPARENT.upper(),
        TRACEPARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"{TRACEPARENT}\nx",
    ],
)
def test_a_header_that_is_not_of_the_standard_is_ignored(header: str | None) -> None:
    assert valid_traceparent(header) is None


def test_the_context_is_passed_on_although_nothing_is_recorded() -> None:
    assert valid_traceparent(TRACEPARENT) == TRACEPARENT
    with span("request", TRACEPARENT), span("below"):
        assert current_traceparent() == TRACEPARENT
        assert tracing.add_trace(None, "", {})["trace_id"] == TRACE_ID
    assert current_traceparent() is None
    assert tracing.add_trace(None, "", {}) == {}


def test_outside_of_a_trace_there_is_no_context() -> None:
    with span("request", root=True):
        assert current_traceparent() is None


async def test_spans_go_to_the_endpoint_below_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    @traced("work")
    async def work() -> None:
        tracing.annotate(bytes=7)
        raise ValueError("bad")

    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        tracing.configure_tracing("test")
        with span("outer", TRACEPARENT, kind="server", job="j"):
            with pytest.raises(ValueError, match="bad"):
                await work()
            with span("unrecorded", recorded=False):
                assert current_traceparent() is not None
                with span("below it"):
                    pass
            with within(TRACEPARENT), span("in a part without spans"):
                pass
        with span("of no trace"):
            pass
        with span("new", root=True):
            pass
        await until(lambda: len(collector.spans) >= 3)
    found = {one.name: one for one in collector.spans}
    assert set(found) == {"work", "outer", "new"}
    assert (found["outer"].trace_id, found["outer"].parent_id) == (TRACE_ID, "00f067aa0ba902b7")
    assert (found["work"].parent_id, found["work"].failed) == (found["outer"].span_id, True)
    assert found["outer"].attributes == {"job": "j"} and found["work"].attributes == {"bytes": 7}
    assert found["new"].trace_id != TRACE_ID and found["new"].parent_id == ""
    assert {one.service for one in collector.spans} == {"piecework-test"}


async def test_what_the_parent_does_not_sample_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        tracing.configure_tracing("test")
        with span("unsampled", f"{TRACEPARENT[:-2]}00"):
            assert (current_traceparent() or "").endswith("-00")
        with span("sampled", TRACEPARENT):
            pass
        await until(lambda: collector.spans)
    assert [one.name for one in collector.spans] == ["sampled"]


def test_of_ten_million_tasks_some_thousands_have_spans() -> None:
    assert sum(map(tracing.has_spans, range(10_000_000))) == 10_999
    assert all(map(tracing.has_spans, range(1_000)))


async def test_an_endpoint_that_is_silent_costs_neither_memory_nor_the_end_of_the_process() -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(take, "127.0.0.1", 0)
    program = (
        "import psutil, time\n"
        "from services.platform.tracing import configure_tracing, span\n"
        "configure_tracing('test')\n"
        "def spans(count):\n"
        "    for number in range(count):\n"
        "        with span('task', root=True, number=number): pass\n"
        "spans(10_000)\n"
        "before = psutil.Process().memory_info().rss\n"
        "spans(50_000)\n"
        "print(psutil.Process().memory_info().rss - before, time.time())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"},
    )
    output, _ = await process.communicate()
    ended = time.time()
    grown, last_span = output.split()
    assert process.returncode == 0
    assert int(grown) < 20_000_000
    assert ended - float(last_span) < 15  # FLUSH_SECONDS, and a busy machine
    silent.close()


def test_opentelemetry_is_not_imported_unless_spans_are_recorded() -> None:
    program = (
        "import sys, services.scheduler.__main__, services.worker.__main__\n"
        "from services.platform.tracing import configure_tracing, recording, span\n"
        "configure_tracing('api')\n"
        "with span('x', root=True): pass\n"
        "assert not recording()\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf'))])"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {},
    ],
)
def test_the_standards_variables_turn_it_off(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing.configure_tracing("test")
    assert not tracing.recording()
