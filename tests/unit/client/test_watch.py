"""Watching a job: what people and scripts see until it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from piecework import watch
from tests.unit.client.answers import ATTEMPT, JOB_ID, job, stage, task
from tests.unit.client.conftest import HANG_UP, Answer, Run, Service, answer, problem

JOB = f"/v1/jobs/{JOB_ID}"
TASKS = f"{JOB}/tasks"

HALF = job(stages=[stage(succeeded=2, running=1, queued=1), stage(1, "sum", "waiting", None, waiting=4)])
DONE = job("succeeded", [stage(state="succeeded", succeeded=4), stage(1, "sum", "succeeded", 1, succeeded=1)])
FAILED = job(
    "failed",
    [stage(state="failed", succeeded=2, failed=2)],
    error={"type": "stage_failed", "message": "2 tasks of stage clean failed"},
)
FAILURES = {
    "items": [
        task(1, "failed", error={"type": "exit_code", "message": "the command ended with exit code 3"}),
        task(2, "failed", error={"type": "timeout", "message": "ran longer than 5 s"}),
    ],
    "next_cursor": None,
}


@pytest.fixture
def failures(service: Service) -> None:
    """The failed tasks of FAILED: what the first printed is kept, the second printed nothing in its last attempt."""
    service.on("GET", TASKS, answer(FAILURES))
    attempts = {1: [ATTEMPT], 2: [ATTEMPT, ATTEMPT | {"attempt": 2, "log": None}]}
    for index, each in attempts.items():
        service.on("GET", f"{TASKS}/0/{index}", answer(task(index, "failed", attempts=each)))


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "OUTAGE_PAUSE_SECONDS", 0.01)


def test_a_stage_that_is_slowed_down_says_why(run: Run, service: Service) -> None:
    slowed = job(stages=[stage(succeeded=2, running=1) | {"slowed": True}])
    service.on("GET", JOB, answer(slowed), answer(DONE))
    assert "1 running, slowed down: most attempts fail" in run("watch", JOB_ID).stderr


NO_WORKERS = {
    "code": "no_workers",
    "message": "stage clean: pool gpu has no workers",
    "stage": 0,
    "since": "2026-01-31T16:00:00Z",
    "details": {"pool": "gpu"},
}


def test_a_job_that_waits_says_why_once_while_that_stays_so(run: Run, service: Service) -> None:
    waiting = job(stages=[stage(queued=3) | {"reasons": [NO_WORKERS]}], reasons=[NO_WORKERS])
    service.on("GET", JOB, answer(waiting), answer(waiting), answer(DONE))
    lines = run("watch", JOB_ID).stderr.splitlines()
    assert lines[0].endswith("3 queued: no workers")
    assert [line for line in lines if line.startswith("waits: ")] == ["waits: stage clean: pool gpu has no workers"]


def test_what_passes_in_any_job_is_told_in_a_word(run: Run, service: Service) -> None:
    busy = NO_WORKERS | {"code": "workers_busy", "message": "stage clean: all 4 slots of pool gpu are in use"}
    waiting = job(stages=[stage(queued=3) | {"reasons": [busy]}], reasons=[busy])
    service.on("GET", JOB, answer(waiting), answer(DONE))
    first, _ = run("watch", JOB_ID).stderr.splitlines()
    assert first.endswith("3 queued: workers busy")


def test_without_a_terminal_progress_is_lines_on_stderr(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), answer(DONE))
    result = run("watch", JOB_ID)
    assert result.exit_code == 0
    assert result.stdout == ""
    first, last = result.stderr.splitlines()
    assert re.fullmatch(r"flights running .* \| clean 2/4 1 running, 1 queued \| sum 0/\? waiting", first)
    assert re.fullmatch(r"flights succeeded 3 m 05 s \| clean 4/4 3 m 05 s succeeded \| sum 1/1 .*", last)


def test_a_job_that_succeeded_with_warnings_says_them(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(DONE | {"warnings": ["stage clean: 2 are unaccounted for"]}))
    result = run("watch", JOB_ID)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "warning: stage clean: 2 are unaccounted for")


def test_what_failed_is_not_counted_as_done(run: Run, service: Service) -> None:
    some = job(stages=[stage(succeeded=1, failed=2, running=1)])
    service.on("GET", JOB, answer(some), answer(job("cancelled", [stage(state="cancelled", succeeded=1, failed=3)])))
    first, last, *_ = run("watch", JOB_ID).stderr.splitlines()
    assert "clean 1/4 2 failed" in first
    assert "clean 1/4 3 failed" in last


def test_the_time_left_is_the_servers_and_a_paused_job_has_none(run: Run, service: Service) -> None:
    slow = stage(succeeded=3, running=1) | {"seconds_left": 35.0}
    service.on("GET", JOB, answer(job(stages=[slow])), answer(job("paused", [slow])), answer(DONE))
    first, paused, _ = run("watch", JOB_ID).stderr.splitlines()
    assert "clean 3/4 35 s left 1 running" in first
    assert "left" not in paused


def test_a_line_comes_only_when_something_changed(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), answer(HALF), answer(HALF), answer(DONE))
    assert len(run("watch", JOB_ID).stderr.splitlines()) == 2


@pytest.mark.usefixtures("failures")
def test_a_failed_job_says_why_and_exits_with_1(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), answer(FAILED))
    result = run("watch", JOB_ID)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-3:] == [
        "error: job flights failed: stage_failed: 2 tasks of stage clean failed",
        f"error: task clean 0 1: exit_code: the command ended with exit code 3 (piecework logs {JOB_ID} 0 1)",
        f"error: task clean 0 2: timeout: ran longer than 5 s (piecework task {JOB_ID} 0 2)",
    ]
    assert service.requests("GET", TASKS)[0].query == {"stage": ["0"], "state": ["failed"], "limit": ["3"]}


@pytest.mark.usefixtures("failures")
def test_the_first_failure_is_told_once(run: Run, service: Service) -> None:
    message = "stage 'clean': 2 failed tasks, 0 are tolerated; the first, task 1: the command ended with exit code 3"
    service.on("GET", JOB, answer(FAILED | {"error": {"type": "stage_failed", "message": message}}))
    told = run("watch", JOB_ID).stderr
    assert "error: job flights failed: stage_failed: stage 'clean': 2 failed tasks, 0 are tolerated\n" in told
    assert told.count("the command ended with exit code 3") == 1
    service.on("GET", TASKS, problem(500))
    assert message in run("watch", JOB_ID).stderr


def test_a_cancelled_job_exits_with_1(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(job("cancelled", [stage(state="cancelled", cancelled=4)])))
    result = run("watch", JOB_ID)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: job flights cancelled"


def test_tasks_that_were_cancelled_are_told(run: Run, service: Service) -> None:
    cancelling = job("cancelling", [stage(task_count=40, succeeded=18, failed=2, cancelled=15, running=5)])
    cancelled = job("cancelled", [stage(state="cancelled", task_count=40, succeeded=18, cancelled=22)])
    service.on("GET", JOB, answer(cancelling), answer(cancelled))
    first, last, _ = run("watch", JOB_ID).stderr.splitlines()
    assert "clean 18/40 2 failed, 15 cancelled 5 running" in first
    assert re.search(r"clean 18/40 22 cancelled .* cancelled$", last)


@pytest.mark.parametrize("unreadable", [TASKS, f"{TASKS}/0/1"])
@pytest.mark.usefixtures("failures")
def test_failures_stay_the_news_even_if_the_tasks_cannot_be_read(unreadable: str, run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(FAILED))
    service.on("GET", unreadable, problem(500))
    result = run("watch", JOB_ID)
    assert result.exit_code == 1
    assert "error: job flights failed" in result.stderr


def test_json_is_the_job_as_it_ended(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), answer(DONE))
    assert json.loads(run("watch", JOB_ID, "--json").stdout) == DONE


@pytest.mark.parametrize("outage", [HANG_UP, problem(503, "the database is away"), problem(500, "a bug")])
def test_watching_outlives_an_outage_and_says_so_once(outage: Answer, run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), *[outage] * 10, answer(DONE))
    result = run("watch", JOB_ID)
    assert result.exit_code == 0
    assert [line for line in result.stderr.splitlines() if "API" in line] == [
        line
        for line in result.stderr.splitlines()
        if "no answer from the API, trying on" in line or "answers again" in line
    ]
    assert result.stderr.count("no answer from the API, trying on: ") == 1
    assert result.stderr.count("the API answers again") == 1


def test_watching_may_start_during_an_outage(run: Run, service: Service) -> None:
    service.on("GET", JOB, *[HANG_UP] * 10, answer(DONE))
    result = run("watch", JOB_ID)
    assert result.exit_code == 0
    said, again, last = result.stderr.splitlines()
    assert said.startswith(f"no answer from the API, trying on for 30 s: can't reach the API at {service.url}: ")
    assert again == "the API answers again"
    assert last.startswith("flights succeeded")


def test_the_first_answer_is_not_waited_for_forever(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST_ANSWER_SECONDS", 0.2)
    service.on("GET", JOB, HANG_UP)
    result = run("watch", JOB_ID)
    assert (result.exit_code, result.stdout) == (5, "")
    said, error = result.stderr.splitlines()
    assert said.startswith("no answer from the API, trying on for 0.2 s: ")
    assert error.startswith(f"error: can't reach the API at {service.url}: ")


def test_a_revoked_key_ends_watching(run: Run, service: Service) -> None:
    service.on("GET", JOB, answer(HALF), problem(401, "this API key is unknown or revoked"))
    assert run("watch", JOB_ID).exit_code == 4


def test_an_unknown_job_is_not_waited_for(run: Run, service: Service) -> None:
    assert run("watch", JOB_ID).exit_code == 3


@pytest.mark.usefixtures("failures")
def test_submit_can_watch_and_still_prints_the_id_alone(run: Run, service: Service) -> None:
    service.on("POST", "/v1/jobs", answer(job(), 201))
    service.on("GET", JOB, answer(FAILED))
    result = run("submit", "--count", "4", "--processor", "noop", "--watch")
    assert (result.exit_code, result.stdout) == (1, f"{JOB_ID}\n")


def command(service: Service, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "PIECEWORK_API_URL": service.url, "COLUMNS": "120", "TERM": "xterm-256color"}
    return [sys.executable, "-m", "piecework", *arguments], environment


def test_interrupting_leaves_the_job_alone(service: Service, tmp_path: Path) -> None:
    service.on("GET", JOB, answer(HALF))
    arguments, environment = command(service, "watch", JOB_ID)
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "clean 2/4" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate()
    assert process.returncode == 130
    assert rest == f"no longer watching; the job goes on: piecework watch {JOB_ID}\n"
    assert all(asked.method == "GET" for asked in service.asked)


def test_a_terminal_shows_bars(service: Service) -> None:
    service.on("GET", JOB, answer(HALF), answer(HALF), answer(DONE))
    arguments, environment = command(service, "watch", JOB_ID)
    terminal, side = pty.openpty()
    with subprocess.Popen(arguments, env=environment, stdout=side, stderr=side) as process:
        os.close(side)
        shown = read_all(terminal)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"flights  running", text)
    assert re.search(r"clean ━+.* 2/4 +1 running, 1 queued", text)
    assert re.search(r"sum +━+ 0/\? +waiting", text)
    assert re.search(r"flights  succeeded  3 m 05 s", text)
    assert re.search(r"clean ━+ 4/4 +3 m 05 s +succeeded", text)


def read_all(terminal: int) -> str:
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65_536)
        except OSError:  # Linux's way to say that the other side is closed
            chunk = b""
        if not chunk:
            os.close(terminal)
            return shown.decode()
        shown += chunk
