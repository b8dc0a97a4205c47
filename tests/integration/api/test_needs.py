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


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ({"pools": []}, "stages.0.pools"),
        ({"pools": ["default", "default"]}, "stages.0"),
        ({"pool": "other", "pools": ["default", "other"]}, "stages.0"),
        ({"next_pool_after_seconds": 60}, "stages.0"),
        ({"pools": ["default", "nowhere"]}, "stages.0.pools"),
    ],
)
async def test_pools_that_can_not_be_are_refused(
    operator: httpx.AsyncClient, stage: dict[str, Any], field: str
) -> None:
    await ok(operator.put("/v1/pools/other", json={}))
    assert blamed(await operator.post("/v1/jobs", json=asking(**stage)))[0] == field


async def test_one_of_several_pools_must_be_able_to_serve_a_request(operator: httpx.AsyncClient) -> None:
    for pool, cpus in (("default", 2), ("other", 16)):
        await ok(operator.put(f"/v1/pools/{pool}", json={"largest_node": {"cpus": cpus, "memory": "8GiB"}}))
    pools = {"pools": ["default", "other"]}
    await ok(operator.post("/v1/jobs", json=asking(cpus=16, **pools)))
    refused = blamed(await operator.post("/v1/jobs", json=asking(**pools, cpus=17)))
    assert refused[0] == "stages.0.cpus" and "no node of pool default or other" in refused[2]


async def test_a_pool_that_is_second_choice_is_not_deleted(operator: httpx.AsyncClient) -> None:
    await ok(operator.put("/v1/pools/other", json={}))
    await ok(operator.post("/v1/jobs", json=asking(pools=["default", "other"])))
    assert (await operator.delete("/v1/pools/other")).status_code == 409
