"""Waiting in scripts: what `piecework wait` prints, and its exit codes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from piecework import watch
from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import HANG_UP, KEY, Run, Service, answer
from tests.unit.client.test_commands import ID


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.001)


def states(service: Service, first: str, second: str = "succeeded") -> None:
    """Two jobs that go on for a while and then end so."""
    for job_id, state in ((JOB_ID, first), (ID, second)):
        answers = [answer(job(each, [], job_id=job_id)) for each in ("running", "running", state)]
        service.on("GET", f"/v1/jobs/{job_id}", *answers)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("succeeded", "succeeded", 0),
        ("failed", "succeeded", 1),
        ("succeeded", "cancelled", 7),
        ("cancelled", "failed", 1),
    ],
)
def test_the_exit_code_says_how_the_jobs_have_ended(
    first: str, second: str, code: int, run: Run, service: Service
) -> None:
    states(service, first, second)
    result = run("wait", JOB_ID, ID)
    assert result.exit_code == code
    assert result.stdout == f"{JOB_ID} {first}\n{ID} {second}\n"
    assert result.stderr.count("error: job flights ") == [first, second].count("failed") + [first, second].count(
        "cancelled"
    )


def test_programs_get_the_jobs_as_they_have_ended(run: Run, service: Service) -> None:
    states(service, "succeeded")
    ended = json.loads(run("wait", JOB_ID, ID, "--json").stdout)["items"]
    assert [(one["job_id"], one["state"]) for one in ended] == [(JOB_ID, "succeeded"), (ID, "succeeded")]
    assert run("wait", JOB_ID, ID, "-o", "name").stdout.split() == [JOB_ID, ID]


def test_the_time_is_limited_for_all_of_them(run: Run, service: Service) -> None:
    states(service, "succeeded", "running")
    started = time.monotonic()
    result = run("wait", JOB_ID, ID, "--timeout", "300ms")
    assert result.exit_code == 124
    assert result.stdout == f"{JOB_ID} succeeded\n"
    assert result.stderr == f"error: job flights ({ID}) is still running\n"
    assert time.monotonic() - started < 10


def test_a_time_that_is_none_is_refused(run: Run, service: Service) -> None:
    result = run("wait", JOB_ID, "--timeout", "soon")
    assert result.exit_code == 2
    assert "'soon' is not a duration; write for example 30s" in result.stderr


def test_interrupting_says_that_the_jobs_go_on(service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job()))
    command = [sys.executable, "-m", "piecework", "wait", JOB_ID, "--api-url", service.url, "--api-key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not service.asked:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "no longer waiting; the jobs go on\n")


def test_interrupting_an_upload_says_how_to_go_on(service: Service, tmp_path: Path) -> None:
    part = {"number": 1, "bytes": 5, "url": f"{service.url}/part"}
    upload = {"upload_id": "u", "uri": "s3://b/claims.csv", "part_bytes": 5, "parts": [part]}
    service.on("POST", "/v1/uploads", answer(upload, 201))
    service.on("PUT", "/part", HANG_UP)
    service.on("POST", "/v1/jobs", answer(job()))  # a dry run, before anything is uploaded
    (tmp_path / "claims.csv").write_bytes(b"a,b\n1")
    command = [sys.executable, "-m", "piecework", "--api-url", service.url, "--api-key", KEY, "submit"]
    command += ["--upload", "claims.csv", "--stage", "noop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any(asked.path == "/part" for asked in service.asked):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-2:] == [
        f"interrupted; to go on with it: piecework upload {tmp_path}/claims.csv --resume @last",
        "nothing was submitted",
    ]
