"""The socket of a service manager, which services tell of themselves."""

import socket
from pathlib import Path


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
