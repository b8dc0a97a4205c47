"""What the database, S3 and the receiver of webhooks say after the storm."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from asyncpg import Record

from services.contract.location import Location
from services.platform.aws import Aws
from tests.invariants import Rows, read_rows
from tests.storm.grid import StormGrid
from tests.storm.work import Work

_DELIVERIES = """
    SELECT d.* FROM webhook_deliveries AS d JOIN webhook_endpoints AS e USING (endpoint_id) WHERE e.url = $1"""


@dataclass(frozen=True)
class Evidence(Rows):
    """All there is to know about the run."""

    works: dict[UUID, Work]
    workers: list[Record]
    deliveries: list[Record]
    taken: dict[tuple[str, str], Counter[str]]
    sizes: dict[str, int]  # of the objects below jobs/, by URI
    contents: dict[str, bytes]  # of the results, manifests and listings

    def name(self, task: Sequence[Any]) -> str:
        return "/".join([self.works[task[0]].name, *map(str, task[1:])])


async def gather(grid: StormGrid, works: dict[UUID, Work]) -> Evidence:
    """Read everything; the services have stopped."""
    connection = await asyncpg.connect(grid.postgres.url())
    try:
        await connection.set_type_codec("jsonb", encoder=str, decoder=orjson.loads, schema="pg_catalog")
        sizes = await _list_objects(grid.aws, grid.settings.bucket)
        wanted = [uri for uri in sizes if "/results/" in uri or "/inputs/" in uri]
        return Evidence(
            **vars(await read_rows(connection)),
            works=works,
            workers=await connection.fetch("SELECT * FROM workers"),
            deliveries=await connection.fetch(_DELIVERIES, grid.receiver.url),
            taken=grid.receiver.taken,
            sizes=sizes,
            contents={uri: await _read(grid.aws, uri) for uri in wanted},
        )
    finally:
        await connection.close()


async def _list_objects(aws: Aws, bucket: str) -> dict[str, int]:
    sizes = {}
    for prefix in ("jobs/", "interim/"):
        async for page in aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                sizes[Location(bucket, entry["Key"]).uri] = entry["Size"]
    return sizes


async def _read(aws: Aws, uri: str) -> bytes:
    place = Location.parse(uri)
    answer = await aws.s3.get_object(Bucket=place.bucket, Key=place.key)
    async with answer["Body"] as body:
        data: bytes = await body.read()
        return data
