"""A job's specification as it comes from a file, and what the groups of options change of it with."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from piecework.cli.session import parse_pairs
from piecework.errors import InputError

T = TypeVar("T")

_NAMELESS = ("job", "-")  # what a file is called that tells nothing: a job file of a directory, standard input
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class JobFile:
    """The job file and where its local paths are."""

    file: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="Job file, YAML or JSON; - reads standard input.")
    ] = None
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the job file's local paths; default: its own.")
    ] = None

    def read(self) -> dict[str, Any]:
        """The file's content; empty if there is no file. Raises InputError."""
        from piecework.jobfile import read_mapping

        return read_mapping(self.file) if self.file else {}

    @property
    def local_root(self) -> Path:
        return self.directory or (self.file.parent if self.file else Path())


def name_after(spec: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """`spec` with a name, if it has none: that of its file, else of its first stage or of what processes that."""
    match spec.get("stages"):
        case [dict(first), *_]:
            stage, processor = first.get("name"), first.get("processor")
        case _:
            stage = processor = None
    stem = None if file is None or file.stem in _NAMELESS else file.stem
    for text in (stem, stage, processor):
        if isinstance(text, str) and (name := _NOT_IN_NAMES.sub("-", text.partition("@")[0]).strip("-._")[:100]):
            return {"name": name, **spec}
    return spec


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, of all that there are."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def option_of(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def mapping_in(spec: dict[str, Any], field: str) -> dict[str, Any]:
    """The field's mapping, empty if it is absent. Raises InputError if it is something else."""
    value = spec.get(field) or {}
    if not isinstance(value, dict):
        raise InputError(f"{field}: must be a mapping, got {value!r}")
    return value


def parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """`text` by a function that raises ValueError; raises InputError, which names the option."""
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error


def parse_values(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """{key: value} of `key=value` options whose values are YAML. Raises InputError."""
    from piecework.jobfile import parse_value

    return {key: parse_value(value) for key, value in parse_pairs(option, pairs).items()}


def parse_uris(option: str, pairs: list[str] | None) -> dict[str, str]:
    """{name: URI} of `name=uri` options. Raises InputError."""
    return {name: from_here(uri) for name, uri in parse_pairs(option, pairs).items()}


def from_here(uri: str) -> str:
    """A URI as it is; a local path as an absolute one, since options are seen from the working directory."""
    if "://" in uri:
        return uri
    path = Path(uri).expanduser().absolute()
    return f"{path}/" if path.is_dir() else str(path)  # a slash at its end makes it a prefix
