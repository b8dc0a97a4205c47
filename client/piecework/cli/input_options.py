"""The options that say what a job works on, of every command that takes them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from piecework.errors import InputError

_INPUT = "Input"

# What an extension says about the format of an input, unless --format says it.
_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".avro": "avro",
}
_COMPRESSED = (".gz", ".bgz", ".zst")
_BLOCKS = ("parquet", "arrow", "avro")

InputUri = Annotated[
    str | None,
    typer.Option("--input", metavar="URI", help="s3://bucket/key, or s3://bucket/prefix/.", rich_help_panel=_INPUT),
]
UploadPath = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Upload this file, or directory, as the input.", rich_help_panel=_INPUT),
]
Format = Annotated[
    Literal["text", "jsonl", "csv", "tsv", "parquet", "arrow", "avro"] | None,
    typer.Option(help="Format of the input; by its extension if absent.", rich_help_panel=_INPUT),
]
PartBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Size of a part, such as 8MiB.", rich_help_panel=_INPUT)
]
Parts = Annotated[int | None, typer.Option(metavar="N", help="Number of parts, instead.", rich_help_panel=_INPUT)]
RowGroups = Annotated[
    int | None, typer.Option(metavar="N", help="Parquet row groups per part.", rich_help_panel=_INPUT)
]
Multiline = Annotated[
    bool, typer.Option("--multiline", help="Quoted CSV fields may hold newlines.", rich_help_panel=_INPUT)
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Which objects under the prefix to take; repeatable.", rich_help_panel=_INPUT),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Which of them not to take; repeatable.", rich_help_panel=_INPUT),
]
ObjectsPerTask = Annotated[
    int | None, typer.Option(metavar="N", help="Objects per task, as a directory.", rich_help_panel=_INPUT)
]
Item = Annotated[
    list[str] | None,
    typer.Option(metavar="VALUE", help="One task for this YAML value; repeatable.", rich_help_panel=_INPUT),
]
Count = Annotated[int | None, typer.Option(metavar="N", help="Array job of N tasks.", rich_help_panel=_INPUT)]


def read_job_file(file: Path | None) -> tuple[dict[str, Any], Path]:
    """The job file's content and the directory its local paths are seen from."""
    from piecework.jobfile import read_mapping

    if file is None:
        return {}, Path()
    return read_mapping(file), file.parent


def set_fields(target: dict[str, Any], **values: Any) -> None:
    target.update({name: value for name, value in values.items() if value is not None})


def mapping_of(spec: dict[str, Any], field: str) -> dict[str, Any]:
    value = spec.get(field) or {}
    if not isinstance(value, dict):
        raise InputError(f"{field}: must be a mapping, got {value!r}")
    return value


def set_input(
    spec: dict[str, Any],
    *,
    uri: str | None,
    upload: Path | None,
    items: list[str] | None,
    count: int | None,
    format: str | None,
    part_bytes: str | None,
    **details: Any,
) -> None:
    """Make of the file's input what the options say; that its fields fit together is the API's to check."""
    from piecework.jobfile import parse_value

    _check_one_input({"--input": uri, "--upload": upload, "--item": items, "--count": count})
    details |= {"format": None if format in _BLOCKS else format, "part_bytes": _size("--part-bytes", part_bytes)}
    local = upload or (Path(uri) if uri and "://" not in uri else None)
    uri = _absolute(local) if local else uri
    given = [uri, items, count, format, *details.values()]
    if isinstance(spec.get("input"), list) and all(value in (None, []) for value in given):
        return  # several inputs, which stay as they are
    made = mapping_of(spec, "input")
    if count is not None:
        made = {"type": "range", "count": count}
    elif items:
        made = {"type": "items", "items": [parse_value(item) for item in items]}
    elif uri is not None:
        made = _object_input(made, uri, format)
    set_fields(made, **details)
    if made:
        spec["input"] = made


def _object_input(present: dict[str, Any], uri: str, format: str | None) -> dict[str, Any]:
    """The input that reads `uri`; the rest of the file's input stays if it is of such a type."""
    if uri.endswith("/"):
        return {"type": "objects", "prefix": uri}
    if format is None and present.get("type") in ("lines", *_BLOCKS):
        return {**present, "uri": uri}
    path = Path(uri)
    suffix = Path(path.stem).suffix if path.suffix.lower() in _COMPRESSED else path.suffix
    format = format or _FORMATS.get(suffix.lower(), "text")
    return {"type": format, "uri": uri} if format in _BLOCKS else {"type": "lines", "uri": uri, "format": format}


def _absolute(path: Path) -> str:
    path = path.expanduser().absolute()
    return f"{path}/" if path.is_dir() else str(path)  # a slash at its end makes it a prefix


def _check_one_input(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value not in (None, [])]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: a job has one input; give one of them")


def _size(option: str, text: str | None) -> int | None:
    from piecework.jobfile import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error
