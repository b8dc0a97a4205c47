"""In the place of SQS: the scheduler's process sends to the load processes, each of which keeps its share in memory.

Only the calls that the engine makes are there, with the arguments and answers of aiobotocore.
"""

import asyncio
import socket
from itertools import cycle
from pathlib import Path
from typing import Any


class Sender:
    """The scheduler's end. Messages go to the load processes in turn: they are all alike."""

    async def accept(self, listener: socket.socket, receivers: int) -> None:
        """Wait until all receivers are there."""
        writers: list[asyncio.StreamWriter] = []
        complete = asyncio.Event()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            if len(writers) == receivers:
                complete.set()

        self._server = await asyncio.start_unix_server(connected, sock=listener)
        await complete.wait()
        self._turns = cycle(writers)

    async def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
        for entry in Entries:
            next(self._turns).write(entry["MessageBody"].encode() + b"\n")
        return {}


class Receiver:
    """A load process's end. A message is its own receipt handle; nothing comes twice."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, path: Path) -> None:
        """Until the sender ends."""
        reader, _ = await asyncio.open_unix_connection(path)
        while line := await reader.readline():
            self._messages.put_nowait(line.decode())

    async def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, WaitTimeSeconds: int) -> dict[str, Any]:
        bodies = [await self._messages.get()]
        while len(bodies) < MaxNumberOfMessages and not self._messages.empty():
            bodies.append(self._messages.get_nowait())
        return {"Messages": [{"Body": body, "ReceiptHandle": body} for body in bodies]}

    async def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
        return {}

    async def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        for entry in Entries:
            self._messages.put_nowait(entry["ReceiptHandle"])
        return {}
