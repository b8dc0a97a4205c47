"""A server that nobody asks does next to nothing, and yet ends as soon as it is told to."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

SERVER = """
import uvicorn
from services.platform import server

async def app(scope, receive, send):
    pass

server.TICK_SECONDS = 3600.0
server.let_servers_rest()
uvicorn.run(app, port=0, lifespan="off")
"""


async def test_a_server_that_rests_ends_when_a_signal_comes() -> None:
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stderr=PIPE, cwd=root)
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"running on" not in await process.stderr.readline():
            assert process.returncode is None
        process.terminate()
        await process.communicate()
    assert process.returncode == -signal.SIGTERM
