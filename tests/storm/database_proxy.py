"""A TCP proxy in front of Postgres whose connections can be cut, robbed of a reply, or stalled."""

import asyncio
import random
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_CHUNK_BYTES = 1 << 16
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass(eq=False, slots=True)
class Link:
    """One connection of a service, and the one to Postgres behind it."""

    service: asyncio.StreamWriter
    server: asyncio.StreamWriter
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    next_reply_is_lost: bool = False

    def cut(self) -> None:
        """Both sides see a reset at once."""
        self.service.transport.abort()
        self.server.transport.abort()
        self.flowing.set()

    def silence(self) -> None:
        """Nothing passes any more, in either direction, and nobody is told."""
        self.flowing.clear()


def cut(links: Iterable[Link]) -> None:
    for link in list(links):
        link.cut()


class DatabaseProxy:
    """Listens on a port of this machine; hands everything on to the server's Unix socket.

    It may refuse new connections, or take them and be silent. With `tls`, it takes none without.
    """

    def __init__(self, server_url: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._socket = f"{parse_qs(urlsplit(server_url).query)['host'][0]}/.s.PGSQL.5432"
        self._database = urlsplit(server_url).path
        self._credentials = urlsplit(server_url).netloc.rpartition("@")[0]
        self.links: dict[Link, None] = {}  # in the order in which they were opened
        self.refuse = False
        self.frozen = False  # whether new connections are silent, too

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """Listen there, or on any free port."""
        self._listener = await asyncio.start_server(self._serve, address, port)
        port = self._listener.sockets[0].getsockname()[1]
        plain = "?sslmode=disable" if self._tls is None else ""
        self.url = f"postgresql://{self._credentials}@{address}:{port}{self._database}{plain}"

    def stop(self) -> None:
        self._listener.close()
        cut(self.links)

    def choose(self, share: float, draw: float) -> list[Link]:
        """About that share of the open connections, one at least if there are any."""
        links = list(self.links)
        random.Random(draw).shuffle(links)
        return links[: max(1, round(share * len(links)))]

    def silence(self) -> int:
        """All open connections fall silent, while new ones work; returns how many."""
        for link in self.links:
            link.silence()
        return len(self.links)

    async def greet(
        self, reader: asyncio.StreamReader, service: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        """What comes before everything is handed on: nothing here. Raises ConnectionRefusedError."""

    async def _serve(self, reader: asyncio.StreamReader, service: asyncio.StreamWriter) -> None:
        try:
            if self.refuse:
                raise ConnectionRefusedError
            if self._tls is not None:
                await _begin_tls(reader, service, self._tls)
            replies, server = await asyncio.open_unix_connection(self._socket)
            await self.greet(reader, service, server)
        except (OSError, asyncio.IncompleteReadError):  # the server is down, or somebody will not speak with us
            service.transport.abort()
            return
        link = Link(service, server)
        if not self.frozen:
            link.flowing.set()
        self.links[link] = None
        pumps = [asyncio.create_task(_pump(link, reader, server)), asyncio.create_task(_pump(link, replies, service))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            del self.links[link]
            service.close()
            server.close()


async def _begin_tls(reader: asyncio.StreamReader, service: asyncio.StreamWriter, tls: ssl.SSLContext) -> None:
    """https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL"""
    if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
        raise ConnectionRefusedError
    service.write(b"S")
    await service.start_tls(tls)


async def _pump(link: Link, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(_CHUNK_BYTES):
            await link.flowing.wait()
            if link.next_reply_is_lost and target is link.service:
                link.cut()
                return
            target.write(data)
            await target.drain()
