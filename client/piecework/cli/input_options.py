"""The options that say what a job works on, and which formats the command knows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import typer

from piecework.cli.job_file import from_here, given, mapping_in, option_of, parsed
from piecework.errors import InputError


class _Format(NamedTuple):
    """The type of input that reads a format, and the suffixes of objects that have it."""

    type: str
    suffixes: tuple[str, ...] = ()


# A format is a line here; a new option of it is a field of InputOptions.
FORMATS: Mapping[str, _Format] = {
    "text": _Format("lines"),
    "jsonl": _Format("lines", (".jsonl", ".ndjson")),
    "csv": _Format("lines", (".csv",)),
    "tsv": _Format("lines", (".tsv",)),
    "fixed": _Format("lines"),
    "parquet": _Format("parquet", (".parquet",)),
    "arrow": _Format("arrow", (".arrow", ".feather")),
    "avro": _Format("avro", (".avro",)),
}
_COMPRESSED = (".gz", ".bgz", ".zst")
_MANIFEST_FORMATS = ("csv", "jsonl", "parquet", "inventory")

_SOURCES = ("input", "upload", "manifest", "item", "count")
_SIZES = ("part_bytes", "record_bytes")


@dataclass(frozen=True)
class InputOptions:
    """What a job works on: one source, and how it is split. Details have the names of the input's fields."""

    panel: ClassVar[str] = "Input"

    input: Annotated[
        str | None, typer.Option(metavar="URI", help="s3://bucket/key, s3://bucket/prefix/, or a local path.")
    ] = None
    upload: Annotated[Path | None, typer.Option(metavar="PATH", help="Upload this file or directory.")] = None
    manifest: Annotated[
        str | None, typer.Option(metavar="URI", help="The objects that this manifest or S3 Inventory lists.")
    ] = None
    item: Annotated[
        list[str] | None, typer.Option(metavar="VALUE", help="One task for this YAML value; repeatable.")
    ] = None
    count: Annotated[int | None, typer.Option(metavar="N", help="An array job of N tasks.")] = None
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMATS),
            help=f"Format of the input; default: by its suffix. Of --manifest: {', '.join(_MANIFEST_FORMATS)}.",
        ),
    ] = None
    part_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="Size of a part, such as 8MiB.")] = None
    parts: Annotated[int | None, typer.Option(metavar="N", help="Number of parts, instead of their size.")] = None
    compression: Annotated[
        Literal["none", "gzip", "zstd"] | None, typer.Option(help="Compression of the input; default: by its suffix.")
    ] = None
    header: Annotated[
        bool | None, typer.Option(help="Whether the first record of CSV and TSV names the columns; default: it does.")
    ] = None
    delimiter: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="Between the fields of CSV and TSV; default: comma, tab.")
    ] = None
    quote: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="Around fields of CSV and TSV; default: \"; '' for none.")
    ] = None
    escape: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="Before a character of CSV and TSV to take literally.")
    ] = None
    multiline: Annotated[
        bool | None, typer.Option("--multiline", help="Quoted fields of CSV and TSV may hold newlines.")
    ] = None
    record_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Length of each record of --format fixed.")
    ] = None
    row_groups: Annotated[int | None, typer.Option(metavar="N", help="Parquet row groups per part.")] = None
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Take only objects that match; repeatable.")
    ] = None
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave out objects that match; repeatable.")
    ] = None
    objects_per_task: Annotated[
        int | None, typer.Option(metavar="N", help="Objects per task, which gets them as a directory.")
    ] = None

    def change(self, spec: dict[str, Any]) -> None:
        """Make the input what the options say. The API checks that its fields fit together."""
        options = given(asdict(self))
        sources = [option_of(name) for name in _SOURCES if name in options]
        if len(sources) > 1:
            raise InputError(f"{' and '.join(sources)}: a job has one input; give one of them")
        if options:
            source = self._source(mapping_in(spec, "input"))
            if self.format is not None:
                source = _in_format(source, self.format)
            spec["input"] = source | self._details(options)

    def _source(self, present: dict[str, Any]) -> dict[str, Any]:
        from piecework.jobfile import parse_value

        if self.count is not None:
            return {"type": "range", "count": self.count}
        if self.item:
            return {"type": "items", "items": [parse_value(item) for item in self.item]}
        if self.manifest is not None:
            return {"type": "manifest", "uri": from_here(self.manifest)}
        path = self.input or self.upload
        return present if path is None else _object_input(present, path, self.format)

    def _details(self, options: dict[str, Any]) -> dict[str, Any]:
        from piecework.jobfile import parse_size

        details = {name: value for name, value in options.items() if name not in (*_SOURCES, "format")}
        for name in details.keys() & set(_SIZES):
            details[name] = parsed(option_of(name), parse_size, details[name])
        return details | ({"quote": None} if self.quote == "" else {})


def _object_input(present: dict[str, Any], path: str | Path, format: str | None) -> dict[str, Any]:
    """The input that reads one object or prefix; the rest of the file's input stays if it is of such a type."""
    uri = from_here(str(path))
    if uri.endswith("/"):
        return {"type": "objects", "prefix": uri}
    if format is not None:
        return {"uri": uri}  # the option says how it is read
    if present.get("type") in {known.type for known in FORMATS.values()}:
        return {**present, "uri": uri}
    return _in_format({"uri": uri}, _format_of(uri))


def _format_of(uri: str) -> str:
    path = Path(uri)
    suffix = Path(path.stem).suffix if path.suffix.lower() in _COMPRESSED else path.suffix
    return next((name for name, known in FORMATS.items() if suffix.lower() in known.suffixes), "text")


def _in_format(source: dict[str, Any], format: str) -> dict[str, Any]:
    """The input, read in this format. Raises InputError if that can't be."""
    if "uri" not in source:
        raise InputError(f"--format: {format!r} needs one object to read; give --input, --upload or --manifest")
    is_manifest = source.get("type") == "manifest"
    names = _MANIFEST_FORMATS if is_manifest else tuple(FORMATS)
    if format not in names:
        raise InputError(f"--format: {format!r} is not a format of this input; write one of {', '.join(names)}")
    type = "manifest" if is_manifest else FORMATS[format].type
    kept = source if source.get("type") == type else {"uri": source["uri"]}
    return {**kept, "type": type} | ({} if format == type else {"format": format})
