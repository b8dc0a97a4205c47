"""A task's results: the typed values of `tasks.output`, of which each release must read the JSON of the one before.

A worker makes them when it reports a success. Unknown keys are ignored on reading, and so are missing ones.

The results of a whole stage, `stages.result`, are {"files": [file, …], "manifest": file}, each file with its name, uri,
bytes and checksum_crc32 (services/scheduler/merges/outputs.file_facts); a stage that others follow has one file or no
result.
"""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from services.contract.location import Location

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that was put, and zlib's CRC-32 of its bytes, of which the first `header_bytes` are a header.

    Of text, `missing_end` is the line end that its last line lacks, or empty; and `mark` its byte order mark. They are
    None and empty for other outputs, and for all that workers of earlier releases put.
    """

    location: Location
    bytes: int
    crc32: int | None = None
    header_bytes: int = 0
    header_crc32: int | None = None
    etag: str | None = None
    missing_end: builtins.bytes | None = None
    mark: builtins.bytes = b""

    @classmethod
    def from_json(cls, value: Json) -> "StoredObject":
        location, header_bytes = Location.parse(value["uri"]), value.get("header_bytes") or 0
        end = value.get("missing_end")
        return cls(
            location,
            value.get("bytes") or 0,
            value.get("crc32"),
            header_bytes,
            value.get("header_crc32"),
            value.get("etag"),
            None if end is None else builtins.bytes.fromhex(end),
            builtins.bytes.fromhex(value.get("mark") or ""),
        )

    def to_json(self) -> Json:
        value: Json = {"uri": self.location.uri, "bytes": self.bytes, "crc32": self.crc32}
        if self.etag is not None:
            value["etag"] = self.etag
        if self.header_bytes:
            value |= {"header_bytes": self.header_bytes, "header_crc32": self.header_crc32}
        if self.missing_end is not None:
            value["missing_end"] = self.missing_end.hex()
        return value | ({"mark": self.mark.hex()} if self.mark else {})


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """The stored results of a task; empty if it neither wrote nor returned anything.

    `object` is the output, with its number of records if that is known; of a fan-out stage's task it is the listing of
    its `items`, a task input a line. `files` are the further outputs by their names, `rejects` the records set aside,
    `value` the small JSON value that a callable returned.
    """

    object: StoredObject | None = None
    records: int | None = None
    items: int | None = None
    files: Mapping[str, StoredObject] = field(default_factory=dict)
    rejects: StoredObject | None = None
    value: Any = None

    @classmethod
    def from_json(cls, value: Json | None) -> "TaskOutput":
        """Of a value of `tasks.output`, which is null for an empty one."""
        if not value:
            return _EMPTY
        return cls(
            StoredObject.from_json(value) if "uri" in value else None,
            value.get("records"),
            value.get("items"),
            {name: StoredObject.from_json(file) for name, file in value.get("files", {}).items()},
            _rejects(value) if "rejects" in value else None,
            value.get("value"),
        )

    def named_files(self, index: int, folders: str | None = None) -> list[tuple[str, StoredObject]]:
        """What task `index` has made, by the names among the results: `00000007.csv`, `00000007-summary.json`.

        With `folders`, the output is named as the processor has named it, below them.
        """
        made = []
        if self.object is not None:
            name = PurePosixPath(self.object.location.uri)
            made = [(f"{index:08d}{name.suffix}" if folders is None else f"{folders}{name.name}", self.object)]
        further = [(PurePosixPath(file.location.uri).name, file) for _, file in sorted(self.files.items())]
        return made + [(f"{index:08d}-{name}", file) for name, file in further]

    def to_json(self) -> Json | None:
        value: Json = self.object.to_json() if self.object else {}
        if self.files:
            value["files"] = {name: file.to_json() for name, file in self.files.items()}
        if self.rejects:
            value |= {"rejects": self.rejects.location.uri, "rejects_bytes": self.rejects.bytes}
            value["rejects_crc32"] = self.rejects.crc32
            if self.rejects.etag is not None:
                value["rejects_etag"] = self.rejects.etag
        known = {"records": self.records, "items": self.items, "value": self.value}
        return value | {name: fact for name, fact in known.items() if fact is not None} or None


_EMPTY = TaskOutput()


@dataclass(frozen=True, slots=True)
class ListedOutput:
    """A line of the listing that a task of a reduce works on: the object or the value that another task has made."""

    index: int
    attempt: int
    location: Location | None = None
    value: Any = None
    crc32: int | None = None

    @classmethod
    def from_json(cls, line: Json) -> "ListedOutput":
        location = Location.parse(line["uri"]) if "uri" in line else None
        return cls(line["index"], line["attempt"], location, line.get("value"), line.get("crc32"))

    def to_json(self) -> Json:
        uri = self.location.uri if self.location else None
        known = {"uri": uri, "crc32": self.crc32, "value": self.value}
        line = {"index": self.index, "attempt": self.attempt}
        return line | {name: fact for name, fact in known.items() if fact is not None}


def _rejects(value: Json) -> StoredObject:
    location, size = Location.parse(value["rejects"]), value.get("rejects_bytes") or 0
    return StoredObject(location, size, value.get("rejects_crc32"), etag=value.get("rejects_etag"))
