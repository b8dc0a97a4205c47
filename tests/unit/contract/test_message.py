"""The message's text: what one side writes the other reads, and anything else is refused."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from services.contract.message import Message, MessageError
from services.contract.resources import Needs

MESSAGE = Message(UUID(int=1), UUID(int=2), stage=3, first=4, count=5)
FIELDS = orjson.loads(MESSAGE.encode())
NO_IDS: list[Any] = ["x", 7, None, [], {}]
NO_NUMBERS: list[Any] = ["many", "5", None, [], {}, True, False, 5.0, 1.5, 1e300]
OUT_OF_BOUNDS: list[tuple[str, Any]] = [
    *[("count", number) for number in (0, -4, -1000, 1_000_001, 2**31)],
    *[("first", number) for number in (-1, 2**31 - 5 + 1, 2**31)],
    *[("stage", number) for number in (-1, 2**15)],
    *[("suspect", value) for value in (1, "true", None, [])],
    *[(name, value) for name in ("backup_of", "avoid") for value in ("", 7, True, [], "x")],
    *[("needs", value) for value in ("", 7, [], {"cpus": "1"}, {"gpus": 0}, {"memory": -1}, {"disk": True})],
]


def test_a_message_is_json_that_names_its_bundle_and_its_tasks() -> None:
    assert {"bundle": str(UUID(int=1)), "job": str(UUID(int=2)), "stage": 3, "first": 4, "count": 5} == FIELDS
    assert Message.decode(MESSAGE.encode()) == MESSAGE


def test_the_names_of_the_next_release_are_read_too() -> None:
    renamed = {"bundle_id": FIELDS["bundle"], "job_id": FIELDS["job"]} | FIELDS
    del renamed["bundle"], renamed["job"]

    assert Message.decode(orjson.dumps(renamed).decode()) == MESSAGE


def test_fields_of_later_versions_are_ignored() -> None:
    assert Message.decode(orjson.dumps(FIELDS | {"trace": "x"}).decode()) == MESSAGE


@pytest.mark.parametrize(
    "body",
    ["", "not JSON", "null", "[]", '"text"', "7", "{}", '{"bundle": null}', "[" * 2000, "\ud800"]
    + [orjson.dumps({k: v for k, v in FIELDS.items() if k != name}).decode() for name in FIELDS]
    + [orjson.dumps(FIELDS | {"bundle": value}).decode() for value in NO_IDS]
    + [orjson.dumps(FIELDS | {name: value}).decode() for name in ("stage", "first", "count") for value in NO_NUMBERS]
    + [MESSAGE.encode().replace('"count":5', f'"count":{number}') for number in (2**63, 2**64, -(2**63), "1" * 5000)]
    + [orjson.dumps(FIELDS | {name: value}).decode() for name, value in OUT_OF_BOUNDS]
    + [MESSAGE.encode().replace('"count":5', '"count":1e999')],
)
def test_anything_else_is_not_a_message(body: str) -> None:
    with pytest.raises(MessageError):
        Message.decode(body)


def test_the_bounds_of_a_message_are_those_of_the_tasks() -> None:
    for message in (
        Message(UUID(int=1), UUID(int=2), stage=0, first=0, count=1),
        Message(UUID(int=1), UUID(int=2), stage=2**15 - 1, first=2**31 - 1, count=1, suspect=True),
        Message(UUID(int=1), UUID(int=2), stage=0, first=0, count=1_000_000, backup_of=UUID(int=3)),
        Message(UUID(int=1), UUID(int=2), stage=0, first=0, count=1, suspect=True, avoid=UUID(int=3)),
        Message(UUID(int=1), UUID(int=2), stage=0, first=0, count=1, needs=Needs(cpus=0.5, gpus=2)),
    ):
        assert Message.decode(message.encode()) == message
