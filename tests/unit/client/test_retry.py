"""`piecework retry` and `submit --again`: what they ask for, and what they refuse before they ask."""

from typing import Any

import pytest

from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import Run, Service, answer

RETRY = f"/v1/jobs/{JOB_ID}/retry"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ("", None),
        ("--latest", {"latest": True}),
        ("--with clean@4 --with sum", {"processors": ["clean@4", "sum"]}),
        ("--stage clean --only-failed", {"stage": "clean", "only_failed": True}),
        ("--stage 1 --tasks 3,10-12", {"stage": 1, "tasks": [3, 10, 11, 12]}),
        ("--accept-changed", {"accept_changed": True}),
    ],
)
def test_a_retry_asks_for_what_its_options_say(
    run: Run, service: Service, options: str, body: dict[str, Any] | None
) -> None:
    service.on("POST", RETRY, answer(job()))

    done = run("retry", JOB_ID, *options.split())

    assert done.exit_code == 0, done.output
    [asked] = service.asked
    assert (asked.body if asked.content else None) == body


def test_a_retry_without_new_code_says_which_versions_run(run: Run, service: Service) -> None:
    service.on("POST", RETRY, answer(job()))

    assert "it runs clean@1, as before; --latest takes the newest" in run("retry", JOB_ID).stderr
    assert run("retry", JOB_ID, "--latest").stderr == ""


@pytest.mark.parametrize(
    ("tasks", "fix"),
    [("3,x", "write numbers and ranges"), ("5-3", "ends before it begins"), ("0-20000", "more than 10,000")],
)
def test_tasks_other_than_numbers_are_refused(run: Run, service: Service, tasks: str, fix: str) -> None:
    done = run("retry", JOB_ID, "--stage", "0", "--tasks", tasks)

    assert done.exit_code != 0
    assert fix in done.stderr
    assert service.asked == []


SPEC = {
    "name": "nightly",
    "input": {"type": "lines", "uri": "s3://b/a.csv", "csv": None},
    "stages": [{"name": "clean", "processor": "clean", "params": {"x": 1}}, {"name": "sum", "processor": "sum@3"}],
    "run_at": "2026-01-01T00:00:00Z",
}


def again(run: Run, service: Service, *options: str) -> Any:
    """What is submitted."""
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job(spec=SPEC)))
    service.on("POST", "/v1/jobs", answer(job(), 201))
    done = run("submit", "--again", JOB_ID, *options)
    assert done.exit_code == 0, done.output
    return service.asked[-1].body


def test_a_job_is_submitted_again_now_with_single_fields_changed(run: Run, service: Service) -> None:
    options = ["--set", "stages.0.params.x=2", "--set", "stages.sum.processor=sum", "--set", "labels.try=second"]

    asked = again(run, service, *options, "--name", "once more")

    clean, total = SPEC["stages"]
    assert asked == {
        "name": "once more",
        "input": SPEC["input"],
        "stages": [{**clean, "params": {"x": 2}}, {**total, "processor": "sum"}],
        "labels": {"try": "second"},
    }


@pytest.mark.parametrize(
    ("field", "fix"),
    [
        ("stages.2.params.x=2", r"there is no stages.2 (there are: 0 (clean), 1 (sum))"),
        ("name.x.y=2", "name is 'nightly', which has no fields"),
        ("name", "write FIELD=VALUE"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(run: Run, service: Service, field: str, fix: str) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job(spec=SPEC)))

    done = run("submit", "--again", JOB_ID, "--set", field)

    assert done.exit_code != 0
    assert fix in " ".join(done.stderr.split())


def test_a_job_file_and_an_earlier_job_exclude_each_other(run: Run, service: Service) -> None:
    done = run("submit", "job.yaml", "--again", JOB_ID)

    assert done.exit_code != 0
    assert "give one of the two" in done.stderr
