"""The items that a task of a fan-out stage yields: each becomes a task of the next stage."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from services.contract.task_error import Malformed, TaskError
from services.inputs.json_text import encode_json


def write_items_of_list(values: list[Any], listing: Path) -> int:
    """Write each element as an item; returns how many. Raises TaskError (output_invalid) if one is not a JSON value."""
    return _write(map(encode_json, values), listing)


def write_items_of_lines(output: Path, listing: Path) -> int:
    """Write each line of the output, a JSON value, as an item; skip blank ones. Returns how many (0 without an output).

    Raises TaskError (output_invalid) for a line that is not JSON.
    """
    if output.exists() and not output.is_file():
        message = f"the output {output.name!r} is not a regular file; does the processor need `output_directory: true`?"
        raise TaskError("output_invalid", message, retryable=False)
    return _write(_lines(output) if output.exists() else (), listing)


def _lines(output: Path) -> Iterator[bytes]:
    with output.open("rb") as lines:
        for line in lines:
            if value := line.strip():
                try:
                    orjson.loads(value)
                except orjson.JSONDecodeError as error:
                    raise Malformed(f"is not a line of JSON: {error}") from None
                yield value


def _write(values: Iterable[bytes], listing: Path) -> int:
    """piecework-items.jsonl: one task input per line."""
    count = 0
    with listing.open("wb", buffering=1 << 20) as file:
        try:
            for value in values:
                if b"\\u0000" in value:
                    raise Malformed("holds text with a NUL character")
                file.write(b'{"type":"item","value":%b}\n' % value)
                count += 1
        except Malformed as error:
            raise TaskError("output_invalid", f"item {count + 1} {error}", retryable=False) from None
    return count
