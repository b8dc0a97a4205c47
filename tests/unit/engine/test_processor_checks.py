"""What is refused of a processor before it runs, and what only looks as if it were wrong."""

from typing import Any

import pytest

from services.engine.errors import SpecError
from services.engine.processor_checks import check_processor
from services.engine.spec import ProcessorSpec

CLOSED = {"type": "object", "properties": {"rate": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("spec", "field", "fix"),
    [
        ({"sql": "SELECT 1; SELECT 2"}, "sql", "write one SELECT; this is SELECT and SELECT"),
        ({"sql": "DROP TABLE input"}, "sql", "write one SELECT; this is DROP"),
        ({"sql": "-- nothing"}, "sql", "write one SELECT; this is nothing"),
        ({"sql": "SELECT '{params.a}' FROM input"}, "sql", "is inside quotes, where no value can stand"),
        ({"sql": "SELECT a FROM input WHERE (a > 1"}, "sql", "DuckDB can't read this: Parser Error"),
        ({"command": ["x", "{Output}"]}, "command.1", "{Output} is not a placeholder; write {output}"),
        ({"command": ["x", "--rate={param.rate}"]}, "command.1", "write {params.rate}"),
        ({"command": ["x", "{outputs.b}"], "outputs": {"a": "a.txt"}}, "command.1", "declared: a)"),
        ({"command": ["{package}/x"]}, "command.0", "push one, or leave it out"),
        ({"command": ["x", "{params.ratio}"], "params_schema": CLOSED}, "command.1", "params_schema allows"),
        ({"image": "a:1", "entrypoint": ["x"], "command": ["{inputs.a}"]}, "command.0", "declared: none"),
        ({"sql": "FROM input", "output": "rejects"}, "output", "itself writes a file named rejects.jsonl"),
    ],
)
def test_what_would_fail_every_task_is_refused(spec: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_processor(ProcessorSpec.model_validate(spec))
    assert (refused.value.field, fix in refused.value.fix) == (field, True), refused.value


@pytest.mark.parametrize(
    "spec",
    [
        {"sql": "FROM input WHERE a > {params.least} AND b = $most AND c = '$x {y}' -- {z}"},
        {"sql": "WITH t AS (SELECT 1) SELECT * FROM t;"},
        {"command": ["awk", "{print}", "{input}"]},
        {"command": ["sh", "-c", "echo ${INPUT} ${input} {inptu} '{{input}}' {a,b} a{3}"]},
        {"command": ["jq", "{id, name: .n}", "{input}"]},
        {"command": ["x", "{input.stem}", "{params.to-do}", "{file}", "{x.y}"]},
        {"command": ["x", "{inputs.a}", "{outputs.b}"], "inputs": {"a": None}, "outputs": {"b": "b.txt"}},
        {"command": ["x", "{params.rate}"], "params_schema": CLOSED},
        {"command": ["{package}/x"], "package": "0" * 64},
        {"callable": "a:b"},
        {"sql": "FROM input", "output": "rejects", "output_format": "csv"},
        {"command": ["x"], "output": "rejects"},
    ],
)
def test_what_may_be_right_is_let_through(spec: dict[str, Any]) -> None:
    check_processor(ProcessorSpec.model_validate(spec))
