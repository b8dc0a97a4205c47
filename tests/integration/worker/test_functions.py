"""Tasks of functions of items, as their rows, their attempts and S3 show them."""

from pathlib import Path
from typing import Any

from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants

CODE = """
import os

def double(item, **params):
    return 2 * item

def given(item):
    return [item, os.environ["PIECEWORK_TASK_NUMBER"], os.environ.get("PIECEWORK_INPUT")]

def repeat(item, *, times):
    print("repeating")
    return [item] * times

def fail(item):
    raise ValueError(f"no price for {item}")

def listed(item):
    return list(range(item))
"""


def items(*values: Any) -> list[dict[str, Any]]:
    return [{"type": "item", "value": value} for value in values]


async def test_values_are_in_the_rows_and_nothing_is_in_s3(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:double"}, items(*range(50)))
    tasks = await grid.run(job_id, bundle_tasks_max=20)
    assert [task["output"] for task in tasks] == [{"value": 2 * number} for number in range(50)]
    attempts = await grid.attempts(job_id)
    assert {(each["outcome"], each["log"], each["bytes_in"], each["bytes_out"]) for each in attempts} == {
        ("succeeded", None, 0, 0)
    }
    assert all(0 < each["run_seconds"] < 10 and each["memory_bytes_peak"] > 0 for each in attempts)
    assert await grid.keys() == []
    await assert_invariants(grid.database, job_id)


async def test_in_an_array_the_item_is_the_tasks_number(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    inputs = [{"type": "index", "count": 3}, {"type": "array_index", "number": 9, "count": 3}]
    job_id = await grid.submit({"function": "work:given"}, inputs)
    first, second = await grid.run(job_id)
    assert first["output"] == {"value": [0, "0", None]}
    assert second["output"]["value"][0] == 9


async def test_a_large_value_is_an_object_and_what_is_printed_is_a_log(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:repeat"}, items("x"), params={"times": 2000})
    (task,) = await grid.run(job_id)
    uri = f"s3://{grid.settings.bucket}/jobs/{job_id}/0/0-1/output.json"
    assert (task["output"]["uri"], task["output"]["bytes"]) == (uri, 8001)
    assert await grid.lines(uri) == [["x"] * 2000]
    (attempt,) = await grid.attempts(job_id)
    assert await grid.get(attempt["log"]) == b"repeating\n"
    assert attempt["bytes_out"] == 8001


async def test_a_function_after_it_gets_the_same_value_small_or_large(grid: InProcessGrid, code: Path) -> None:
    """A large one comes as the object that the task before has made."""
    (code / "work.py").write_text(CODE)
    large = await grid.put("jobs/x/0/0-1/output.json", b'{"total": [1, 2, 3]}')
    job_id = await grid.submit({"function": "work:given"}, [{"type": "object", **large}, *items({"total": [1, 2, 3]})])
    first, second = await grid.run(job_id)
    assert first["output"]["value"][0] == second["output"]["value"][0] == {"total": [1, 2, 3]}


async def test_an_exception_is_told_with_its_traceback_in_the_log(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:fail"}, items("X9"))
    (task,) = await grid.run(job_id)
    raised = task["error"].pop("raised")
    assert (task["state"], task["error"]) == (
        "failed",
        {"type": "exception", "message": "ValueError: no price for X9"},
    )
    assert (raised["class"], raised["args"]) == ("builtins:ValueError", ["no price for X9"])
    assert raised["traceback"].startswith("Traceback") and "in fail" in raised["traceback"]
    assert "services" not in raised["traceback"]
    (attempt,) = await grid.attempts(job_id)
    assert b"in fail" in await grid.get(attempt["log"])


async def test_an_exception_is_told_whatever_its_class_is_called_and_its_args_are(
    grid: InProcessGrid, code: Path
) -> None:
    (code / "work.py").write_text("def fail(item):\n    raise type('odd-error', (Exception,), {})(object(), '\\0')\n")
    (task,) = await grid.run(await grid.submit({"function": "work:fail"}, items(1)))
    assert task["error"]["type"] == "exception"
    assert task["error"]["raised"].keys() == {"class", "traceback"}
    assert task["error"]["raised"]["class"] == "work:odd-error"


async def test_a_fan_out_yields_the_list_that_it_returns(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:listed"}, items(3), fan_out=True)
    task = (await grid.run(job_id))[0]
    assert task["output"]["items"] == 3
    listed = await grid.lines(task["output"]["uri"])
    assert [each["value"] for each in listed] == [0, 1, 2]
