"""Imported by the fork server of tests.forks: all that its forks import and read, once."""

import asyncio
import gc
import sys
from importlib import import_module

from services.platform.aws import connect_aws
from services.platform.settings import Settings

for _name in ("uvicorn", "uvloop", "httptools", "uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on"):
    import_module(_name)
for _name in ("services.scheduler", "services.worker"):
    import_module(f"{_name}.__main__")
    del sys.modules[f"{_name}.__main__"]  # which a fork runs
for _name in ("services.api.main", "services.stats.main"):
    import_module(_name)


async def _read() -> None:
    """AWS's large API descriptions."""
    async with connect_aws(Settings(aws_endpoint_url="http://127.0.0.1:1")):
        pass


asyncio.run(_read())
gc.freeze()  # the forks' garbage collections leave alone what they share
