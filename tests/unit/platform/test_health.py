"""What a process says of its own health, whatever its event loop does."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from services.platform import health
from services.platform.health import Vitals, serving, watched
from services.platform.settings import Settings
from services.platform.version import VERSION
from tests.conftest import free_port


@pytest.fixture
def vitals(monkeypatch: pytest.MonkeyPatch) -> Vitals:
    """Those of a process of the test's own."""
    vitals = Vitals()
    monkeypatch.setattr(health, "VITALS", vitals)
    return vitals


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(vitals: Vitals, port: int) -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop of a process that serves its health."""
    loop, served, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serving(Settings(health_port=port, hung_seconds=0.3)):
            served.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert served.wait(10)
    yield loop
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()


def ask(port: int, path: str, **headers: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if answer.headers["content-type"] == "application/json" else body.decode()


def fails(port: int, path: str) -> str:
    """Wait for the answer 503; returns what it says is wrong."""
    while (answer := ask(port, path))[0] == 200:
        pass
    assert answer[0] == 503 and answer[1]["status"] == "failing"
    return "; ".join(answer[1]["errors"])


def test_a_process_that_is_well_says_so(process: asyncio.AbstractEventLoop, port: int) -> None:
    for path in ("/healthz", "/readyz"):
        assert ask(port, path) == (200, {"status": "ok", "version": VERSION})
    assert ask(port, "/elsewhere")[0] == 404


def test_an_event_loop_that_stands_still_fails_and_recovers(
    process: asyncio.AbstractEventLoop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "EVENT_LOOP_SECONDS", 0.2)
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.01)
    go_on = threading.Event()
    process.call_soon_threadsafe(go_on.wait)
    assert "the event loop has stood still" in fails(port, "/healthz")
    assert ask(port, "/readyz")[0] == 503
    assert ask(port, "/metrics")[0] == 200
    go_on.set()
    while ask(port, "/healthz")[0] != 200:
        pass


def test_a_loop_that_is_frozen_within_a_step_fails_while_the_others_go_on(
    process: asyncio.AbstractEventLoop, vitals: Vitals, port: int
) -> None:
    go_on = asyncio.Event()

    @watched("stuck")
    async def stuck() -> None:
        await go_on.wait()

    step = asyncio.run_coroutine_threadsafe(stuck(), process)
    assert "the loop stuck has been in one step for" in fails(port, "/healthz")
    process.call_soon_threadsafe(go_on.set)
    step.result(10)
    assert ask(port, "/healthz")[0] == 200


def test_a_loop_that_begins_no_more_steps_fails_after_its_period(
    process: asyncio.AbstractEventLoop, vitals: Vitals, port: int
) -> None:
    vitals.pulse("ended", period_seconds=0.1)
    assert "the loop ended has not begun a step for" in fails(port, "/healthz")
    vitals.forget("ended")
    assert ask(port, "/healthz")[0] == 200


def test_an_outage_makes_a_process_unready_and_does_not_restart_it(
    process: asyncio.AbstractEventLoop, vitals: Vitals, port: int
) -> None:
    pulse = vitals.pulse("dispatch", period_seconds=3600)
    pulse.failed(OSError("no route"))
    assert ask(port, "/readyz")[0] == 200  # one fault of a statement is not an outage
    pulse.failed(OSError("no route"))
    assert "dispatch has failed 2 times" in fails(port, "/readyz")
    assert ask(port, "/healthz")[0] == 200
    pulse.succeeded()
    assert ask(port, "/readyz")[0] == 200


def test_a_loop_that_fails_by_itself_for_periods_is_to_be_restarted(
    process: asyncio.AbstractEventLoop, vitals: Vitals, port: int
) -> None:
    pulse = vitals.pulse("plan", period_seconds=0.1)
    while ask(port, "/healthz")[0] == 200:
        pulse.failed(KeyError("x"), passes=False)
    assert "the loop plan has not succeeded for" in fails(port, "/healthz")


def test_probes_are_answered_beside_connections_that_say_nothing(process: asyncio.AbstractEventLoop, port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(health.CONNECTIONS_MAX // 2)]
    assert ask(port, "/healthz")[0] == 200
    for connection in silent:
        connection.close()


async def test_metrics_ask_for_the_key_that_a_setting_names(vitals: Vitals, port: int) -> None:
    vitals.pulse("dispatch", period_seconds=1.0).succeeded()
    async with serving(Settings(health_port=port, metrics_key="prometheus")):
        assert (await asyncio.to_thread(ask, port, "/metrics"))[0] == 401
        status, body = await asyncio.to_thread(ask, port, "/metrics", authorization="Bearer prometheus")
    assert status == 200
    assert 'piecework_loop_last_success_timestamp_seconds{loop="dispatch"}' in body
    assert "process_resident_memory_bytes" in body and f'piecework_build_info{{version="{VERSION}"}} 1.0' in body


async def test_a_port_that_is_taken_is_named(vitals: Vitals, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SystemExit):
        async with serving(Settings(health_port=port)):
            pass
    assert capsys.readouterr().err == (
        f"PIECEWORK_HEALTH_PORT: can't listen on 127.0.0.1:{port}: Address already in use; choose another port\n"
    )


async def test_nothing_listens_unless_a_port_is_set(vitals: Vitals) -> None:
    threads = threading.active_count()
    async with serving(Settings(health_port="")):
        assert threading.active_count() == threads
