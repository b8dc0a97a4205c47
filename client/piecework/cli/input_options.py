"""The options that say what a job works on: one for its source, and one for each field of an input that has words."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NotRequired, TypeVar, get_args, get_origin, get_type_hints

import typer

from piecework.cli.job_file import from_here, given, mapping_in, option_of, parsed
from piecework.errors import InputError
from piecework.inputs import FORMATS, Input, ManifestFormat, Option

T = TypeVar("T")

_COMPRESSED = (".gz", ".bgz", ".zst")
_MANIFEST_FORMATS = get_args(ManifestFormat)
_SOURCES = ("input", "upload", "manifest", "item", "count", "array", "stream")


def with_fields_of(inputs: Any) -> Callable[[type[T]], type[T]]:
    """Add to a dataclass of options one for each field that has an Option, in any type of a union of inputs."""
    options = {}
    for shape in get_args(inputs):
        for name, hint in get_type_hints(shape, include_extras=True).items():
            bare = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
            if get_origin(bare) is Annotated:
                options[name] = _option(name, *get_args(bare))
    return lambda group: make_dataclass(group.__name__, options.values(), bases=(group,), frozen=True)


def _option(name: str, kind: Any, option: Option) -> tuple[str, Any, Any]:
    """An input's field of this type, as a field of a dataclass of options."""
    if option.parse:
        kind = str
    elif lists := [one for one in get_args(kind) if get_origin(one) is list]:
        [kind] = lists
    names = [option_of(name)] if kind is bool and not option.negatable else []
    info = typer.Option(*names, metavar=option.metavar, help=option.help)
    return name, Annotated[kind | None, info], field(default=None, metadata={"parse": option.parse})


@with_fields_of(Input)
@dataclass(frozen=True)
class InputOptions:
    """What a job works on: one source, and how it is read and split: the fields of its type of input."""

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
    count: Annotated[int | None, typer.Option(metavar="N", help="An array job of N tasks, numbered from 0.")] = None
    array: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="An array job as Slurm writes it: 1-100, 1-100:4, 3,7,9, 1-100%5."),
    ] = None
    stream: Annotated[
        bool | None, typer.Option("--stream", help="An open job: its items come by `piecework append`.")
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMATS),
            help=f"Format of the input; default: by its suffix. Of --manifest: {', '.join(_MANIFEST_FORMATS)}.",
        ),
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

    def limit(self, spec: dict[str, Any]) -> None:
        """Let no more tasks of the first stage run at a time than --array says, as 5 in 1-100%5."""
        running_max = self._array()[1] if self.array is not None else None
        match spec.get("stages"):
            case [dict(first), *_] if running_max is not None:
                first.setdefault("running_max", running_max)

    def _array(self) -> tuple[dict[str, Any], int | None]:
        from piecework.arrays import parse_array

        return parsed("--array", parse_array, self.array or "")

    def _source(self, present: dict[str, Any]) -> dict[str, Any]:
        from piecework.jobfile import parse_value

        if self.array is not None:
            return self._array()[0]
        if self.count is not None:
            return {"type": "range", "count": self.count}
        if self.item:
            return {"type": "items", "items": [parse_value(item) for item in self.item]}
        if self.stream:
            return {"type": "stream"}
        if self.manifest is not None:
            return {"type": "manifest", "uri": from_here(self.manifest)}
        path = self.input or self.upload
        return present if path is None else _object_input(present, path, self.format)

    def _details(self, options: dict[str, Any]) -> dict[str, Any]:
        details = {name: value for name, value in options.items() if name not in (*_SOURCES, "format")}
        for one in fields(self):
            if one.name in details and (parse := one.metadata["parse"]):
                details[one.name] = parsed(option_of(one.name), parse, details[one.name])
        return details


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
