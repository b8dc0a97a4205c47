"""What a specification refuses by itself, in words that name the field and the fix."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from services.engine.spec import JobSpec, ProcessorSpec
from services.inputs.spec import RangeInput


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"builtin": "copy", "output": "manifest.json"},
            "output\n.*itself writes a file named manifest.json; choose another name",
        ),
        ({"builtin": "copy", "output": "rejects.jsonl"}, "output\n.*choose another name"),
        ({"command": ["x"], "outputs": {"log": "log.txt"}}, "outputs.log\n.*choose another name"),
        ({"command": ["x"], "output": "a", "outputs": {"b": "a"}}, "must name different files"),
        ({"command": ["x"], "inputs": {"fees": None}, "outputs": {"FEES": "a"}}, "must have different names"),
        ({"builtin": "noop", "output_required": True}, "noop never writes an output"),
        ({"sql": "SELECT 1", "records": "a:b"}, "exactly one of .* sql"),
        ({"sql": "  "}, "sql\n.*at least 1 character"),
        ({"callable": "a:b", "package": "abc"}, "package\n.*pattern"),
        ({"function": "a:b", "callable": "a:b"}, "exactly one of .* function"),
        ({"function": "a:b", "outputs": {"c": "c.txt"}}, "outputs: a function .* writes no files; leave it out"),
        ({"function": "a:b", "output_required": True}, "output_required: a function .* leave it out"),
        ({"function": "a:b", "output_format": "csv"}, "output_format: a function's value is JSON; leave it out"),
        ({"function": "a:b", "output": "prices.csv"}, r"prices.csv is not \*.json"),
    ],
)
def test_a_processor_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.compile(message)):
        ProcessorSpec.model_validate(spec)


def test_a_result_may_not_be_called_like_what_piecework_writes_beside_it() -> None:
    job = {"input": {"type": "range", "count": 1}, "stages": [{"processor": "p"}]}

    with pytest.raises(ValidationError, match=r"merge.concat.filename\n.*choose another name"):
        JobSpec.model_validate(job | {"merge": {"type": "concat", "filename": "manifest.json"}})


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"command": ["true"]}, "command"),
        ({"callable": "m:f"}, "callable"),
        ({"function": "m:f"}, "function"),
        ({"records": "m:f"}, "records"),
        ({"sql": "SELECT 1"}, "sql"),
        ({"builtin": "compact"}, "compact"),
    ],
)
def test_a_processors_kind_is_the_form_it_has(spec: dict[str, Any], kind: str) -> None:
    assert ProcessorSpec.model_validate(spec).kind == kind


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"count": 3}, [0, 1, 2]),
        ({"stop": 3}, [0, 1, 2]),
        ({"start": 1, "stop": 4}, [1, 2, 3]),
        ({"start": 1, "stop": 101, "step": 33}, [1, 34, 67, 100]),
        ({"values": [9, 3]}, [9, 3]),
    ],
)
def test_a_range_says_the_numbers_of_its_tasks(numbers: dict[str, Any], expected: list[int]) -> None:
    assert list(RangeInput(type="range", **numbers).numbers) == expected


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ({}, "give one of count, stop .*, and values; got none"),
        ({"count": 3, "stop": 4}, r"give one of .*; got \['count', 'stop'\]"),
        ({"count": 3, "start": 1}, "start and step go with stop, not with count"),
        ({"values": [1], "step": 2}, "start and step go with stop, not with values"),
        ({"start": 4, "stop": 4}, "stop must be greater than start"),
        ({"stop": 10_000_001}, "10000001 tasks, more than 10000000: take a larger step"),
        ({"values": [3, 4, 3]}, "twice among values"),
        ({"start": -1, "stop": 4}, r"start\n.*greater than or equal to 0"),
        ({"stop": 4, "step": 0}, r"step\n.*greater than or equal to 1"),
    ],
)
def test_a_range_is_refused(input: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.compile(message)):
        JobSpec.model_validate({"input": {"type": "range", **input}, "stages": [{"processor": "p"}]})


def test_the_tasks_of_several_inputs_are_numbered_from_0() -> None:
    inputs = [{"type": "range", "start": 1, "stop": 3}, {"type": "range", "count": 3}]
    with pytest.raises(ValidationError, match="numbered from 0: give count, or make the range the only input"):
        JobSpec.model_validate({"input": inputs, "stages": [{"processor": "p"}]})
    JobSpec.model_validate({"input": inputs[:1], "stages": [{"processor": "p"}]})
