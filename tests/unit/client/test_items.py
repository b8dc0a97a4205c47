"""The commands of open jobs: items go up in chunks, values come down as lines."""

import json
from pathlib import Path

from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import Asked, Run, Service, answer, lines, problem

PATH = f"/v1/jobs/{JOB_ID}"


def test_items_are_appended_after_those_that_are_there(run: Run, service: Service, tmp_path: Path) -> None:
    sent = []

    def append(asked: Asked) -> object:
        sent.append(asked.body)
        chunks = 7 if len(sent) == 1 else asked.body["chunk"] + 1
        return answer({"job_id": JOB_ID, "chunks": chunks, "items": 1_203})

    service.on("POST", f"{PATH}/items", append)
    service.on("POST", f"{PATH}/close", answer(job()))
    (tmp_path / "items.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(1_200)) + "\n")

    result = run("append", JOB_ID, "items.jsonl", "--close")

    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID} 1203 items\n")
    assert [(body["chunk"], len(body["items"])) for body in sent] == [(0, 0), (7, 1_000), (8, 200)]
    assert len(service.requests("POST", f"{PATH}/close")) == 1


def test_a_chunk_fits_into_a_request_and_waits_while_the_job_is_full(
    run: Run, service: Service, tmp_path: Path
) -> None:
    sent: list[list[str]] = []

    def append(asked: Asked) -> object:
        sent.append(asked.body["items"])
        return answer({"job_id": JOB_ID, "chunks": len(sent), "items": sum(map(len, sent))})

    service.on("POST", f"{PATH}/items", append, *[problem(429)] * 7, append)
    items = ["a" * 200_000, "b" * 200_000, "c" * 200_000, "d"]
    (tmp_path / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))

    result = run("append", JOB_ID, "items.jsonl")

    assert (result.exit_code, result.stdout) == (0, f"{JOB_ID} 4 items\n")
    assert sent == [[], items[:2], items[2:]]


def test_a_line_that_is_not_json_is_named(run: Run, service: Service) -> None:
    service.on("POST", f"{PATH}/items", answer({"job_id": JOB_ID, "chunks": 1, "items": 0}))
    result = run("append", JOB_ID, "-", input="1\n{\n")
    assert result.exit_code == 2
    assert "line 2 is not JSON" in result.stderr


def test_a_job_is_closed(run: Run, service: Service) -> None:
    service.on("POST", f"{PATH}/close", answer(job()))
    assert run("close", JOB_ID).stdout == f"{JOB_ID} running\n"


def test_values_are_followed_to_the_end_of_the_job(run: Run, service: Service) -> None:
    value = {"index": 3, "state": "succeeded", "attempt": 1, "value": {"a": 1}, "url": None, "error": None}
    service.on(
        "GET",
        f"{PATH}/values",
        lines({"after": "5:1", "ended": False}),
        lines(value, {"after": "7", "ended": False}),
        lines(value, {"after": "9", "ended": True}),
    )
    result = run("values", JOB_ID, "--follow")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [value, value]
    assert "--after 9" in result.stderr
    assert [asked.query.get("after") for asked in service.requests("GET", f"{PATH}/values")] == [None, ["5:1"], ["7"]]


def test_values_that_are_there_are_printed_without_waiting(run: Run, service: Service) -> None:
    service.on("GET", f"{PATH}/values", lines({"after": "5", "ended": False}))
    result = run("values", JOB_ID, "--after", "4")
    assert (result.exit_code, result.stdout) == (0, "")
    [asked] = service.requests("GET", f"{PATH}/values")
    assert asked.query == {"after": ["4"], "wait": ["0.0"]}
