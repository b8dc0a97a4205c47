"""The types of a job's input, each with the options of its splitter (services/inputs/*/split.py)."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from services.contract.fields import DURATION, SIZE, ObjectUri, PrefixUri, Strict
from services.inputs.chunk import TASKS_MAX
from services.inputs.csv_dialect import CsvDialect
from services.inputs.registry import COMPRESSION_OF_SUFFIX, compression_suffix

Format = Literal["text", "jsonl", "csv", "tsv", "fixed"]
Compression = Literal["none", "gzip", "zstd"]

ManifestField = Literal["bucket", "key", "uri", "etag", "version_id", "size", "ignore"]

OBJECTS_PER_TASK_MAX = 1000
GLOBS_MAX = 100
GLOB_CHARACTERS_MAX = 16_384  # of all globs of a list


def _one_ascii_character(value: str) -> str:
    if len(value) != 1 or not value.isascii() or value in "\r\n\0":
        raise ValueError("write one ASCII character, no line end and no NUL")
    return value


def _an_element_name(value: str) -> str:
    """Namespaces in XML 1.0, 4: QName."""
    if re.fullmatch(r"(?:[^\W\d][\w.·-]*:)?[^\W\d][\w.·-]*", value) is None:
        raise ValueError("write an element's name as the document has it, without < and >: claim, or c:claim")
    return value


def _short(globs: str | list[str]) -> str | list[str]:
    """Patterns are compiled, and matched with every key."""
    if isinstance(globs, list) and (size := sum(map(len, globs))) > GLOB_CHARACTERS_MAX:
        raise ValueError(f"these globs have {size} characters: write at most {GLOB_CHARACTERS_MAX}, or fewer globs")
    return globs


Character = Annotated[
    str, AfterValidator(_one_ascii_character), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 1})
]
ElementName = Annotated[str, Field(max_length=200), AfterValidator(_an_element_name)]
Glob = Annotated[str, Field(max_length=1024)]
Globs = Annotated[Glob | Annotated[list[Glob], Field(max_length=GLOBS_MAX)], AfterValidator(_short)]


class _Sized(Strict):
    """The size of a part or the number of parts; by default, the input's size and the pool's slots decide."""

    part_bytes: Annotated[int, Field(ge=1, le=5_368_709_120), SIZE] | None = Field(
        None, description="target size of a part; absent: each slot of the pool gets 4 or more, of 1 MiB to 128 MiB"
    )
    parts: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="target number of parts, instead of part_bytes"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.part_bytes is not None and self.parts is not None:
            raise ValueError("give part_bytes or parts, not both")
        return self


class Streamed(_Sized):
    """Records that can be found by reading every byte, compressed or not; a task on the grid does it if needed."""

    compression: Compression | None = Field(None, description="how the outputs are compressed; absent: not at all")

    @model_validator(mode="after")
    def _parts_can_be_told(self) -> Self:
        if self.parts is not None and self.compressed:
            raise ValueError("the decompressed size of an object is not known in advance: give part_bytes, not parts")
        return self

    @property
    def compressed(self) -> Literal["gzip", "zstd"] | None:
        return None if self.compression == "none" else self.compression

    @property
    def needs_grid(self) -> bool:
        """Whether small reads can't tell where records end."""
        return self.compressed is not None


class StreamedObject(Streamed):
    """Such records in an object, whose name may tell its compression."""

    uri: ObjectUri
    compression: Compression | None = Field(
        None, description="absent: gzip for .gz and .bgz, zstd for .zst, otherwise none"
    )

    @model_validator(mode="after")
    def _compression_is_known(self) -> Self:
        if self.compression is None and self._named_compression in ("bzip2", "xz"):
            raise ValueError(
                "bzip2 and xz can't be split: compress it as gzip or zstd, take it whole by type objects or manifest, "
                "or set compression: none if only the name is wrong"
            )
        return self

    @property
    def compressed(self) -> Literal["gzip", "zstd"] | None:
        found = self.compression or self._named_compression
        return None if found in (None, "none") else found  # type: ignore[return-value]

    @property
    def _named_compression(self) -> str | None:
        return COMPRESSION_OF_SUFFIX.get(compression_suffix(self.uri))


