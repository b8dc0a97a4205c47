"""What a job works on: the types of input, the formats that they read, and the words of their fields' options.

A new format is a shape here, with its place in `Input`, and a row of FORMATS. A field with an Option is an option of
`piecework submit` and `split` by its name.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

Format = Literal["text", "jsonl", "csv", "tsv", "fixed"]
ManifestFormat = Literal["csv", "jsonl", "parquet", "inventory"]
ManifestField = Literal["bucket", "key", "uri", "etag", "version_id", "size", "ignore"]
Compression = Literal["none", "gzip", "zstd"]


class _Format(NamedTuple):
    """The type of input that reads a format, and the suffixes of objects that have it."""

    type: str
    suffixes: tuple[str, ...] = ()


FORMATS = {
    "text": _Format("lines"),
    "jsonl": _Format("lines", (".jsonl", ".ndjson")),
    "csv": _Format("lines", (".csv",)),
    "tsv": _Format("lines", (".tsv",)),
    "fixed": _Format("lines"),
    "parquet": _Format("parquet", (".parquet",)),
    "arrow": _Format("arrow", (".arrow", ".feather")),
    "orc": _Format("orc", (".orc",)),
    "avro": _Format("avro", (".avro",)),
    "xml": _Format("xml", (".xml",)),
}


class Option(NamedTuple):
    """The command-line option of a field; `parse` makes the field's value of the option's text, or raises ValueError.

    A bool has an option that says yes, and one that says no if it is `negatable`. A list is repeatable.
    """

    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    negatable: bool = False


def _seconds(text: str) -> float:
    from piecework.units import parse_duration

    return parse_duration(text)


def _size(text: str) -> int:
    from piecework.units import parse_size

    return parse_size(text)


def _names(text: str) -> list[str]:
    return text.split(",")


CompressionOption = Annotated[Compression | None, Option("Compression of the input; default: by its suffix.")]
PartBytes = Annotated[int | str | None, Option("Size of a part, such as 8MiB.", "SIZE", _size)]


class _Sized(TypedDict):
    part_bytes: NotRequired[PartBytes]
    parts: NotRequired[Annotated[int | None, Option("Number of parts, instead of their size.", "N")]]


class LinesResplit(_Sized):
    """How the outputs of the stage before are split again."""

    type: Literal["lines"]
    format: NotRequired[Format]
    compression: NotRequired[CompressionOption]
    header: NotRequired[
        Annotated[
            bool,
            Option("Whether the first record of CSV and TSV names the columns; default: it does.", negatable=True),
        ]
    ]
    delimiter: NotRequired[
        Annotated[str | None, Option("Between the fields of CSV and TSV; default: comma, tab.", "CHARACTER")]
    ]
    quote: NotRequired[
        Annotated[
            str | None,
            Option("Around fields of CSV and TSV; default: \"; '' for none.", "CHARACTER", lambda text: text or None),
        ]
    ]
    escape: NotRequired[
        Annotated[str | None, Option("Before a character of CSV and TSV to take literally.", "CHARACTER")]
    ]
    multiline: NotRequired[Annotated[bool, Option("Quoted fields of CSV and TSV may hold newlines.")]]
    record_bytes: NotRequired[
        Annotated[int | str | None, Option("Length of each record of --format fixed.", "SIZE", _size)]
    ]


class LinesInput(LinesResplit):
    """One object of lines, JSONL, CSV, TSV, or records of one length."""

    uri: str


class ParquetInput(_Sized):
    type: Literal["parquet"]
    uri: str
    row_groups: NotRequired[Annotated[int | None, Option("Parquet row groups per part.", "N")]]


class ArrowInput(_Sized):
    """One Arrow IPC file (Feather version 2)."""

    type: Literal["arrow"]
    uri: str


class OrcInput(_Sized):
    """One ORC file."""

    type: Literal["orc"]
    uri: str


class AvroInput(_Sized):
    type: Literal["avro"]
    uri: str


class XmlInput(_Sized):
    """One XML document, whose elements named `record_tag` are the records."""

    type: Literal["xml"]
    uri: str
    record_tag: Annotated[str, Option("Name of the XML elements that are records, such as claim.", "NAME")]
    lists: NotRequired[Annotated[list[str], Option("XML elements that are lists in any case; repeatable.", "NAME")]]
    scan: NotRequired[Annotated[bool, Option("Let one task read the whole XML object to find its records.")]]
    compression: NotRequired[CompressionOption]


class _Grouped(TypedDict):
    include: NotRequired[Annotated[str | list[str], Option("Take only objects that match; repeatable.", "GLOB")]]
    exclude: NotRequired[Annotated[str | list[str], Option("Leave out objects that match; repeatable.", "GLOB")]]
    markers: NotRequired[Annotated[bool, Option("Take marker objects, too, such as _SUCCESS and .DS_Store.")]]
    objects_per_task: NotRequired[
        Annotated[int | None, Option("Objects per task, which gets them as a directory.", "N")]
    ]
    part_bytes: NotRequired[PartBytes]


class ObjectsInput(_Grouped):
    """The objects under a prefix."""

    type: Literal["objects"]
    prefix: str


class ManifestInput(_Grouped):
    """The objects that a manifest or an S3 Inventory lists."""

    type: Literal["manifest"]
    uri: str
    format: NotRequired[ManifestFormat | None]
    fields: NotRequired[
        Annotated[
            list[ManifestField] | None,
            Option("Columns of a manifest in CSV, such as bucket,key,version_id.", "NAMES", _names),
        ]
    ]
    keys: NotRequired[
        Annotated[
            Literal["plain", "url_encoded"] | None, Option("How a manifest writes keys; default: it is found out.")
        ]
    ]
    versions: NotRequired[
        Annotated[Literal["latest", "all"], Option("Which of the versions that an inventory lists; default: latest.")]
    ]


class ItemsInput(TypedDict):
    """A list of JSON values, each a task."""

    type: Literal["items"]
    items: list[Any]


class RangeInput(TypedDict):
    """An array job: `count` tasks, or one for each number from `start` to `stop - 1`, or for each of `values`."""

    type: Literal["range"]
    count: NotRequired[int | None]
    start: NotRequired[int | None]
    stop: NotRequired[int | None]
    step: NotRequired[int | None]
    values: NotRequired[list[int] | None]


class StreamInput(TypedDict):
    """Items that are appended while the job runs; it fails if none come for `idle_seconds`."""

    type: Literal["stream"]
    idle_seconds: NotRequired[
        Annotated[float | str, Option("How long an open job may get no items, such as 2h.", "DURATION", _seconds)]
    ]


Input = (
    LinesInput
    | ParquetInput
    | ArrowInput
    | OrcInput
    | AvroInput
    | XmlInput
    | ObjectsInput
    | ManifestInput
    | ItemsInput
    | RangeInput
    | StreamInput
)
