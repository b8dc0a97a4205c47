"""What a worker's probes answer in the stages of its life, and while its database is away."""

import asyncio

from services.platform.health import VITALS, serving
from services.worker.node import outage
from services.worker.node.node import Node
from tests.conftest import free_port
from tests.integration.worker.conftest import InProcessGrid
from tests.unit.platform.test_health import ask
from tests.until import until


async def test_it_is_ready_once_it_is_registered_and_not_while_it_drains(grid: InProcessGrid) -> None:
    port = free_port()
    settings = grid.settings.model_copy(update={"health_port": port})

    async def errors() -> list[str]:
        _, said = await asyncio.to_thread(ask, port, "/readyz")
        return list(said.get("errors", []))

    async def ready() -> bool:
        return not await errors()

    async with serving(settings):
        node = Node(settings)
        running = asyncio.create_task(node.run())
        await asyncio.sleep(0)
        assert await errors() == ["the worker has not registered yet"]
        await until(ready)
        assert (await asyncio.to_thread(ask, port, "/healthz"))[0] == 200
        node.drain()
        assert await errors() == ["the worker drains: it takes no more tasks"]
        await running


async def test_a_database_that_is_away_makes_it_unready_and_does_not_restart_it() -> None:
    away = outage.Outage("database")
    for _ in range(2):
        await away.failed(OSError("no route"))
    assert [why.partition(" times")[0] for why in VITALS.unready()] == ["database has failed 2"]
    assert VITALS.hung() == []
    away.passed()
    assert VITALS.unready() == []