class LinesResplit(Streamed):
    """The outputs of the previous stage, joined and cut at record ends like an input: by small reads or by a task."""

    type: Literal["lines"]
    format: Format = "text"
    header: bool = Field(
        True, description="csv and tsv: the first record names the columns, and is repeated at the start of each part"
    )
    delimiter: Character | None = Field(None, description="csv and tsv; absent: a comma for csv, a tab for tsv")
    quote: Character | None = Field('"', description="csv and tsv; a doubled quote stands for itself; null: no quoting")
    escape: Character | None = Field(None, description="csv and tsv: the next character is taken literally")
    multiline: bool = Field(False, description="csv and tsv: quoted fields may hold newlines")
    record_bytes: Annotated[int, Field(ge=1, le=1_073_741_824), SIZE] | None = Field(
        None, description="fixed: the length of every record, including its line end, if any"
    )

    @model_validator(mode="after")
    def _format_has_what_it_needs(self) -> Self:
        if (self.format == "fixed") != (self.record_bytes is not None):
            raise ValueError("record_bytes belongs to format fixed, which needs it")
        if self.multiline and self.format not in ("csv", "tsv"):
            raise ValueError(
                f"multiline: true belongs to the formats csv and tsv, not to {self.format}: leave it out or set format"
            )
        if self.csv and self.csv.delimiter in (self.quote, self.escape):
            raise ValueError("delimiter must differ from quote and escape")
        return self

    @property
    def needs_grid(self) -> bool:
        return self.multiline or super().needs_grid

    @property
    def csv(self) -> CsvDialect | None:
        """How CSV and TSV are written; None for the other formats."""
        if self.format not in ("csv", "tsv"):
            return None
        delimiter = self.delimiter or ("," if self.format == "csv" else "\t")
        escape = None if self.escape == self.quote else self.escape  # another way to describe a doubled quote
        return CsvDialect(delimiter, self.quote, escape, self.header)


class LinesInput(StreamedObject, LinesResplit):
    """An object of records that end in line ends (or have a fixed length), cut between records by small reads.

    A task on the grid splits a compressed object, and CSV whose fields may hold newlines.
    """


class _Blocks(_Sized):
    """An object cut between its own blocks."""

    uri: ObjectUri


class ParquetInput(_Blocks):
    """A Parquet object, cut between row groups by its footer."""

    type: Literal["parquet"]
    row_groups: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="row groups per task, instead of part_bytes and parts"
    )

    @model_validator(mode="after")
    def _one_size_of_three(self) -> Self:
        if self.row_groups is not None and (self.part_bytes or self.parts):
            raise ValueError("give only one of row_groups, part_bytes and parts")
        return self


class ArrowInput(_Blocks):
    """An Arrow IPC file (Feather version 2), cut between record batches by its footer."""

    type: Literal["arrow"]


class AvroInput(_Blocks):
    """An Avro object container file, cut at its sync markers."""

    type: Literal["avro"]


class OrcInput(_Blocks):
    """An ORC object, cut between stripes by its footer."""

    type: Literal["orc"]


class XmlInput(StreamedObject):
    """An XML document, cut between its records by small reads or, if needed, by a task on the grid."""

    type: Literal["xml"]
    record_tag: ElementName = Field(description="the name of the elements that are records, as the document writes it")
    lists: Annotated[list[ElementName], Field(max_length=100)] = Field(
        [], description="names of elements that are always lists, even if there is only one of them"
    )
    scan: bool = Field(
        False,
        description="have a task read the whole object to find its records, because they nest, comments or CDATA hold "
        "their start tag, or the elements around them change",
    )

    @property
    def needs_grid(self) -> bool:
        return self.scan or super().needs_grid


class _Grouped(Strict):
    """Which of many objects to take, and how many of them make a task (default: one)."""

    include: Globs = Field("*", description="an object must match one of these globs")
    exclude: Globs = Field([], description="an object must not match any of these globs")
    markers: bool = Field(
        False,
        description="take marker objects, too, such as _SUCCESS, .crc and .DS_Store; by default, only those for which "
        "`include` has a glob of their own are taken",
    )
    objects_per_task: Annotated[int, Field(ge=1, le=OBJECTS_PER_TASK_MAX)] | None = Field(
        None, description="objects per task; the task's input is a directory of them"
    )
    part_bytes: Annotated[int, Field(ge=1, le=5_368_709_120), SIZE] | None = Field(
        None, description=f"group objects into tasks of about this many bytes (at most {OBJECTS_PER_TASK_MAX} objects)"
    )

    @model_validator(mode="after")
    def _one_grouping(self) -> Self:
        if self.objects_per_task is not None and self.part_bytes is not None:
            raise ValueError("give objects_per_task or part_bytes, not both")
        return self


class ObjectsInput(_Grouped):
    """The objects under a prefix, in the order of their keys; globs match the key after the prefix."""

    type: Literal["objects"]
    prefix: PrefixUri


class ManifestInput(_Grouped):
    """The objects that a manifest lists, in its order; globs match the whole key.

    CSV: bucket,key a line, possibly with an ETag or a version, as for S3 Batch Operations. JSONL: {"bucket", "key"} or
    {"uri"} a line. Parquet: columns bucket and key, or uri. inventory: the manifest.json of an S3 Inventory.
    """

    type: Literal["manifest"]
    uri: ObjectUri
    format: Literal["csv", "jsonl", "parquet", "inventory"] | None = Field(
        None, description="absent: by the name; manifest.json is an inventory"
    )
    fields: Annotated[list[ManifestField], Field(min_length=1, max_length=100)] | None = Field(
        None,
        description="csv: what each column is; absent: by a header line, otherwise bucket,key and, by its form, an "
        "ETag or a version",
    )
    keys: Literal["plain", "url_encoded"] | None = Field(
        None,
        description="how keys are written; absent: url_encoded in an inventory in CSV and in a csv with versions, by "
        "which objects exist in another csv, otherwise plain",
    )
    versions: Literal["latest", "all"] = Field(
        "latest", description="of a list of versions, only the latest ones or all; never delete markers"
    )

    @model_validator(mode="after")
    def _fields_name_an_object(self) -> Self:
        told = [name for name in self.fields or ["uri"] if name != "ignore"]
        if len(set(told)) < len(told) or not ({"bucket", "key"} <= set(told) or "uri" in told):
            raise ValueError("fields need bucket and key, or uri, and each only once; write ignore for other columns")
        return self


