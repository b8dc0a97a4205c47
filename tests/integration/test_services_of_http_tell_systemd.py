"""API and stats tell systemd, if it has started them, that they live, and when they are ready."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.main import create_app as create_api
from services.platform import health
from services.platform.settings import ApiSettings
from services.stats.main import create_app as create_stats
from tests.systemd import Manager, managing
from tests.until import until

BOTH = pytest.mark.parametrize("make", [create_api, create_stats], ids=["api", "stats"])


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    yield from managing(tmp_path, monkeypatch)


@BOTH
async def test_it_is_ready_with_its_schema_and_lives_until_it_stops(
    settings: ApiSettings, manager: Manager, make: Any
) -> None:
    app = make(settings)
    async with app.router.lifespan_context(app):
        await until(lambda: "READY=1" in manager.told())
        await until(lambda: "WATCHDOG=1" in manager.told())
    assert manager.told()[-1] == "STOPPING=1"


@BOTH
async def test_it_lives_and_has_time_while_its_database_is_away(
    settings: ApiSettings, manager: Manager, make: Any
) -> None:
    gone = settings.database_url.replace("/shared?", "/gone?")
    app = make(settings.model_copy(update={"database_url": gone}))
    async with app.router.lifespan_context(app):
        told = [line for _ in range(3) for line in await until(manager.told)]
    assert "READY=1" not in told
    assert {"WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", f"STATUS={health.DATABASE_AWAITED}"} <= set(told)
