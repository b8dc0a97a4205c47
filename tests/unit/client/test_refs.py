"""What stands for an id on the command line: its beginning, a name, `@last`."""

import json
from typing import Any

import pytest

from tests.unit.client.answers import JOB_ID, TIME, WORKER_ID, job, job_summary, stage
from tests.unit.client.conftest import Answer, Asked, Run, Service, answer, problem
from tests.unit.client.test_commands import ALERT, API_KEY, BACKFILL, ENDPOINT, ID, ON_EC2, SCHEDULE, UPLOAD, page

OTHER = "01980000-0000-7000-8000-00000000000a"


@pytest.fixture
def jobs(service: Service) -> Service:
    """A grid with two jobs, of which each can be looked at."""
    known = [job_summary() | {"job_id": OTHER, "name": "nightly", "state": "failed"}]
    known += [job_summary() | {"job_id": JOB_ID, "name": "flights"}]

    def listed(asked: Asked) -> Answer:
        [prefix] = asked.query.get("id_prefix", [""])
        named, states = asked.query.get("name"), asked.query.get("state")
        found = [one for one in known if one["job_id"].startswith(prefix)]
        found = [one for one in found if named is None or one["name"] in named]
        return answer(page(*(one for one in found if states is None or one["state"] in states)))

    service.on("GET", "/v1/jobs", listed)
    for one in known:
        service.on("GET", f"/v1/jobs/{one['job_id']}", answer(job(job_id=one["job_id"], name=one["name"])))
    return service


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        (JOB_ID, JOB_ID),
        (JOB_ID.upper(), JOB_ID),
        ("0197", JOB_ID),
        ("01970000-0000", JOB_ID),
        ("nightly", OTHER),
        ("@last", OTHER),
        ("@-2", JOB_ID),
        ("@last-failed", OTHER),
        ("flights@last", JOB_ID),
    ],
)
def test_a_job_is_known_by_its_id_its_beginning_its_name_or_its_place(
    text: str, job_id: str, run: Run, jobs: Service
) -> None:
    result = run("job", text, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["job_id"] == job_id


def test_a_whole_id_is_not_looked_up(run: Run, jobs: Service) -> None:
    run("job", JOB_ID)
    assert [asked.path for asked in jobs.asked] == [f"/v1/jobs/{JOB_ID}"]


@pytest.mark.parametrize(("text", "mine"), [("@last", ["true"]), ("flights@last", None), ("flights", None)])
def test_the_last_one_without_a_name_is_your_own(text: str, mine: Any, run: Run, jobs: Service) -> None:
    run("job", text)
    assert jobs.asked[0].query.get("mine") == mine


@pytest.mark.parametrize("text", ["019", "0199", "nobody", "@-3", "nightly@last-running"])
def test_what_there_is_not_is_one_line(text: str, run: Run, jobs: Service) -> None:
    result = run("cancel", text)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error: there is no job ")
    assert text in result.stderr


def test_an_ambiguous_beginning_is_refused_with_the_candidates(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(2), job_summary(1))))
    result = run("cancel", "01970000")
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    for text in ("'01970000' is ambiguous", job_summary(1)["job_id"], job_summary(2)["job_id"], "write more of the id"):
        assert text in line
    assert [asked.method for asked in service.asked] == ["GET"]


def test_a_name_of_several_jobs_is_refused_with_what_to_write(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(2), job_summary(1))))
    assert "write more of the id, or flights@last for the newest" in run("cancel", "flights").stderr


def test_an_older_api_that_ignores_the_beginning_misleads_nobody(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(2), job_summary(1))))
    assert run("cancel", "0abc").exit_code == 3


@pytest.mark.parametrize("text", [ID[:8], "month-end", "@last"])
def test_schedules_are_known_in_the_same_ways(text: str, run: Run, service: Service) -> None:
    service.on("GET", "/v1/schedules", answer(page(SCHEDULE)))
    for named in (ID, "month-end"):  # which the API knows, too
        service.on("POST", f"/v1/schedules/{named}/pause", answer(SCHEDULE))
    assert run("schedules", "pause", text).stdout == f"{ID} paused\n"


@pytest.mark.parametrize("text", [ID, ID[:8], "@last"])
def test_backfills_are_known_within_their_schedule(text: str, run: Run, service: Service) -> None:
    service.on("GET", "/v1/schedules/month-end/backfills", answer(page(BACKFILL)))
    service.on("POST", f"/v1/schedules/month-end/backfills/{ID}/cancel", answer(BACKFILL))
    assert ID in run("schedules", "cancel-backfill", "month-end", text).stdout
    result = run("schedules", "cancel-backfill", "month-end", "@-2")
    assert (result.exit_code, result.stderr) == (3, "error: there is no backfill @-2\n")


