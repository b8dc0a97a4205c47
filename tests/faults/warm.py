"""Imported by the fork server of tests.faults.mortal: reads AWS's large API descriptions once for all its forks."""

import asyncio

from services.platform.aws import connect_aws
from services.platform.settings import Settings


async def _read() -> None:
    async with connect_aws(Settings(aws_endpoint_url="http://127.0.0.1:1")):
        pass


asyncio.run(_read())
