"""The services' policies, as they stand in deploy/aws, with names for what only a deployment knows."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

import deploy

SOURCES = Path(deploy.__file__).parent / "aws" / "policies"

Names = Callable[[str], str]  # what `${…}`, Ref and GetAtt stand for
Document = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


def _function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            return {name: loader.construct_scalar(node)}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
    raise ValueError(f"the function {suffix} of a mapping")


_Loader.add_multi_constructor("!", _function)


def load_template(path: Path) -> Any:
    """Functions are in their long form: `{"Fn::Sub": …}`."""
    return yaml.load(path.read_text(), _Loader)  # noqa: S506: it is a safe loader


def policies_of(names: Names) -> Mapping[str, Document]:
    """Each service's policy document."""
    lists = [load_template(SOURCES / f"{name}.yaml") for name in ("control", "worker")]
    return {each["PolicyName"]: resolve(each["PolicyDocument"], names) for policies in lists for each in policies}


def resolve(value: Any, names: Names) -> Any:
    """With the functions' values in their places."""
    match value:
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([^}]+)\}", lambda found: names(found[1]), text)
        case {"Ref": str(name)} | {"Fn::GetAtt": str(name)}:
            return names(name)
        case dict():
            if function := next((key for key in value if key.startswith("Fn::")), None):
                raise ValueError(f"the function {function}")
            return {key: resolve(each, names) for key, each in value.items()}
        case list():
            return [resolve(each, names) for each in value]
    return value
