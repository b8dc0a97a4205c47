"""rejects.jsonl: the rejected records, where each came from, and why. Always strict JSON in UTF-8."""

import json
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.json_text import encode_json
from services.inputs.places import Places
from services.worker.child.job import RejectsOrigin

SHOWN_BYTES_MAX = 1 << 20  # of a record as JSON; a longer one is cut, and is text then
REASON_LENGTH_MAX = 2000
_DEPTH_MAX = 100  # these three are for records that are not JSON values as they are
_VALUES_MAX = 100_000
_BITS_MAX = 13_000  # Python makes no text of integers with more than 4,300 digits


class Rejects:
    """The open file; it is created with its first line."""

    def __init__(self, path: Path, limit: int | None, task: RejectsOrigin) -> None:
        self.count = 0
        self._path = path
        self._limit = limit
        self._stage, self._index, self._sources = task["stage"], task["index"], task["sources"]
        self._of = {"input": task["input"]} if "input" in task else {}
        self._places: dict[str, Places] = {}
        self._copies: dict[str, Path] = {}
        self._files = ExitStack()

    def add(self, path: Path, number: int, offset: int | None, reason: str, record: Any) -> None:
        """Write record `number` (from 1) of the part; `offset` is its byte in the file, if known.

        Raises TaskError (rejects_exceeded) when there are more than the stage allows.
        """
        if self.count == 0:
            self._file = self._files.enter_context(self._path.open("wb"))
        self.count += 1
        source = {**self._origin(path.name, offset), "record": number}
        reason = _text(reason)
        reason = reason if len(reason) <= REASON_LENGTH_MAX else f"{reason[:REASON_LENGTH_MAX]} …"
        line = encode_json({"stage": self._stage, "index": self._index, "source": source, "reason": reason} | self._of)
        self._file.write(line[:-1] + b',"record":' + _encode(record) + b"}\n")
        if self._limit is not None and self.count > self._limit:
            message = f"more than rejects_max = {self._limit} records were rejected, the last one because: {reason}"
            raise TaskError("rejects_exceeded", message, retryable=False)

    def begin_again(self) -> None:
        """Forget all rejects: the records are read again."""
        self._files.close()
        self._path.unlink(missing_ok=True)
        self.count = 0

    def _origin(self, name: str, offset: int | None) -> dict[str, Any]:
        """The object that the file is a part of, and where the record begins in it."""
        origin = self._sources.get(name)
        if origin is None:
            return {}
        if offset is None:
            return {"uri": origin["uri"]}
        if name not in self._places:
            self._places[name] = Places(origin)
        return {"uri": origin["uri"]} | self._places[name].find(offset)

    @contextmanager
    def naming(self, path: Path) -> Iterator[None]:
        """A TaskError about the input names the object that the file is."""
        try:
            yield
        except TaskError as error:
            uri = self._sources[path.name]["uri"] if path.name in self._sources else path.name
            if error.type != "input_invalid" or uri in error.message:
                raise
            raise TaskError(error.type, f"{uri}: {error.message}", retryable=error.retryable) from None

    def stand_for(self, copy: Path, original: Path) -> None:
        """What is said about the copy of an input's file is about the original."""
        if original.name in self._sources:
            self._sources[copy.name] = self._sources[original.name]
            self._copies[copy.name] = copy

    def name_objects(self, message: str, input: Path) -> str:
        """The message with the objects, which the user knows, in place of the input's files."""
        for name, origin in self._sources.items():
            path = self._copies.get(name) or (input if input.name == name else input / name)
            begin = f" from byte {origin['byte']}" if origin["byte"] else ""
            message = message.replace(str(path), f"{origin['uri']}{begin}")
        return message

    @contextmanager
    def naming_objects(self, input: Path) -> Iterator[None]:
        """Errors name the objects."""
        try:
            yield
        except TaskError as error:
            error.message = self.name_objects(error.message, input)
            raise

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _encode(record: Any) -> bytes:
    """The record as JSON, whatever it is."""
    try:
        encoded = encode_json(record)
    except Malformed:
        encoded = encode_json(_Presentation().of(record))
    if len(encoded) <= SHOWN_BYTES_MAX:
        return encoded
    return encode_json(f"{encoded[:SHOWN_BYTES_MAX].decode(errors='ignore')} …")


class _Presentation:
    """JSON values in place of what JSON can't hold: text, and an ellipsis for what is too deep or too much."""

    def __init__(self) -> None:
        self._values = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        self._values += 1
        if depth > _DEPTH_MAX or self._values > _VALUES_MAX:
            return "…"
        if isinstance(value, Mapping):
            return {_text(key): self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, Set)):
            return [self.of(item, depth + 1) for item in value]
        if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, int) and value.bit_length() <= _BITS_MAX:
            return value
        return _text(value)


def _text(value: Any) -> str:
    """The value as text that is UTF-8."""
    if isinstance(value, (bytes, bytearray)):
        return value.decode(errors="backslashreplace")
    try:
        if isinstance(value, float):
            return json.dumps(value)  # NaN, Infinity, -Infinity
        text = hex(value) if isinstance(value, int) and value.bit_length() > _BITS_MAX else str(value)
    except Exception as broken:  # of a class of the user's
        text = f"({type(value).__name__}, whose __str__ raises {type(broken).__name__})"
    return text.encode(errors="backslashreplace").decode()
