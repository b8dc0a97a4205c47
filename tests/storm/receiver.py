"""Receives the webhooks, checks their signatures, and refuses some at their first try.

A second endpoint takes whatever it is sent, and never answers: nobody else may wait for it.
"""

import asyncio
import base64
import os
from collections import Counter, defaultdict

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.storm.journal import Journal

KIND = "webhook refused"


class Receiver:
    """`taken` counts, by (job_id, event), the messages that were answered with 200."""

    def __init__(self, journal: Journal) -> None:
        self.secret = f"whsec_{base64.b64encode(os.urandom(24)).decode()}"
        self.taken: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.forged = 0
        self.unanswered = 0
        self._journal = journal
        self._to_refuse = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/", self._receive)
        app.router.add_post("/silent", self._stay_silent)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        self.silent_url = f"{self.url}silent"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def arm(self) -> None:
        """Refuse the next message."""
        self._to_refuse += 1

    async def _stay_silent(self, request: web.Request) -> web.Response:
        self.unanswered += 1
        await asyncio.Event().wait()
        return web.Response()

    async def _receive(self, request: web.Request) -> web.Response:
        try:
            message = Webhook(self.secret).verify(await request.read(), dict(request.headers))
        except WebhookVerificationError:
            self.forged += 1
            return web.Response(status=400)
        if self._to_refuse:
            self._to_refuse -= 1
            self._journal.strike(KIND, job=message["data"]["job_id"])
            return web.Response(status=500)
        self.taken[message["data"]["job_id"], message["type"]][request.headers["webhook-id"]] += 1
        return web.Response()
