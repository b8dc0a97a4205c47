"""A stage that asks for what no node of its pool can ever have is refused."""

from typing import Any

import httpx
import pytest

from services.contract.resources import Capacity
from services.platform.database import Database
from tests.integration.api.conftest import PlayedWorker, array_job, ok
from tests.integration.api.test_bad_input import blamed

pytestmark = pytest.mark.usefixtures("grid")

GiB = 1 << 30
NODE = Capacity(8, 32 * GiB, 1, 100 * GiB)


def asking(**needs: Any) -> Any:
    return array_job(stages=[{"processor": "noop", **needs}])


async def test_a_request_that_no_node_can_serve_is_refused_with_the_largest(
    operator: httpx.AsyncClient, database: Database
) -> None:
    await ok(operator.post("/v1/jobs", json=asking(cpus=64)))  # nobody knows what nodes the pool will have
    worker = PlayedWorker(database)
    await worker.register(capacity=NODE)

    await ok(operator.post("/v1/jobs", json=asking(cpus=8, memory="32GiB", gpus=1, disk="100GiB")))
    for needs in ({"cpus": 9}, {"memory": "33GiB"}, {"gpus": 2}, {"cpus": 1, "disk": "1TiB"}):
        field, value, message = blamed(await operator.post("/v1/jobs", json=asking(**needs)))
        assert field == f"stages.0.{[*needs][-1]}" and value is not None
        assert "the largest has 8 cpus, 32 GiB of memory, 1 gpu, 100 GiB of disk" in message

    await database.execute("UPDATE workers SET state = 'stopped', stopped_at = now()")
    assert (await operator.post("/v1/jobs", json=asking(cpus=9))).status_code == 422  # it was seen lately


async def test_an_operator_says_what_the_largest_node_is(operator: httpx.AsyncClient) -> None:
    largest = {"cpus": 64, "memory": "256GiB", "gpus": 4}
    pool = await ok(operator.put("/v1/pools/default", json={"largest_node": largest}))
    assert pool["largest_node"] == {"cpus": 64.0, "memory": 256 * GiB, "gpus": 4, "disk": 0}
    assert (await ok(operator.get("/v1/pools/default")))["largest_node"] == pool["largest_node"]

    await ok(operator.post("/v1/jobs", json=asking(cpus=64, gpus=4)))
    assert blamed(await operator.post("/v1/jobs", json=asking(cpus=64, gpus=5)))[0] == "stages.0.gpus"


@pytest.mark.parametrize(
    "needs",
    [{"cpus": 0}, {"cpus": "four"}, {"memory": "1MiB"}, {"gpus": 0}, {"gpus": 1.5}, {"disk": -1},
     {"memory": "2GiB", "memory_bytes": "1GiB"}],
)  # fmt: skip
async def test_needs_that_can_not_be_are_refused(operator: httpx.AsyncClient, needs: dict[str, Any]) -> None:
    assert blamed(await operator.post("/v1/jobs", json=asking(**needs)))[0] == f"stages.0.{[*needs][-1]}"
