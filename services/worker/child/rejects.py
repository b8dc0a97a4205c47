"""rejects.jsonl: the rejected records, where each came from, and why."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.places import Places
from services.worker.child.job import RejectsOrigin


class Rejects:
    """The open file; it is created with its first line."""

    def __init__(self, path: Path, limit: int | None, task: RejectsOrigin) -> None:
        self.count = 0
        self._path = path
        self._limit = limit
        self._stage, self._index, self._sources = task["stage"], task["index"], task["sources"]
        self._places: dict[str, Places] = {}
        self._copies: dict[str, Path] = {}
        self._files = ExitStack()

    def add(self, path: Path, number: int, offset: int | None, reason: str, record: Any) -> None:
        """Write record `number` (from 1) of the part; `offset` is its byte in the file, if known.

        Raises TaskError (rejects_exceeded) when there are more than the stage allows.
        """
        if self.count == 0:
            self._file = self._files.enter_context(self._path.open("w"))
        self.count += 1
        source = {**self._origin(path.name, offset), "record": number}
        line = {"stage": self._stage, "index": self._index, "source": source, "reason": reason, "record": record}
        self._file.write(json.dumps(line, default=str) + "\n")
        if self._limit is not None and self.count > self._limit:
            message = f"more than rejects_max = {self._limit} records were rejected, the last one because: {reason}"
            raise TaskError("rejects_exceeded", message, retryable=False)

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

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
