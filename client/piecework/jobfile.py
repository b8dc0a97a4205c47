"""Job files: YAML or JSON in the shape of the API, where an input may be a local file or directory."""

import json
import re
import sys
from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from piecework.errors import InputError

# A plain scalar is one of these only where it is written as JSON would print it back: `02142`, `1_000`, `0x1F`, `1.50`,
# `12:30:00`, `NO` and `on` stay text. Null and the booleans are those of YAML 1.2's core schema
# (https://yaml.org/spec/1.2.2/#103-core-schema).
_PLAIN = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"0|-?[1-9][0-9]*", list("-0123456789")),
    "tag:yaml.org,2002:float": (r"-?(0|[1-9][0-9]*)\.([0-9]*[1-9]|0)", list("-0123456789")),
    "tag:yaml.org,2002:merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """YAML that means what the same JSON would; a key given twice is an error, and so is a tag that JSON lacks."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag in (None, *_PLAIN, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))
    }

    def construct_float(self, node: yaml.ScalarNode) -> float | str:
        """A number with more digits than a float keeps stays text, too."""
        number = float(node.value)
        return number if Decimal(repr(number)) == Decimal(node.value) else str(node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a file with its line ends as they are, `-` for standard input. Raises InputError."""
    try:
        if path == Path("-"):
            return sys.stdin.read()
        with path.open(newline="", errors=errors) as file:
            return file.read()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory, not a file; what a job works on is its --input") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, `-` for standard input. Raises InputError with file and line."""
    text = read_text(path)
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise InputError(f"{place}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: must hold a mapping such as `name: …`, holds {found}")
    return content


def place_of(path: Path, field: str, value: Any) -> str | None:
    """`job.yaml:5:12`: where a file has the field that a service found wrong, or the nearest thing around it.

    None if the file has nothing of it or another value, since an option said it, or can't be read again.
    """
    try:
        node = yaml.compose(path.read_text(), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    names = field.split(".")
    if names[0] == "job" and _enter(node, "job") is None:  # of a schedule or a trigger, whose job the file is
        names = names[1:]
    found = _enter(node, names[0]) if names else None
    if found is None:
        return None
    for name in names[1:]:
        inner = _enter(found, name)
        if inner is None:
            if isinstance(value, str | int | float):  # an option said it
                return None
            break
        found = inner
    else:
        if isinstance(found, yaml.ScalarNode) and value is not None and found.value != _as_written(value):
            return None
    mark = found.start_mark
    return f"{path}:{mark.line + 1}:{mark.column + 1}"


def _enter(node: yaml.Node | None, name: str) -> yaml.Node | None:
    """What a mapping or sequence has under a name or number."""
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if getattr(key, "value", None) == name), None)
    if isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
        inner: yaml.Node = node.value[int(name)]
        return inner
    return None


def _as_written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A local file or directory that a JobSpec names, and where it names it: `holder[field]`."""

    holder: dict[str, Any]
    field: str
    path: Path


def local_paths(spec: Mapping[str, Any], directory: Path) -> list[LocalPath]:
    """What is local, seen from `directory`, of a JobSpec's inputs and its stages' and merge's further inputs.

    A `prefix` names a directory, all else a file; raises InputError if there is none.
    """
    found = []
    for holder, field, where in _uris(spec):
        uri = holder.get(field)
        if not isinstance(uri, str) or "://" in uri:
            continue
        path = directory / Path(uri).expanduser()
        wanted = field == "prefix"
        if not (path.is_dir() if wanted else path.is_file()):
            meant = ("s3://bucket/prefix/", "directory") if wanted else ("s3://bucket/key", "file")
            raise InputError(f"{where}: {uri!r} is neither an S3 URI ({meant[0]}) nor a local {meant[1]} ({path})")
        found.append(LocalPath(holder, field, path))
    return found


def with_uploads_to_come(spec: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The JobSpec for a dry run: what is local is named as what is yet to be uploaded. Raises InputError."""
    copy = deepcopy(dict(spec))
    for local in local_paths(copy, directory):
        local.holder[local.field] = f"s3://-/{local.path.name}{'/' if local.field == 'prefix' else ''}"
    return copy


def _uris(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Every place in a JobSpec, well-formed or not, that may name a local file: holder, field, and what to call it."""
    source = spec.get("input")
    for number, one in enumerate(source) if isinstance(source, list) else [(None, source)]:
        if isinstance(one, dict):
            name = "input" if number is None else f"input.{number}"
            yield from ((one, field, f"{name}.{field}") for field in ("uri", "prefix"))
    stages = spec.get("stages")
    steps = [(f"stages.{number}", stage) for number, stage in enumerate(stages if isinstance(stages, list) else [])]
    for name, step in [*steps, ("merge", spec.get("merge"))]:
        further = step.get("inputs") if isinstance(step, dict) else None
        if isinstance(further, dict):
            yield from ((further, field, f"{name}.inputs.{field}") for field in further)


def parse_value(text: str) -> Any:
    """The value of `--param key=value`: YAML, so that 3, true and [1, 2] are what they look like."""
    if not text:
        return ""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
