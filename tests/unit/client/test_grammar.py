"""One grammar: NOUN VERB everywhere, what a noun means alone, and verbs of jobs without their noun."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from piecework.cli import app
from tests.unit.client.answers import JOB_ID, job, job_summary, task
from tests.unit.client.conftest import Run, Service, answer
from tests.unit.client.test_commands import ID, POOL, SCHEDULE, page

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("jobs", "jobs list"),
        ("jobs --state failed", "jobs list --state failed"),
        ("jobs --limit 1 -o name", "jobs list --limit 1 -o name"),
        ("jobs -o name --limit 1", "jobs list -o name --limit 1"),
        ("--json jobs", "jobs list --json"),
        (f"job {JOB_ID}", f"jobs show {JOB_ID}"),
        (f"job -ojson {JOB_ID}", f"jobs show {JOB_ID} -o json"),
        (f"cancel {JOB_ID}", f"jobs cancel {JOB_ID}"),
        (f"job cancel {JOB_ID}", f"jobs cancel {JOB_ID}"),
        (f"tasks {JOB_ID}", f"tasks list {JOB_ID}"),
        (f"tasks {JOB_ID} --state failed", f"tasks list {JOB_ID} --state failed"),
        (f"task {JOB_ID} 0 17", f"tasks show {JOB_ID} 0 17"),
        ("pools", "pools list"),
        ("pool default", "pools show default"),
        ("pool pause default", "pools pause default"),
        ("pools --json list", "pools list --json"),
        (f"schedule {ID}", f"schedules show {ID}"),
        ("quotas", "quotas show"),
    ],
)
def test_each_way_of_saying_a_thing_is_the_same_request(typed: str, meant: str, run: Run, service: Service) -> None:
    service.on("GET", "/v1/jobs", answer(page(job_summary())))
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job()))
    service.on("POST", f"/v1/jobs/{JOB_ID}/cancel", answer(job("cancelling")))
    service.on("GET", f"/v1/jobs/{JOB_ID}/tasks", answer(page(task())))
    service.on("GET", f"/v1/jobs/{JOB_ID}/tasks/0/17", answer({**task(17), "attempts": []}))
    service.on("GET", "/v1/pools", answer(page(POOL)))
    service.on("GET", "/v1/pools/default", answer(POOL))
    service.on("POST", "/v1/pools/default/pause", answer(POOL))
    service.on("GET", f"/v1/schedules/{ID}", answer(SCHEDULE))
    service.on("GET", "/v1/quotas", answer({"quotas": [], "own": {}}))
    short, long = run(*typed.split()), run(*meant.split())
    assert (short.exit_code, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    first, second = service.asked
    assert (first.method, first.path, first.query) == (second.method, second.path, second.query)


def test_every_noun_lists_or_shows_alone() -> None:
    for name, group in get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(group, "commands"):
            assert {"list", "show"} & group.commands.keys(), name


def test_a_noun_says_what_can_be_done_with_it(run: Run) -> None:
    text = run("jobs", "-h").stdout
    for verb in ("list", "show", "submit", "watch", "wait", "cancel", "retry", "logs", "results", "cost"):
        assert f"│ {verb} " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pools lits", "No such command 'lits'. Did you mean 'list'?"),
        ("schedules --cron", "No such option: --cron"),
        ("job", "Missing argument 'JOB'"),
        ("pool", "Missing argument 'POOL'"),
        ("tasks", "Missing argument 'JOB'"),
        ("boat", "No such command 'boat'."),
    ],
)
def test_what_is_said_wrongly_is_one_line(arguments: str, message: str, run: Run, service: Service) -> None:
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert message in line
    assert not service.asked


def test_the_page_has_each_noun_with_its_verbs() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*) \|$", (ROOT / "docs" / "cli.md").read_text(), re.M)
    written = {
        noun: set(re.findall(r"`([\w-]+)`", verbs)) for nouns, verbs in rows for noun in re.findall(r"\w+", nouns)
    }
    for noun, group in get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(group, "commands"):
            assert group.commands.keys() - {"list"} <= written[noun], noun
