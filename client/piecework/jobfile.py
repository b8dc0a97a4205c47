"""Job files: YAML or JSON in the shape of the API, where an input's `uri` may be a local file."""

import json
import re
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from piecework.errors import InputError

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}IB": 1024**_power, f"{_letter}B": 1000**_power}


class _Loader(yaml.SafeLoader):
    """YAML that means what the same JSON would: dates stay text, and a key given twice is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, `-` for standard input. Raises InputError with file and line."""
    try:
        text = sys.stdin.read() if path == Path("-") else path.read_text()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {error}") from error
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


def local_input(spec: Mapping[str, Any], directory: Path) -> Path | None:
    """The local file that `input.uri` of a JobSpec names, seen from `directory`; None if it names no local file.

    Raises InputError if there is no such file.
    """
    source = spec.get("input")
    uri = source.get("uri") if isinstance(source, dict) else None
    if not isinstance(uri, str) or "://" in uri:
        return None
    path = directory / Path(uri).expanduser()
    if not path.is_file():
        raise InputError(f"input.uri: {uri!r} is neither an S3 URI (s3://bucket/key) nor a local file ({path})")
    return path


def parse_size(text: str) -> int:
    """Bytes of `8388608`, `8MiB`, `8M` (both 1024 based) or `8MB` (1000 based). Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write for example 8MiB, 500KB or 1048576")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_value(text: str) -> Any:
    """The value of `--param key=value`: YAML, so that 3, true and [1, 2] are what they look like."""
    if not text:
        return ""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
