"""Whatever value a record has, no other record suffers: it is read as it is, or rejected alone."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from services.contract.task_error import Malformed
from services.inputs.json_text import DEPTH_MAX, parse_json
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source

LONG = "1" * 1_000_000
ODD = {
    "an integer of a million digits": LONG,
    "a negative one": f"-{LONG}",
    "a fraction of a million digits": f"0.{LONG}",
    "both": f"{LONG}.{LONG}",
    "an exponent beyond a float's": "1e5000",
    "an exponent beyond a decimal context's": "1e999999999",
    "a very small number": "1e-999999999",
    "a zero with such an exponent": "0e-999999999",
    "an exponent beyond Decimal's": "1e99999999999999999999",
    "digits and an exponent": f"{'1' * 5000}e10",
    "many zeros": f"1.{'0' * 5000}",
    "as many digits as Python reads": "9" * 4300,
    "one more": "9" * 4301,
    "negative zero": "-0.0e5",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "the deepest lists": "[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1),
    "deeper lists": "[" * DEPTH_MAX + "]" * DEPTH_MAX,
    "lists as deep as Python's stack": "[" * 950 + "]" * 950,
    "much deeper ones": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 900 + "1" + "}" * 900,
    "half a surrogate pair": '"\\ud800"',
    "the wrong halves": '"\\udc00\\ud800"',
    "a control character": '"\x01"',
    "NUL": '"\\u0000"',
    "no such month": '"2020-13-45T99:99:99"',
    "no such year": '"99999-12-31"',
    "a name that is empty": '{"": 1}',
    "one name twice": '{"a": 1, "a": 2}',
}
TYPES: list[Any] = [
    *(None, "text", "int64", "float64", "decimal(10,2)", "decimal(38,0)", "json", "bool", "date", "timestamp"),
    *(["int64"], {"a": "int64"}),
]
GOOD = ["first", "last"]


def lines(format: str) -> bytes:
    rows = [(GOOD[0], "null"), *((f"odd {name}", value) for name, value in ODD.items()), (GOOD[1], "null")]
    if format == "jsonl":
        return "".join(f'{{"name": "{name}", "v": {value}}}\n' for name, value in rows).encode()
    return "".join(
        [
            "name,v\n",
            *(f'{name},"{"" if value == "null" else value.replace(chr(34), chr(34) * 2)}"\n' for name, value in rows),
        ]
    ).encode()


@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("how", "kind"), [("parquet", None), *product(("records", "sql"), TYPES)], ids=lambda value: str(value)
)
def test_an_odd_value_affects_its_own_record_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, format: str, kind: Any
) -> None:
    (tmp_path / "keeping.py").write_text("def keep(record):\n    return record\n")
    monkeypatch.syspath_prepend(tmp_path)
    path, output = tmp_path / f"odd.{format}", tmp_path / "output"
    path.write_bytes(lines(format))
    columns = {} if kind is None else {"v": kind}
    with Rejects(tmp_path / "rejects", None, {"stage": 0, "index": 0, "sources": {}}) as rejected:
        if how == "sql":
            counts = run_query(
                "SELECT name FROM (SELECT name, v FROM input)",
                input=Source(path, declared=columns),
                inputs={},
                output=output,
                output_format="jsonl",
                params={},
                room=Room(1 << 30, 1, tmp_path / "spill"),
                rejected=rejected,
                check_input=lambda: None,
            )
        else:
            counts = apply_to_records(
                "keeping:keep",
                input=path,
                format=None,
                options={},
                columns=columns,
                output=output,
                output_format="jsonl" if how == "records" else "parquet",
                rejected=rejected,
                params={},
            )
    assert counts["records_in"] == len(ODD) + 2
    assert counts["records_out"] + counts["records_rejected"] == counts["records_in"]
    rejects = [json.loads(line) for line in (tmp_path / "rejects").read_text().splitlines()] if rejected.count else []
    assert all(reject["reason"] for reject in rejects)
    if how != "parquet":
        names = [json.loads(line, parse_int=str, parse_float=str)["name"] for line in output.read_bytes().splitlines()]
        assert (names[0], names[-1]) == (GOOD[0], GOOD[1])
    else:
        assert counts["records_out"] >= len(GOOD)


def test_lists_may_be_so_deep_and_no_deeper() -> None:
    deepest = "[" * DEPTH_MAX + "]" * DEPTH_MAX
    parse_json(deepest.encode())
    with pytest.raises(Malformed, match=f"more than {DEPTH_MAX} lists and objects within each other"):
        parse_json(f"[{deepest}]".encode())
