"""A CloudFormation template as data: which resources it makes with some parameters, and with which properties."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

Names = Callable[[str], Any]  # what Ref, GetAtt and `${…}` stand for


class _Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions, which become the long ones: `{"Fn::Sub": …}`."""


def _function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            return {name: loader.construct_scalar(node)}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
        case yaml.MappingNode():
            return {name: loader.construct_mapping(node, deep=True)}
    raise ValueError(f"{suffix} of {node.tag}")


_Loader.add_multi_constructor("!", _function)


class Template:
    """`given` are parameters; those that are absent have their defaults, and without one their own names."""

    def __init__(self, path: Path, given: Mapping[str, str] | None = None) -> None:
        raw = yaml.load(path.read_text(), _Loader)
        self.parameters = {name: str(spec.get("Default", name)) for name, spec in raw["Parameters"].items()}
        if unknown := (given or {}).keys() - self.parameters.keys():
            raise ValueError(f"{path.name} has no parameters {sorted(unknown)}; it has {sorted(self.parameters)}")
        self.parameters |= given or {}
        self._conditions = raw.get("Conditions", {})
        self._resources = raw["Resources"]

    def name(self, name: str) -> Any:
        """The value of a parameter; of anything else, its own name."""
        return self.parameters.get(name, name)

    def resources(self) -> dict[str, dict[str, Any]]:
        """Those whose condition holds, as they stand: `Type`, `Properties` …"""
        return {
            name: resource
            for name, resource in self._resources.items()
            if "Condition" not in resource or self._holds({"Condition": resource["Condition"]}, self.name)
        }

    def resolve(self, value: Any, names: Names | None = None) -> Any:
        """With the functions' values in their places; what is AWS::NoValue is left out. Raises ValueError."""
        names = names or self.name
        match value:
            case {"Ref": str(name)} | {"Fn::GetAtt": str(name)}:
                return names(name)
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}!]+)\}", lambda found: str(names(found[1])), text)
            case {"Fn::If": [condition, then, otherwise]}:
                holds = self._holds({"Condition": condition}, names)
                return self.resolve(then if holds else otherwise, names)
            case {"Fn::Join": [separator, parts]}:
                resolved = self.resolve(parts, names)
                return separator.join(resolved) if isinstance(resolved, list) else str(resolved)
            case dict():
                if function := next((key for key in value if key.startswith("Fn::")), None):
                    raise ValueError(f"the function {function} is not known here")
                resolved = {key: self.resolve(each, names) for key, each in value.items()}
                return {key: each for key, each in resolved.items() if each != "AWS::NoValue"}
            case list():
                return [each for each in (self.resolve(each, names) for each in value) if each != "AWS::NoValue"]
        return value

    def _holds(self, condition: Any, names: Names) -> bool:
        match condition:
            case {"Condition": str(name)}:
                return self._holds(self._conditions[name], names)
            case {"Fn::Not": [one]}:
                return not self._holds(one, names)
            case {"Fn::And": list(all_of)}:
                return all(self._holds(one, names) for one in all_of)
            case {"Fn::Or": list(any_of)}:
                return any(self._holds(one, names) for one in any_of)
            case {"Fn::Equals": [one, other]}:
                return str(self.resolve(one, names)) == str(self.resolve(other, names))
        raise ValueError(f"the condition {condition} is not known here")
