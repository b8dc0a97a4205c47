"""GET from a local server, without an HTTP library to load."""

import asyncio
import json
from typing import Any


async def get(url: str, api_key: str | None = None) -> tuple[int, bytes]:
    """Status and body; status 0 if there is no answer."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    head = [f"GET /{path} HTTP/1.0", f"Host: {address}"]
    if api_key is not None:
        head.append(f"Authorization: Bearer {api_key}")
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write("\r\n".join([*head, "", ""]).encode())
            answer = await reader.read()
            writer.close()
    except OSError:  # TimeoutError is one
        return 0, b""
    status, _, rest = answer.partition(b"\r\n")
    words = status.split()
    return int(words[1]) if len(words) > 1 else 0, rest.partition(b"\r\n\r\n")[2]


async def get_json(url: str, api_key: str) -> Any:
    """The JSON value of a successful answer, otherwise None."""
    status, body = await get(url, api_key)
    return json.loads(body) if status == 200 else None
