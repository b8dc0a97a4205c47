"""The socket of a service manager, which services tell of themselves."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.platform import health


class Manager:
    """Listens at the path; `socket` is to be closed."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        """All lines since the last call."""
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(65_536).decode().splitlines()
            except BlockingIOError:
                return lines


def managing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """What a fixture yields: the manager of this process, whose beats come quickly."""
    manager = Manager(directory / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.01)
    yield manager
    manager.socket.close()
