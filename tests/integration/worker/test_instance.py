"""A node on EC2: what it says of its instance."""

from collections.abc import AsyncIterator

import pytest

from tests.imds import ImdsServer, imds_server
from tests.integration.worker.conftest import InProcessGrid


@pytest.fixture
async def imds(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImdsServer]:
    async with imds_server() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        yield server


async def test_a_worker_registers_with_what_ec2_says_of_its_instance(grid: InProcessGrid, imds: ImdsServer) -> None:
    async with grid.node(instance_id=None):
        await grid.until("SELECT count(*) = 1 FROM workers")
    row = await grid.worker()
    assert [row[name] for name in ("instance_id", "instance_type", "zone", "market")] == [
        *("i-0123456789abcdef0", "m7g.large", "eu-central-1a", "spot")
    ]


async def test_the_settings_instance_id_counts_more(grid: InProcessGrid, imds: ImdsServer) -> None:
    async with grid.node(instance_id="i-of-mine"):
        await grid.until("SELECT count(*) = 1 FROM workers")
    row = await grid.worker()
    assert (row["instance_id"], row["zone"]) == ("i-of-mine", "eu-central-1a")
