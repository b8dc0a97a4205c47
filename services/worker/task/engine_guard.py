"""Removes a worker's containers when the worker is gone: `python engine_guard.py SOCKET LABEL=VALUE`.

It waits for the end of its standard input, which the worker holds open; the kernel closes it however the worker ends.
It imports nothing of Piecework, so that it starts quickly and stays small.
"""

import http.client
import json
import socket
import sys
from urllib.parse import quote


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str, method: str, target: str) -> bytes:
    connection = _Connection(path)
    try:
        connection.request(method, target)
        return connection.getresponse().read()
    finally:
        connection.close()


def remove_containers(path: str, label: str) -> None:
    """Remove all containers that have the label, running or not. Raises OSError."""
    filters = quote(json.dumps({"label": [label]}))
    for found in json.loads(_ask(path, "GET", f"/containers/json?all=1&filters={filters}")):
        _ask(path, "DELETE", f"/containers/{found['Id']}?force=1&v=1")


if __name__ == "__main__":
    sys.stdin.buffer.read()
    remove_containers(sys.argv[1], sys.argv[2])