class ItemsInput(Strict):
    """Every JSON value of the list becomes a task."""

    type: Literal["items"]
    items: Annotated[list[Any], Field(min_length=1, max_length=1_000_000)]


class StreamInput(Strict):
    """Items that are appended while the job runs (append_items), until it is closed (close_job)."""

    type: Literal["stream"]
    idle_seconds: Annotated[float, Field(ge=1, le=604_800), DURATION] = Field(
        3600.0, description="a job to which nothing is appended for so long fails, once its tasks have ended"
    )


ArrayNumber = Annotated[int, Field(ge=0, le=2_147_483_647)]


class RangeInput(Strict):
    """An array job: tasks that differ by a number, their index or one that the job gives them.

    It is 0 to `count - 1`, or `start` to `stop - 1` in steps of `step`, or one of `values`.
    """

    type: Literal["range"]
    count: Annotated[int, Field(ge=1, le=TASKS_MAX)] | None = Field(None, description="tasks, numbered from 0")
    start: ArrayNumber | None = Field(None, description="number of the first task; absent: 0")
    stop: Annotated[int, Field(ge=1, le=2_147_483_648)] | None = Field(
        None, description="instead of count: the tasks' numbers are less than this"
    )
    step: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        None, description="from one task's number to the next one's; absent: 1"
    )
    values: Annotated[list[ArrayNumber], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="instead of count and stop: the tasks' numbers themselves"
    )

    @model_validator(mode="after")
    def _says_the_numbers_once(self) -> Self:
        given = [name for name in ("count", "stop", "values") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of count, stop (with start and step), and values; got {given or 'none'}")
        if self.stop is None and (self.start, self.step) != (None, None):
            raise ValueError(f"start and step go with stop, not with {given[0]}: leave them out or give stop instead")
        if not self.numbers:
            raise ValueError(f"no number lies from start ({self.start}) to stop - 1: stop must be greater than start")
        if len(self.numbers) > TASKS_MAX:
            raise ValueError(f"these are {len(self.numbers)} tasks, more than {TASKS_MAX}: take a larger step")
        if len(set(self.values or ())) < len(self.values or ()):
            raise ValueError("a number is twice among values: write each once")
        return self

    @property
    def numbers(self) -> Sequence[int]:
        """The number of each task, by its index."""
        if self.values is not None:
            return self.values
        return range(self.start or 0, self.count or self.stop or 0, self.step or 1)

    @property
    def counts_from_0(self) -> bool:
        """Whether each task's number is its index."""
        return self.numbers == range(len(self.numbers))


Input = Annotated[
    LinesInput
    | ObjectsInput
    | ManifestInput
    | ItemsInput
    | RangeInput
    | StreamInput
    | ParquetInput
    | ArrowInput
    | AvroInput
    | OrcInput
    | XmlInput,
    Field(discriminator="type"),
]


def _one_or_several(value: Any) -> str:
    return "(several)" if isinstance(value, list) else "(one)"


def _count_on(inputs: list[Input]) -> list[Input]:
    if any(isinstance(one, StreamInput) for one in inputs):
        raise ValueError("a stream is a job's only input: write it without a list")
    if len(inputs) > 1 and any(isinstance(one, RangeInput) and not one.counts_from_0 for one in inputs):
        raise ValueError("tasks of several inputs are numbered from 0: give count, or make the range the only input")
    return inputs


Inputs = Annotated[
    Annotated[Input, Tag("(one)")]
    | Annotated[list[Input], Field(min_length=1, max_length=1000), AfterValidator(_count_on), Tag("(several)")],
    Discriminator(_one_or_several),
]

Resplit = LinesResplit


def count_tasks(inputs: Sequence[Input]) -> int | None:
    """How many tasks these inputs make; None if that is not known before anything is read."""
    counts = []
    for source in inputs:
        match source:
            case RangeInput():
                counts.append(len(source.numbers))
            case ItemsInput():
                counts.append(len(source.items))
            case _:
                return None
    return sum(counts)


def names_objects(source: Input) -> bool:
    """Whether such an input's tasks work on objects, not on values or numbers that the job itself has."""
    return source.type not in ("items", "range", "stream")


def tells_types(source: Input) -> bool:
    """Whether each part of such an input itself tells the types of its columns: those of CSV with a header are text."""
    if isinstance(source, LinesInput):
        return source.csv is not None and source.csv.header
    return source.type in ("parquet", "arrow", "orc", "avro", "range")
