"""A heartbeat ends when its worker does."""

import asyncio
from pathlib import Path
from uuid import uuid4

import asyncpg

from services.engine import workers
from services.worker.isolation.cells import Cells
from services.worker.node.bundles import Bundles
from services.worker.node.completer import Completer
from services.worker.node.heartbeat import Heartbeat
from services.worker.node.node import equip
from services.worker.node.quarantine import Quarantine
from services.worker.node.slots import Slots
from tests.integration.worker.conftest import InProcessGrid

_WAITING = """
    SELECT count(*) = {count} FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def test_a_beat_under_way_ends_with_the_heartbeat(grid: InProcessGrid, tmp_path: Path) -> None:
    worker_id, bundles = uuid4(), Bundles()
    await workers.register_worker(
        grid.database, worker_id=worker_id, pool="default", hostname="h", instance_id=None, pid=1, slots=1
    )
    equipment = equip(grid.settings, grid.aws.s3, Cells("process", tmp_path))
    heartbeat = Heartbeat(
        database=grid.database,
        worker_id=worker_id,
        heartbeat_seconds=0.1,
        lease_seconds=600.0,
        bundles=bundles,
        slots=Slots(
            1,
            1.0,
            equipment,
            bundles,
            Completer(grid.database, worker_id, bundles),
            Quarantine(1, lambda _: None),
        ),
        drain=lambda replace_instance: None,
    )
    blocker = await asyncpg.connect(grid.settings.database_url)
    await blocker.execute("BEGIN")
    await blocker.execute("SELECT FROM workers WHERE worker_id = $1 FOR UPDATE", worker_id)

    beating = asyncio.create_task(heartbeat.run())
    await grid.until(_WAITING.format(count=1))
    beating.cancel()

    await grid.until(_WAITING.format(count=0))
    await blocker.close()
