"""What a specification refuses by itself, in words that name the field and the fix."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from services.engine.spec import JobSpec, ProcessorSpec


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
        ({"records": "m:f"}, "records"),
        ({"sql": "SELECT 1"}, "sql"),
        ({"builtin": "compact"}, "compact"),
    ],
)
def test_a_processors_kind_is_the_form_it_has(spec: dict[str, Any], kind: str) -> None:
    assert ProcessorSpec.model_validate(spec).kind == kind
