"""Functions of items: value in, value out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Run

CODE = """
import datetime, decimal, os, sys, uuid

def same(item, **params):
    return item

def add(item, *, more=0):
    return item + more

def repeat(item, *, times):
    return item * times

def odd(item):
    return {"day": datetime.date(2026, 11, 30), "price": decimal.Decimal("0.10"), "big": 2**80}

def bad(item):
    return {"mean": float("nan"), "file": sys.stdout}[item]

def leave(item):
    sys.exit(item)

def listed(item):
    return [item, {"twice": 2 * item}]

def files(item):
    return [name for name in os.environ if name in ("PIECEWORK_INPUT", "PIECEWORK_OUTPUT", "PIECEWORK_RECORDS")]
"""


@pytest.fixture
def call(run: Run, user_code: Path) -> Run:
    (user_code / "items.py").write_text(CODE)

    async def call(function: str, **job: Any) -> dict[str, Any]:
        read: dict[str, Any] = {"format": None, "options": {}, "declared_columns": {}}
        how = {"by_value": "value" in job, "value": None}
        return await run("function", function=f"items:{function}", **(read | how | job))

    return call


@pytest.mark.parametrize("value", [None, True, 7, 0.5, "text", [1, [2]], {"a": {"b": None}}])
async def test_any_json_value_goes_in_and_comes_out(call: Run, work: Path, value: Any) -> None:
    answer = await call("same", value=value)
    assert answer["value"] == value
    assert "error" not in answer
    assert not (work / "output").exists()


async def test_params_are_keyword_arguments(call: Run) -> None:
    assert (await call("add", value=1, params={"more": 41}))["value"] == 42


async def test_values_for_which_json_has_no_type_are_written_as_records_are(call: Run) -> None:
    assert (await call("odd", value=1))["value"] == {"day": "2026-11-30", "price": 0.1, "big": 2**80}


async def test_a_large_value_becomes_a_file(call: Run, work: Path) -> None:
    answer = await call("repeat", value=[1], params={"times": 5000})
    assert "value" not in answer
    assert json.loads((work / "output").read_bytes()) == [1] * 5000


@pytest.mark.parametrize(("item", "message"), [("mean", "can't be written as JSON"), ("file", "TextIOWrapper")])
async def test_what_is_not_json_fails_for_good(call: Run, item: str, message: str) -> None:
    answer = await call("bad", value=item)
    assert answer["error"]["type"] == "output_invalid"
    assert message in answer["error"]["message"]
    assert not answer["retryable"]


async def test_text_with_a_nul_character_is_refused(call: Run) -> None:
    answer = await call("same", value="a\0b")
    assert answer["error"] == {"type": "output_invalid", "message": "items:same returned text with a NUL character"}


@pytest.mark.parametrize(("code", "told"), [(0, None), (3, "exit_code")])
async def test_a_function_may_leave_with_0_only(call: Run, code: int, told: str | None) -> None:
    answer = await call("leave", value=code)
    assert answer.get("error", {}).get("type") == told
    assert answer.get("value") is None


async def test_in_a_fan_out_it_returns_the_items(call: Run, work: Path) -> None:
    listing = work / "items.jsonl"
    answer = await call("listed", value=2, items=str(listing))
    assert answer["items"] == 2
    assert [json.loads(line)["value"] for line in listing.read_text().splitlines()] == [2, {"twice": 4}]


async def test_in_a_fan_out_none_makes_nothing_and_any_other_value_is_refused(call: Run, work: Path) -> None:
    listing = str(work / "items.jsonl")
    assert (await call("same", value=None, items=listing))["items"] == 0
    answer = await call("same", value={"a": 1}, items=listing)
    assert "must return a list of items" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("name", "content", "item"),
    [
        ("input.json", '{"a": [1, 2]}', {"a": [1, 2]}),
        ("input.json", "[1, 2]", [1, 2]),
        ("input.json", "", None),
        ("input.jsonl", '{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("input.csv", "a,b\n1,x\n", [{"a": "1", "b": "x"}]),
        ("input.csv", "", []),
    ],
)
async def test_of_a_file_it_gets_the_document_or_the_records(
    call: Run, work: Path, name: str, content: str, item: Any
) -> None:
    (work / name).write_text(content)
    assert (await call("same", input=str(work / name)))["value"] == item


async def test_of_a_directory_it_gets_the_values_or_records_of_all_files_in_order(call: Run, work: Path) -> None:
    directory = work / "inputs"
    directory.mkdir()
    (directory / "00000001.json").write_text('{"b": 2}')
    (directory / "00000000.json").write_text("[1]")
    (directory / "00000002.jsonl").write_text("3\n4\n")
    assert (await call("same", input=str(directory)))["value"] == [[1], {"b": 2}, 3, 4]


async def test_columns_have_their_declared_types(call: Run, work: Path) -> None:
    (work / "input.csv").write_text("a\n1\n")
    answer = await call("same", input=str(work / "input.csv"), declared_columns={"a": "int64"})
    assert answer["value"] == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("input.json", '{"a": ', "input.json is not JSON"),
        ("input.jsonl", '{"a": 1}\n{"a": \n', "record 2 of input.jsonl: not JSON"),
        ("input.bin", "x", "can't tell the record format"),
    ],
)
async def test_what_cannot_be_read_fails_for_good(call: Run, work: Path, name: str, content: str, message: str) -> None:
    (work / name).write_text(content)
    answer = await call("same", input=str(work / name))
    assert answer["error"]["type"] == "input_invalid"
    assert message in answer["error"]["message"]
    assert not answer["retryable"]
