"""What commands print: `-o`, `--sort`, `--since`, `--quiet`, and what a terminal gets and a pipe does not."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from piecework.display import console, table
from tests.unit.client.answers import JOB_ID, job, job_summary, task
from tests.unit.client.conftest import KEY, Run, Service, answer
from tests.unit.client.test_commands import (
    ALERT,
    ALERT_MESSAGE,
    BACKFILL,
    DELIVERY,
    ENDPOINT,
    FAILURE_KIND,
    ID,
    INCIDENT,
    POOL,
    PROCESSOR,
    RUN,
    UPLOAD,
    page,
)

FAILURES = {"items": [FAILURE_KIND], "complete": True}


def test_yaml_says_what_json_says(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(1))))
    assert yaml.safe_load(run("jobs", "-o", "yaml").stdout) == json.loads(run("jobs", "-o", "json").stdout)


@pytest.mark.parametrize(
    ("arguments", "path", "shape", "names"),
    [
        ("jobs -o name", "/v1/jobs", page({"job_id": ID, "schedule_id": JOB_ID}), [ID]),
        (f"-o name job {JOB_ID}", f"/v1/jobs/{JOB_ID}", job(), [JOB_ID]),
        ("pools list -o name", "/v1/pools", page(POOL), ["default"]),
        ("processors list -o name", "/v1/processors", page(PROCESSOR), ["clean@3"]),
        (f"tasks {JOB_ID} -o name", f"/v1/jobs/{JOB_ID}/tasks", page(task(17)), ["0 17"]),
        ("webhooks list -o name", "/v1/webhook-endpoints", page(ENDPOINT), [ID]),
        ("webhooks deliveries -o name", "/v1/webhook-deliveries", page(DELIVERY), [ID]),
        ("uploads list -o name", "/v1/uploads", page(UPLOAD), [ID]),
        ("jobs -o name", "/v1/jobs", page(), []),
        (f"failures {JOB_ID} -o name", f"/v1/jobs/{JOB_ID}/failures", FAILURES, ["3f2a91c07bd4"]),
        ("alerts -o name", "/v1/alerts", page(ALERT), [ID]),
        ("alerts messages nightly -o name", f"/v1/alerts/{ID}/messages", page(ALERT_MESSAGE), [ID]),
        ("schedules backfills nightly -o name", "/v1/schedules/nightly/backfills", page(BACKFILL), [ID]),
        ("schedules runs nightly -o name", "/v1/schedules/nightly/runs", page(RUN, RUN | {"job_id": None}), [ID]),
    ],
)
def test_names_are_for_the_next_command(
    arguments: str, path: str, shape: Any, names: list[str], run: Run, service: Service
) -> None:
    service.on("GET", "/v1/alerts", answer(page(ALERT)))
    service.on("GET", path, answer(shape))
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout.splitlines(), result.stderr) == (0, names, "")


def test_what_has_no_names_says_so(run: Run, service: Service) -> None:
    service.on("GET", "/v1/stats/costs", answer({"items": [{"day": "2026-01-31", "pool": "default"}]}))
    result = run("costs", "-o", "name")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: -o name: what this prints has no names; write -o json\n"


def names(stdout: str) -> list[str]:
    return [item["name"] for item in json.loads(stdout)["items"]]


@pytest.mark.parametrize(
    ("field", "order"),
    [("name", "abc"), ("-name", "cba"), ("progress.failed", "bac"), ("-created", "cab"), ("finished_at", "acb")],
)
def test_lists_are_sorted_by_a_field_of_all_that_there_is(field: str, order: str, run: Run, service: Service) -> None:
    b = job_summary(1, name="b", created_at="2026-01-01T00:00:00Z", finished_at=None)
    a = job_summary(2, name="a", created_at="2026-01-02T00:00:00Z", finished_at="2026-01-03T00:00:00Z")
    c = job_summary(3, name="c", created_at="2026-01-03T00:00:00Z", finished_at="2026-01-04T00:00:00Z")
    for one, failed in ((b, 0), (a, 1), (c, 2)):
        one["progress"] = one["progress"] | {"failed": failed}
    service.on("GET", "/v1/jobs", answer({"items": [b, a], "next_cursor": "x"}), answer(page(c)))
    assert names(run("jobs", "--sort", field, "--json").stdout) == list(order)


def test_the_limit_counts_what_is_sorted(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(*(job_summary(number, name=f"{number}") for number in range(9)))))
    assert names(run("jobs", "--sort", "-name", "--limit", "2", "--json").stdout) == ["8", "7"]


def test_an_unknown_field_says_what_there_is(run: Run, service: Service) -> None:
    service.on("GET", "/v1/pools", answer(page(POOL)))
    result = run("pools", "list", "--sort", "size")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--sort: there is no field 'size' to sort by; there are capacity_desired, " in result.stderr


def test_since_ends_the_listing_where_things_get_older(run: Run, service: Service) -> None:
    now = datetime.now(UTC)
    ages = [timedelta(minutes=1), timedelta(hours=1), timedelta(hours=3)]
    jobs = [job_summary(3 - n, name=f"{n}", created_at=(now - age).isoformat()) for n, age in enumerate(ages)]
    service.on("GET", "/v1/jobs", answer({"items": jobs, "next_cursor": "more"}))
    result = run("jobs", "--since", "2h", "--all", "--json")
    assert names(result.stdout) == ["0", "1"]
    assert len(service.asked) == 1
    assert names(run("jobs", "--since", (now - timedelta(minutes=9)).isoformat(), "--json").stdout) == ["0"]


@pytest.mark.parametrize(
    ("command", "path", "item", "field"),
    [
        ("schedules runs nightly", "/v1/schedules/nightly/runs", RUN, "scheduled_at"),
        ("schedules backfills nightly", "/v1/schedules/nightly/backfills", BACKFILL, "created_at"),
        ("alerts messages nightly", f"/v1/alerts/{ID}/messages", ALERT_MESSAGE, "created_at"),
        ("alerts incidents nightly", f"/v1/alerts/{ID}/incidents", INCIDENT, "found_at"),
    ],
)
def test_since_goes_by_the_time_that_lists_are_ordered_by(
    command: str, path: str, item: Any, field: str, run: Run, service: Service
) -> None:
    service.on("GET", "/v1/alerts", answer(page(ALERT)))
    newer, older = (item | {field: f"2027-0{month}-01T00:00:00Z"} for month in (2, 1))
    service.on("GET", path, answer(page(newer, older)))
    result = run(*command.split(), "--since", "2027-01-31T17:00:00+01:00", "--json")
    assert [each[field] for each in json.loads(result.stdout)["items"]] == ["2027-02-01T00:00:00Z"], result.stderr


def test_since_is_passed_on_where_the_api_knows_it(run: Run, service: Service) -> None:
    service.on("GET", "/v1/audit", answer(page()))
    run("audit", "--since", "2027-01-31T17:00:00+01:00")
    assert datetime.fromisoformat(service.asked[0].query["since"][0]) == datetime(2027, 1, 31, 16, tzinfo=UTC)


def test_a_time_that_is_none_says_how_to_write_one(run: Run) -> None:
    result = run("jobs", "--since", "yesterday")
    assert result.exit_code == 2
    assert "'yesterday' is not a time; write how long ago, such as 2h or 3d" in result.stderr


def test_quiet_leaves_results_and_errors(run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer({"items": [job_summary(1)], "next_cursor": "c"}))
    assert run("jobs", "--quiet").stderr == ""
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("failed", error={"type": "lost", "message": "it is lost"})))
    result = run("-q", "watch", JOB_ID)
    assert result.exit_code == 1
    assert result.stderr == "error: job flights failed: lost: it is lost\n"


def test_h_is_help(run: Run) -> None:
    for arguments in (["-h"], ["jobs", "-h"], ["pools", "-h"], ["pools", "put", "-h"]):
        assert "Usage: piecework" in run(*arguments).stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("wide", "cut"), [(False, True), (True, False)])
def test_wide_cuts_nothing_on_a_terminal(wide: bool, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    table(console(terminal, wide=wide), ["~NAME", "?ERROR"], [("x" * 60, "why")])
    assert ("…" in terminal.getvalue()) == cut


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the command prints on a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "piecework", *arguments],
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"} | environment,
        stdout=theirs,
    )
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 4096):
            printed += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert done.wait() == 0
    return printed.decode()


def test_colours_are_for_terminals_that_want_them(service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary(1, state="failed"))))
    arguments = ("jobs", "--api-url", service.url, "--api-key", KEY)
    assert "\x1b[31mfailed" in on_a_terminal(*arguments)
    without = on_a_terminal(*arguments, NO_COLOR="1")
    assert "failed" in without
    assert "\x1b[31m" not in without


@pytest.mark.parametrize(
    ("width", "shown"), [(50, "NAME WHY CREATED OWNER"), (41, "NAME CREATED OWNER"), (24, "NAME CREATED"), (12, "NAME")]
)
def test_where_space_is_short_columns_that_say_nothing_go_first(
    width: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    rows = [("a" * 10, "-", "5 m ago", "anna" * 4), ("b" * 10, "", "6 m ago", "ben" * 4)]
    table(console(terminal), ["NAME", "?WHY", "?CREATED", "?OWNER"], rows)
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()[0].split() == shown.split()
