"""What a task works on: the typed values of `tasks.input`, of which each release must read the JSON of the one before.

A splitter makes them, and the database holds their `to_json`. A worker reads them once, when it claims the task.
Unknown keys are ignored; a value that cannot be read is an `UnknownInput`, which fails its own task and no other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from services.contract.location import Location

Json = dict[str, Any]

_LINE_FORMATS = ("text", "jsonl", "csv", "tsv", "fixed")
_LINE_OPTIONS = ("csv", "record_bytes")
_NUMBERED_TYPES = {"parquet": "row_groups", "arrow": "record_batches"}  # of formats as old as the first release


@dataclass(frozen=True, slots=True)
class Place:
    """The origin of a decompressed object: the compressed object, and the byte of its text at which this one begins."""

    location: Location
    byte: int


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Records of an object: its bytes `start … end - 1`, which are read after `header`.

    `options` are further options of the format's reader, as JSON values. `source` is set if the object is a
    decompressed part of another one; then `crc32` is zlib's CRC-32 of these bytes. A format newer than the first
    release has a type of its own in the JSON, so that a worker that does not know it refuses the task instead of
    reading it as lines.
    """

    location: Location
    start: int
    end: int
    format: str = "text"
    etag: str | None = None
    header: str | None = None
    options: Json = field(default_factory=dict)
    source: Place | None = None
    crc32: int | None = None

    @property
    def bytes(self) -> int | None:
        return self.end - self.start

    @classmethod
    def from_json(cls, value: Json) -> "ByteRange":
        is_later = value["type"] == "byte_range"
        source = value.get("source")
        return cls(
            Location.parse(value["uri"]),
            value["start"],
            value["end"],
            value["format"] if is_later else value.get("format", "text"),
            value.get("etag"),
            value.get("header"),
            value["options"] if is_later else _line_options(value),
            Place(Location.parse(source["uri"]), source["byte"]) if source else None,
            value.get("crc32"),
        )

    def to_json(self) -> Json:
        value: Json = {"uri": self.location.uri, "start": self.start, "end": self.end, "format": self.format}
        if self.etag is not None:
            value["etag"] = self.etag
        if self.header is not None:
            value["header"] = self.header
        if self.source is not None:
            value["source"] = {"uri": self.source.location.uri, "byte": self.source.byte}
        if self.crc32 is not None:
            value["crc32"] = self.crc32
        if self.format in _LINE_FORMATS:
            return {"type": "bytes", **value, **self.options}
        return {"type": "byte_range", **value, "options": self.options}


@dataclass(frozen=True, slots=True)
class CompressedBlocks:
    """Records of an object that is compressed in blocks: from a byte of one block's text to a byte of another's.

    `start` and `end` are pairs: the compressed offset of a block, and how many bytes of its text come before. To find
    the end, the object is read up to `read_end`.
    """

    location: Location
    compression: str
    start: tuple[int, int]
    end: tuple[int, int]
    read_end: int
    format: str
    etag: str | None = None
    header: str | None = None
    options: Json = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        return None

    @classmethod
    def from_json(cls, value: Json) -> "CompressedBlocks":
        (start, skip), (end, tail) = value["start"], value["end"]
        return cls(
            Location.parse(value["uri"]),
            value["compression"],
            (start, skip),
            (end, tail),
            value["read_end"],
            value["format"],
            value.get("etag"),
            value.get("header"),
            _line_options(value),
        )

    def to_json(self) -> Json:
        value: Json = {
            "type": "blocks",
            "uri": self.location.uri,
            "compression": self.compression,
            "format": self.format,
        }
        value |= {"start": list(self.start), "end": list(self.end), "read_end": self.read_end}
        return value | _present({"etag": self.etag, "header": self.header}) | self.options


