"""Imported by the fork server of tests.forks: all that its forks import and read, once."""

import asyncio
import gc
import os
import sys
from importlib import import_module
from unittest.mock import patch

from services.platform.aws import connect_aws
from services.platform.settings import Settings

for _name in ("uvicorn", "uvloop", "httptools", "uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on"):
    import_module(_name)
_programs = [
    f"services.{name}" for name in ("scheduler.__main__", "worker.__main__", "engine.restore", "engine.migrate")
]
for _name in _programs:
    import_module(_name)
for _name in _programs:
    del sys.modules[_name]  # which a fork runs
for _name in ("services.api.main", "services.stats.main"):
    import_module(_name)


async def _read() -> None:
    """AWS's large API descriptions."""
    async with connect_aws(Settings(aws_endpoint_url="http://127.0.0.1:1")):
        pass


# The session that forks share finds no credentials here: each fork finds its own.
with patch.dict(os.environ):
    for _name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        os.environ.pop(_name, None)
    os.environ |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    asyncio.run(_read())
gc.freeze()  # the forks' garbage collections leave alone what they share
