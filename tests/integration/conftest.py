"""What tests of several services need."""

from collections.abc import AsyncIterator

import pytest

from services.engine import plans
from tests.storm.database_proxy import DatabaseProxy


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    """The way to the database, which a test can cut or silence."""
    proxy = DatabaseProxy(database_url)
    await proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(autouse=True)
def planned_by_the_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """PlayedWorker plans: no submission does it by itself."""
    monkeypatch.setattr(plans, "AT_ONCE_MAX", 0)
