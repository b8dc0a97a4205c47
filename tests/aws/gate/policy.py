"""Decides by identity-based IAM policies as AWS does, and fails on everything in a policy that it does not know.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}
_KEYS = ("s3:prefix", "s3:delimiter", "s3:max-keys", "aws:ResourceAccount")
_TAG = "aws:ResourceTag/"


class UnknownToGate(Exception):
    """A policy or a request has something that can't be judged here: teach it to the gate, or leave it out."""


@dataclass(frozen=True, slots=True)
class Need:
    """An action on a resource that a request needs, and what conditions may ask about.

    `tags` are the resource's; None: they have not been looked up.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: Mapping[str, str] | None = field(default=None, hash=False)

    def value_of(self, key: str) -> str | None:
        """None if the request has no such key."""
        if not key.startswith(_TAG):
            return self.context.get(key)
        if self.tags is None:
            raise UnknownToGate(f"the tags of {self.resource}, for {self.action}")
        return self.tags.get(key.removeprefix(_TAG))


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether any of `values` fits the request's value of `key`."""

    operator: str
    key: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.operator.removesuffix("IfExists") not in _FITS | {"Null": None}:
            raise UnknownToGate(f"the operator {self.operator}")
        if self.key not in _KEYS and not self.key.startswith(_TAG):
            raise UnknownToGate(f"the condition key {self.key}")

    def holds(self, need: Need) -> bool:
        value, operator = need.value_of(self.key), self.operator.removesuffix("IfExists")
        if operator == "Null":
            return self.values == (("true",) if value is None else ("false",))
        if value is None:
            return operator != self.operator or "Not" in operator
        return any(_FITS[operator](value, wanted) for wanted in self.values) is not ("Not" in operator)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of the policy named `policy`."""

    policy: str
    sid: str
    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    all_but_actions: bool  # NotAction
    all_but_resources: bool  # NotResource
    conditions: tuple[Condition, ...]

    @classmethod
    def of(cls, policy: str, raw: Mapping[str, Any]) -> "Statement":
        if unknown := raw.keys() - _ELEMENTS:
            raise UnknownToGate(f"{sorted(unknown)} in a statement of {policy}")
        if raw["Effect"] not in ("Allow", "Deny"):
            raise UnknownToGate(f"the effect {raw['Effect']}")
        [actions] = [name for name in ("Action", "NotAction") if name in raw]
        [resources] = [name for name in ("Resource", "NotResource") if name in raw]
        for text in (*_listed(raw[actions]), *_listed(raw[resources]), str(raw.get("Condition", ""))):
            if "${" in text:
                raise UnknownToGate(f"the variable in {text}")
        return cls(
            policy,
            str(raw["Sid"]),
            raw["Effect"] == "Allow",
            _listed(raw[actions]),
            _listed(raw[resources]),
            actions == "NotAction",
            resources == "NotResource",
            tuple(
                Condition(operator, key, _listed(values))
                for operator, keys in raw.get("Condition", {}).items()
                for key, values in keys.items()
            ),
        )

    def fits(self, need: Need) -> bool:
        return (
            any(_is_like(need.action.lower(), each.lower()) for each in self.actions) is not self.all_but_actions
            and any(is_like_arn(need.resource, each) for each in self.resources) is not self.all_but_resources
            and all(condition.holds(need) for condition in self.conditions)
        )

    def parts_used(self, need: Need) -> set[str]:
        """The actions and resources of the statement that the need fits."""
        actions = {each for each in self.actions if _is_like(need.action.lower(), each.lower())}
        return actions | {each for each in self.resources if is_like_arn(need.resource, each)}

    @property
    def name(self) -> str:
        return f"{self.policy}.{self.sid}"


class Policies:
    """All policies of a role."""

    def __init__(self, documents: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises UnknownToGate for whatever could not be judged."""
        for document in documents.values():
            if document.keys() != {"Version", "Statement"} or document["Version"] != "2012-10-17":
                raise UnknownToGate(f"a policy that is not of the version 2012-10-17: {document}")
        self.statements = [Statement.of(name, raw) for name, each in documents.items() for raw in each["Statement"]]
        if len({statement.name for statement in self.statements}) < len(self.statements):
            raise UnknownToGate("statements with the same name")

    def allowing(self, need: Need) -> Sequence[Statement]:
        """The statements that allow it; none if one denies it."""
        fitting = [statement for statement in self.statements if statement.fits(need)]
        return fitting if all(statement.allows for statement in fitting) else []

    def allow(self, need: Need) -> bool:
        return bool(self.allowing(need))

    def unused(self, needs: Iterable[Need]) -> list[str]:
        """What of the statements that allow none of the needs has fitted, as `policy.sid: action or resource`."""
        left = {
            statement: {*statement.actions, *statement.resources} for statement in self.statements if statement.allows
        }
        for need in needs:
            for statement in self.allowing(need):
                left[statement] -= statement.parts_used(need)
        return [f"{statement.name}: {part}" for statement, parts in left.items() for part in sorted(parts)]


def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _is_like(value: str, pattern: str) -> bool:
    return _pattern(pattern).fullmatch(value) is not None


def is_like_arn(value: str, pattern: str) -> bool:
    """Segment by segment, so that no wildcard but the last one's spans a colon; `*` alone is any resource."""
    if pattern == "*":
        return True
    values, patterns = value.split(":", 5), pattern.split(":", 5)
    if len(patterns) < 6:
        raise UnknownToGate(f"the resource {pattern}, which is not an ARN")
    return len(values) == 6 and all(map(_is_like, values, patterns))


_FITS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": str.__eq__,
    "StringNotEquals": str.__eq__,
    "StringLike": _is_like,
    "StringNotLike": _is_like,
    "ArnLike": is_like_arn,
}
