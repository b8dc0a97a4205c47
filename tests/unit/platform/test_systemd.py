"""What systemd is told by a process that it has started."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.platform.health import VITALS, serving
from services.platform.settings import Settings
from services.platform.systemd import Systemd
from tests.systemd import Manager, managing

SETTINGS = Settings(database_url="postgresql://nowhere")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    yield from managing(tmp_path, monkeypatch)


def test_it_is_ready_once_and_only_when_it_waits_for_nothing(manager: Manager) -> None:
    systemd = Systemd()
    systemd.beat("the database", [])
    assert manager.told() == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=the database"]
    systemd.beat(None, [])
    assert manager.told() == ["WATCHDOG=1", "READY=1", "STATUS=working"]
    systemd.beat(None, [])
    assert manager.told() == ["WATCHDOG=1"]
    systemd.beat("the worker drains", [])
    assert manager.told() == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=the worker drains"]
    systemd.stop()
    assert manager.told() == ["STOPPING=1"]


def test_a_process_that_hangs_says_why_and_no_longer_that_it_lives(manager: Manager) -> None:
    systemd = Systemd()
    systemd.beat(None, ["the loop plan has been in one step for 130 s"])
    told = manager.told()
    assert "WATCHDOG=1" not in told and "STATUS=the loop plan has been in one step for 130 s" in told


async def test_a_service_beats_as_long_as_its_event_loop_and_its_loops_turn(manager: Manager) -> None:
    VITALS.waits_for = "the database"
    async with serving(SETTINGS):
        await asyncio.sleep(0.05)
        assert "READY=1" not in manager.told()
        VITALS.waits_for = None
        await asyncio.sleep(0.05)
        told = manager.told()
        assert told.count("READY=1") == 1 and "WATCHDOG=1" in told
        pulse = VITALS.pulse("stuck", 0.01)
        VITALS.hung_seconds = 0.01
        with pulse.step():
            await asyncio.sleep(0.05)
            manager.told()
            await asyncio.sleep(0.05)
            assert "WATCHDOG=1" not in manager.told()
    assert manager.told()[-1] == "STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@piecework-nobody"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    Systemd().beat(None, [])
    Systemd().stop()
