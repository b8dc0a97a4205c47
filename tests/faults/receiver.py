"""A receiver of webhooks: an HTTP server in the test's process that checks and keeps what it gets."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """`url` is where it listens, `received` the `webhook-id`s by job; a request that is not signed is refused."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.received: defaultdict[str, list[str]] = defaultdict(list)

    async def _take(self, request: web.Request) -> web.Response:
        event = Webhook(SECRET).verify(await request.text(), dict(request.headers))
        self.received[event["data"]["job_id"]].append(request.headers["webhook-id"])
        return web.Response(status=204)


@asynccontextmanager
async def receiving(port: int) -> AsyncIterator[Receiver]:
    """A receiver that listens on the port for the time of the context."""
    receiver = Receiver(port)
    application = web.Application()
    application.router.add_post("/hook", receiver._take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield receiver
    await runner.cleanup()
