"""Requests to receivers that users name: they go to the very address that was checked, and never into a network that
they must not reach."""

import asyncio
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic

import httpx
from standardwebhooks.webhooks import Webhook

from services.engine.webhooks import NoSecret
from services.platform import effects
from services.platform.addresses import is_public
from services.platform.settings import Settings
from services.platform.version import VERSION
from services.scheduler.slots import Key, Slots

REQUEST_SECONDS = 15.0
LEASE_SECONDS = 60.0  # longer than a request; then another scheduler tries
BACKOFF_SECONDS_FIRST = 5.0
BACKOFF_SECONDS_MAX = 3600.0
RETRY_AFTER_SECONDS_MAX = 6 * 3600.0  # a receiver may not ask for longer
ERROR_CHARACTERS_MAX = 500


Client = httpx.AsyncClient


class Refused(Exception):
    """The receiver's address is one that nothing may go to."""


@dataclass(slots=True)
class Failure:
    """Why a try failed, and what the receiver asks for."""

    error: str
    status_code: int | None = None
    retry_after: float | None = None  # seconds
    ours: bool = False  # it says nothing about the receiver
    partial: bool = False  # others of several receivers have got it

    @classmethod
    def of(cls, error: Exception, status_code: int | None = None) -> "Failure":
        said = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
        return cls(said, status_code, ours=isinstance(error, NoSecret))

    @property
    def gone(self) -> bool:
        return self.status_code == 410

    def pause(self, tries: int) -> float:
        """Seconds until the next try, after this many: longer each time, and as long as the receiver asks for."""
        pause: float = min(BACKOFF_SECONDS_FIRST * 2 ** min(tries - 1, 20), BACKOFF_SECONDS_MAX)
        return max(pause * random.uniform(0.8, 1.2), self.retry_after or 0.0)


@dataclass(frozen=True, slots=True)
class Post:
    """A POST of JSON to a receiver's URL; `tries` counts this one."""

    url: str
    body: str
    headers: Mapping[str, str]
    tries: int


def _open_client() -> Client:
    """One that follows no redirects, and no proxy of the environment."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return Client(timeout=REQUEST_SECONDS, limits=limits, follow_redirects=False, trust_env=False)


class Sender(Generic[Key]):
    """Delivers beside each other, so that no receiver waits for another one."""

    def __init__(self) -> None:
        self._slots = Slots[Key]()
        self._opened: Client | None = None

    @property
    def ended(self) -> asyncio.Event:
        """Set when a delivery ends: there is room for another one."""
        return self._slots.ended

    @property
    def _client(self) -> Client:
        """Opened when there is something to deliver."""
        if self._opened is None:
            self._opened = _open_client()
        return self._opened

    async def settle(self) -> None:
        """Wait for the deliveries that are under way."""
        await self._slots.settle()

    async def stop(self) -> None:
        """Break off what is under way: it is tried again when its lease ends."""
        await self._slots.stop()
        if self._opened is not None:
            await self._opened.aclose()


def sign(message_id: str, body: str, secrets: list[str]) -> dict[str, str]:
    """The headers of a message by Standard Webhooks, with a signature of each secret."""
    now = datetime.now(UTC)
    return {
        "user-agent": f"Piecework-Webhooks/{VERSION}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets),
    }


async def send(client: Client, post: Post, effect: str, settings: Settings) -> tuple[int, Failure | None]:
    """The status of the answer, and why the try failed, if it did. Raises Refused, OSError and httpx.HTTPError."""
    request = await _request(client, post, settings)
    # The answer's body is of no interest: an endless one must not fill our memory.
    with effects.passing("http", effect):
        response = await client.send(request, stream=True)
    await response.aclose()
    status_code = response.status_code
    if 200 <= status_code < 300:
        return status_code, None
    wait = retry_after(response.headers.get("retry-after"))
    return status_code, Failure(f"answered {status_code}", status_code, wait)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, section 10.2.3), no more than RETRY_AFTER_SECONDS_MAX.

    None if there is none, or it makes no sense.
    """
    if value is None:
        return None
    try:
        if value.strip().isascii() and value.strip().isdigit():
            seconds = float(value)
        else:
            at = parsedate_to_datetime(value)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


async def _request(client: Client, post: Post, settings: Settings) -> httpx.Request:
    """It goes to the very address that was checked, whatever the name resolves to later."""
    url = httpx.URL(post.url)
    addresses = await _resolve(url, settings)
    address = addresses[(post.tries - 1) % len(addresses)]  # each try goes to the next: one may be down
    headers = {"content-type": "application/json", "host": url.netloc.decode(), **post.headers}
    return client.build_request(
        "POST",
        url.copy_with(host=address),
        content=post.body,
        headers=headers,
        extensions={"sni_hostname": url.host},
    )


async def _resolve(url: httpx.URL, settings: Settings) -> list[str]:
    """The addresses of the URL's host; raises Refused for its port, and if any is private or otherwise not public."""
    port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not settings.webhook_private_addresses:
        for address in addresses:
            if not is_public(address):
                raise Refused(
                    f"{url.host} is {address}, not a public address; PIECEWORK_WEBHOOK_PRIVATE_ADDRESSES=true allows it"
                )
    if not settings.webhooks_may_use(port):
        raise Refused(f"port {port} is not one that webhooks may go to; PIECEWORK_WEBHOOK_PORTS allows more")
    return addresses
