"""An instance metadata service (version 2) of a test's own: each instance says what the test has put."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from aiohttp import web

SPOT = {
    "instance-id": "i-0123456789abcdef0",
    "instance-type": "m7g.large",
    "placement/availability-zone": "eu-central-1a",
    "instance-life-cycle": "spot",
    "autoscaling/target-lifecycle-state": "InService",
    "events/maintenance/scheduled": "[]",
}


class ImdsServer:
    """`items` are what it says now, by their path below /latest/meta-data/; `requests` the paths asked for."""

    def __init__(self) -> None:
        self.items: dict[str, str] = dict(SPOT)
        self.requests: list[str] = []
        self.failures = 0  # of the next requests
        self.url = ""
        self._tokens: set[str] = set()
        self._peers: set[Any] = set()

    @property
    def connections(self) -> int:
        """How many the requests have come over."""
        return len(self._peers)

    def forget_tokens(self) -> None:
        self._tokens.clear()

    def interrupt(self, seconds: float = 120, action: str = "terminate") -> None:
        """EC2 takes the Spot instance back."""
        self.items["spot/instance-action"] = json.dumps({"action": action, "time": in_seconds(seconds)})

    def recommend_rebalance(self) -> None:
        self.items["events/recommendations/rebalance"] = json.dumps({"noticeTime": in_seconds(0)})

    def schedule(self, **event: Any) -> None:
        """EC2 has scheduled an event for the instance."""
        begins = (datetime.now(UTC) + timedelta(days=14)).strftime("%d %b %Y %H:%M:%S GMT")
        stated = {"Code": "instance-retirement", "EventId": "instance-event-1", "State": "active", "NotBefore": begins}
        self.items["events/maintenance/scheduled"] = json.dumps([stated | event])

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/latest/meta-data/")
        self.requests.append(path)
        self._peers.add(request.transport and request.transport.get_extra_info("peername"))
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        if request.path == "/latest/api/token":
            if request.method != "PUT" or "X-aws-ec2-metadata-token-ttl-seconds" not in request.headers:
                return web.Response(status=400)
            token = uuid4().hex
            self._tokens.add(token)
            return web.Response(text=token)
        if request.headers.get("X-aws-ec2-metadata-token") not in self._tokens:
            return web.Response(status=401)
        return web.Response(text=self.items[path]) if path in self.items else web.Response(status=404)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def imds_server(address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[ImdsServer]:
    """A server of this machine, on a free port unless another one is named."""
    server = ImdsServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, port)
        await site.start()
        server.url = f"http://{address}:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