@dataclass(frozen=True, slots=True)
class NumberedBlocks:
    """`count` blocks of an object from number `first` on: what its format calls row groups, record batches, stripes."""

    format: str
    location: Location
    first: int
    count: int
    etag: str | None = None
    bytes: int | None = None

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)

    @classmethod
    def from_json(cls, value: Json) -> "NumberedBlocks":
        format = _FORMAT_OF_NUMBERED.get(value["type"]) or value["format"]
        location, first, count = Location.parse(value["uri"]), value["first"], value["count"]
        return cls(format, location, first, count, value.get("etag"), value.get("bytes"))

    def to_json(self) -> Json:
        named = _NUMBERED_TYPES.get(self.format)
        value: Json = {"type": named} if named else {"type": "numbered_blocks", "format": self.format}
        value |= {"uri": self.location.uri, "first": self.first, "count": self.count}
        return value | _present({"etag": self.etag, "bytes": self.bytes})


_FORMAT_OF_NUMBERED = {type: format for format, type in _NUMBERED_TYPES.items()}


@dataclass(frozen=True, slots=True)
class AvroBlocks:
    """The header of an Avro file, which ends at `header_end`, and its bytes `start … end - 1`: whole blocks."""

    location: Location
    header_end: int
    start: int
    end: int
    etag: str | None = None
    format: ClassVar[str] = "avro"

    @property
    def bytes(self) -> int | None:
        return self.end - self.start

    @classmethod
    def from_json(cls, value: Json) -> "AvroBlocks":
        location = Location.parse(value["uri"])
        return cls(location, value["header_end"], value["start"], value["end"], value.get("etag"))

    def to_json(self) -> Json:
        value: Json = {"type": "avro_blocks", "uri": self.location.uri, "header_end": self.header_end}
        return value | {"start": self.start, "end": self.end} | _present({"etag": self.etag})


@dataclass(frozen=True, slots=True)
class WholeObject:
    """An object as it is, or one version of it; without an ETag and a version, whatever is there. `crc32` is
    zlib's, of what a task has made.

    A version without an ETag has a type of its own in the JSON, so that a worker that does not know versions refuses
    the task instead of reading the newest one. With an ETag, such a worker reads the wanted one or fails its task.
    """

    location: Location
    etag: str | None = None
    bytes: int | None = None
    crc32: int | None = None
    version: str | None = None

    @classmethod
    def from_json(cls, value: Json) -> "WholeObject":
        version = value["version"] if value.get("type") == "object_version" else value.get("version")
        location = Location.parse(value["uri"])
        return cls(location, value.get("etag"), value.get("bytes"), value.get("crc32"), version)

    def to_json(self) -> Json:
        return {"type": "object_version" if self.needs_version else "object", **self._place()}

    @property
    def needs_version(self) -> bool:
        return self.version is not None and self.etag is None

    def _place(self) -> Json:
        known = {"etag": self.etag, "bytes": self.bytes, "crc32": self.crc32, "version": self.version}
        return {"uri": self.location.uri} | _present(known)


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """Several objects; the task gets them as a directory of files."""

    objects: tuple[WholeObject, ...]

    @property
    def bytes(self) -> int | None:
        return _sum(object_.bytes for object_ in self.objects)

    @classmethod
    def from_json(cls, value: Json) -> "ObjectGroup":
        return cls(tuple(map(WholeObject.from_json, value["objects"])))

    def to_json(self) -> Json:
        type = "object_versions" if any(object_.needs_version for object_ in self.objects) else "objects"
        return {"type": type, "objects": [object_._place() for object_ in self.objects]}


@dataclass(frozen=True, slots=True)
class Item:
    """One JSON value."""

    value: Any
    bytes: ClassVar[int | None] = None

    @classmethod
    def from_json(cls, value: Json) -> "Item":
        return cls(value["value"])

    def to_json(self) -> Json:
        return {"type": "item", "value": self.value}