@pytest.mark.parametrize("text", [ID, ID[:8], "nightly", "@last"])
def test_alerts_are_known_in_the_same_ways(text: str, run: Run, service: Service) -> None:
    def listed(asked: Asked) -> Answer:
        return answer(page(ALERT) if asked.query.get("name", ["nightly"]) == ["nightly"] else page())

    service.on("GET", "/v1/alerts", listed)
    service.on("GET", f"/v1/alerts/{ID}", answer(ALERT))
    assert run("alert", text, "-o", "name").stdout == f"{ID}\n"
    unknown = run("alert", "weekly")
    assert (unknown.exit_code, unknown.stdout) == (3, "")
    assert "there is no alert named 'weekly'" in unknown.stderr


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry", "hold", "release"])
def test_verbs_of_jobs_take_several_and_go_on_after_what_is_refused(verb: str, run: Run, service: Service) -> None:
    ended = "job flights has ended"
    service.on("POST", f"/v1/jobs/{JOB_ID}/{verb}", problem(409, ended))
    service.on("POST", f"/v1/jobs/{ID}/{verb}", answer(job(job_id=ID, state="paused", stages=[])))
    result = run(verb, JOB_ID, ID, JOB_ID)
    assert (result.exit_code, result.stdout, len(service.asked)) == (6, f"{ID} paused\n", 2)
    assert result.stderr == f"error: {JOB_ID}: {ended}\n"
    assert run(verb, JOB_ID, ID, "-o", "name").stdout == f"{ID}\n"
    assert json.loads(run(verb, ID, "--json").stdout)["job_id"] == ID


def test_none_of_several_is_changed_if_one_is_not_there(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page()))
    assert run("cancel", ID, "nightly").exit_code == 3
    assert [asked.method for asked in service.asked if asked.method != "GET"] == []
    result = run("cancel", ID, JOB_ID, "--item", "7")
    assert (result.exit_code, result.stderr) == (2, "error: --item: the items are of one job; name only this job\n")


def test_several_jobs_are_deleted_at_once(run: Run, service: Service) -> None:
    for job_id in (ID, JOB_ID):
        service.on("DELETE", f"/v1/jobs/{job_id}", answer({"job_id": job_id}))
    told = run("delete", ID, JOB_ID).stdout
    assert told == f"{ID}: schedulers delete it now\n{JOB_ID}: schedulers delete it now\n"


def test_options_take_them_too(run: Run, service: Service) -> None:
    service.on("GET", "/v1/schedules", answer(page(SCHEDULE)))
    service.on("GET", "/v1/jobs", answer(page(job_summary())))
    run("jobs", "--schedule", "month-end")
    assert service.asked[-1].query["schedule_id"] == [ID]


def test_what_goes_wrong_while_looking_up_is_one_line(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", problem(403, "this needs the role viewer"))
    assert run("job", "@last").stderr == "error: this needs the role viewer\n"


def test_a_stage_is_known_by_its_number_or_its_name(run: Run, service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job(stages=[stage(), stage(1, "sum")])))
    service.on("GET", f"/v1/jobs/{JOB_ID}/tasks", answer(page()))
    for text in ("1", "sum"):
        assert run("tasks", JOB_ID, "--stage", text).exit_code == 0
        assert service.asked[-1].query["stage"] == ["1"]
    result = run("task", JOB_ID, "smu", "0")
    assert (result.exit_code, result.stderr) == (3, f"error: job {JOB_ID} has no stage 'smu'; it has 0 clean, 1 sum\n")


@pytest.mark.parametrize("text", ["node-1", "i-1", "0197", "@last", "@last-active"])
def test_workers_are_known_by_their_hosts_and_instances(text: str, run: Run, service: Service) -> None:
    service.on("GET", "/v1/workers", answer(page(ON_EC2)))
    service.on("GET", f"/v1/workers/{WORKER_ID}", answer(ON_EC2))
    assert run("worker", text, "-o", "name").stdout == f"{WORKER_ID}\n"
    looked_through, _ = service.asked
    assert looked_through.query.get("state") == (None if text in ("0197", "@last-active") else ["active", "draining"])


def test_uploads_are_known_by_their_uris_and_endpoints_by_their_urls(run: Run, service: Service) -> None:
    service.on("GET", "/v1/uploads", answer(page(UPLOAD)))
    service.on("DELETE", f"/v1/uploads/{ID}", answer(None, 204))
    assert run("uploads", "abort", UPLOAD["uri"]).stdout == f"aborted {ID}\n"
    service.on("GET", "/v1/webhook-endpoints", answer(page(ENDPOINT)))
    service.on("GET", f"/v1/webhook-endpoints/{ID}", answer(ENDPOINT))
    assert run("webhook", ENDPOINT["url"], "-o", "name").stdout == f"{ID}\n"


def test_a_revoked_key_is_not_meant_by_a_name(run: Run, service: Service) -> None:
    service.on("GET", "/v1/api-keys", answer(page(API_KEY | {"key_id": OTHER, "revoked_at": TIME}, API_KEY)))
    service.on("DELETE", f"/v1/api-keys/{ID}", answer(None, 204))
    assert run("keys", "revoke", "nightly").stdout == f"revoked {ID}\n"
