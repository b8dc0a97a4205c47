"""A grid of the test's own, with short leases so that faults are noticed in no time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import Gate, ProcessGrid

pytest.register_assert_rewrite("tests.faults.outcome", "tests.faults.standing_grid")


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """Goes with the test, and cuts off the processes that worked on it."""
    return own_database_url


@pytest.fixture(autouse=True)
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks wait at a gate of files outside of their own directories, which a sandbox would keep them from."""
    monkeypatch.setenv("PIECEWORK_ISOLATION", "process")


@pytest.fixture
async def grid(settings: Settings, database: Database, aws: Aws, tmp_path: Path) -> AsyncIterator[ProcessGrid]:
    quick = settings.model_copy(update={"lease_seconds": 2.0, "heartbeat_seconds": 0.2, "resend_seconds": 1.0})
    grid = ProcessGrid(quick, database, aws, tmp_path)
    await grid.prepare()
    yield grid
    grid.stop()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")