@dataclass(frozen=True, slots=True)
class Index:
    """A place in an array job of `count` tasks: the task's own index, or the number that the job gives it instead.

    With a number, it has a type of its own in the JSON: to the release before, a task's number was always its index.
    """

    count: int
    number: int | None = None
    bytes: ClassVar[int | None] = None

    @classmethod
    def from_json(cls, value: Json) -> "Index":
        return cls(value["count"], value["number"] if value["type"] == "array_index" else None)

    def to_json(self) -> Json:
        if self.number is None:
            return {"type": "index", "count": self.count}
        return {"type": "array_index", "number": self.number, "count": self.count}


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of other tasks, listed in an object: a `ListedOutput` on each line. `crc32` is zlib's of the listing.

    They are those of `stage` with an index from `first` to `last`, so that they can be listed again.
    """

    location: Location
    crc32: int | None = None
    stage: int | None = None
    first: int | None = None
    last: int | None = None
    bytes: ClassVar[int | None] = None

    @classmethod
    def from_json(cls, value: Json) -> "Outputs":
        known = (value.get(name) for name in ("crc32", "stage", "first", "last"))
        return cls(Location.parse(value["uri"]), *known)

    def to_json(self) -> Json:
        known = {"crc32": self.crc32, "stage": self.stage, "first": self.first, "last": self.last}
        return {"type": "outputs", "uri": self.location.uri} | _present(known)


@dataclass(frozen=True, slots=True)
class Split:
    """An input of the job, as in its specification, that the task splits into the inputs of the next stage.

    It is split by small reads for a pool of `slots`, next to another input of the job that needs a task.
    """

    source: Mapping[str, Any]
    slots: int
    bytes: ClassVar[int | None] = None

    @property
    def location(self) -> Location:
        """What the input names in S3: an object or a prefix."""
        return Location.parse(self.source["prefix" if "prefix" in self.source else "uri"])

    def to_json(self) -> Json:
        return {"type": "split", "input": self.source, "slots": self.slots}


@dataclass(frozen=True, slots=True)
class GridSplit:
    """An object that can only be split by reading every byte; `bytes` is the size of its text, possibly a guess."""

    source: Mapping[str, Any]
    location: Location
    etag: str
    bytes: int
    part_bytes: int

    def to_json(self) -> Json:
        value: Json = {"type": "split", "input": self.source}
        return value | {"etag": self.etag, "bytes": self.bytes, "part_bytes": self.part_bytes}


def _read_split(value: Json) -> Split | GridSplit:
    source = value["input"]
    if "etag" not in value:
        return Split(source, value["slots"])
    return GridSplit(source, Location.parse(source["uri"]), value["etag"], value["bytes"], value["part_bytes"])


@dataclass(frozen=True, slots=True)
class UnknownInput:
    """A value that this release cannot read: from a newer one, or damaged. `reason` tells the job's user."""

    reason: str
    bytes: ClassVar[int | None] = None


FormatPart = ByteRange | CompressedBlocks | NumberedBlocks | AvroBlocks  # what the folder of a format fetches
KnownInput = FormatPart | WholeObject | ObjectGroup | Item | Index | Outputs | Split | GridSplit
TaskInput = KnownInput | UnknownInput

_READERS: dict[str, Callable[[Json], KnownInput]] = {
    "bytes": ByteRange.from_json,
    "byte_range": ByteRange.from_json,
    "blocks": CompressedBlocks.from_json,
    "row_groups": NumberedBlocks.from_json,
    "record_batches": NumberedBlocks.from_json,
    "numbered_blocks": NumberedBlocks.from_json,
    "avro_blocks": AvroBlocks.from_json,
    "object": WholeObject.from_json,
    "object_version": WholeObject.from_json,
    "objects": ObjectGroup.from_json,
    "object_versions": ObjectGroup.from_json,
    "item": Item.from_json,
    "index": Index.from_json,
    "array_index": Index.from_json,
    "outputs": Outputs.from_json,
    "split": _read_split,
}


def parse_input(value: Any) -> TaskInput:
    """The task input that a value of `tasks.input` stands for; never raises."""
    try:
        type = value["type"]
        read = _READERS.get(type)
        return read(value) if read else UnknownInput(f"this worker knows no input of type {type!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return UnknownInput(f"the task's input cannot be read: {error!r} in {value!r:.500}")


def _line_options(value: Json) -> Json:
    return {name: value[name] for name in _LINE_OPTIONS if name in value}


def _present(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _sum(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)
