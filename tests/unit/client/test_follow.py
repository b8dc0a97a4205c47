"""The log of a running task is printed as it grows, until the task has ended."""

import pytest

from piecework.cli import logs
from tests.unit.client.answers import JOB_ID, task
from tests.unit.client.conftest import Answer, Run, Service, answer, problem

TASK = f"/v1/jobs/{JOB_ID}/tasks/0/7"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.0)


def play(service: Service, *looks: tuple[str, int, bytes | None]) -> None:
    """At each look the task's state, the attempt whose log there is, and what it holds; None: S3 has none yet."""
    service.on("GET", TASK, *(answer({**task(7, state), "attempts": []}) for state, _, _ in looks))
    found = [
        answer({"attempt": attempt, "uri": "s3://b/log", "url": f"{service.url}/log{n}", "running": state == "running"})
        for n, (state, attempt, _) in enumerate(looks)
    ]
    service.on("GET", f"{TASK}/log", *found)
    for number, (_, _, text) in enumerate(looks):
        missing = Answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
        service.on("GET", f"/log{number}", missing if text is None else Answer(200, text))


def test_what_is_new_is_printed(run: Run, service: Service) -> None:
    play(
        service,
        ("running", 1, None),
        ("running", 1, b"one\n"),
        ("running", 1, b"one\ntwo\n"),
        ("succeeded", 1, b"one\ntwo\nthree\n"),
    )
    assert run("logs", JOB_ID, "0", "7", "--follow").stdout == "one\ntwo\nthree\n"
    assert service.requests("GET", f"{TASK}/log")[0].query == {"live": ["true"]}


def test_the_log_of_another_attempt_is_printed_whole(run: Run, service: Service) -> None:
    play(service, ("running", 1, b"one\n"), ("running", 2, b"one\n"), ("failed", 2, b"one\ntwo\n"))
    result = run("logs", JOB_ID, "0", "7", "-f")
    assert result.stdout == "one\none\ntwo\n"
    assert "attempt 2" in result.stderr


def test_of_a_log_that_is_cut_the_end_goes_on(run: Run, service: Service) -> None:
    long = b"".join(b"line %d\n" % n for n in range(100))
    cut = b"line 0\n[piecework: 700 bytes left out here, log_bytes_max is 900]\n" + long[-300:] + b"more\n"
    play(service, ("running", 1, long), ("succeeded", 1, cut))
    assert run("logs", JOB_ID, "0", "7", "-f").stdout == long.decode() + "more\n"


def test_a_task_that_prints_nothing_ends_too(run: Run, service: Service) -> None:
    play(service, ("succeeded", 1, b""))
    service.on("GET", f"{TASK}/log", problem(404, "not-found", "there is no log"))
    result = run("logs", JOB_ID, "0", "7", "--follow")
    assert (result.stdout, "printed nothing" in result.stderr) == ("", True)


@pytest.mark.parametrize("arguments", [(), ("0",), ("0", "7", "--attempt", "1"), ("0", "7", "--json")])
def test_one_task_is_followed(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("logs", JOB_ID, *arguments, "--follow")
    assert result.exit_code == 2 and "--follow: name one task" in result.stderr
