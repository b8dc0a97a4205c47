"""What shells offer while a command is typed: jobs, names and choices of the grid, at once or not at all."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.client.answers import JOB_ID, job, job_summary
from tests.unit.client.conftest import KEY, Answer, Asked, Service, answer
from tests.unit.client.test_commands import ALERT, BACKFILL, ID, POOL, PROCESSOR, SCHEDULE, page

FISH = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}


def offered(typed: str, url: str = "", shell: str = "bash", **environment: str) -> list[str]:
    """What completes the last word of what is typed."""
    words = f"piecework {typed}"
    environment |= {"_PIECEWORK_COMPLETE": f"complete_{shell}", "COMP_WORDS": words}
    environment |= {"COMP_CWORD": str(words.count(" ")), "_TYPER_COMPLETE_ARGS": words}
    if url:
        environment |= {"PIECEWORK_API_URL": url, "PIECEWORK_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "piecework"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture
def grid(service: Service) -> str:
    """The URL of a grid with two jobs, pools and processors."""

    def jobs(asked: Asked) -> Answer:
        [prefix] = asked.query.get("id_prefix", [""])
        found = [job_summary() | {"job_id": job_id, "name": "nightly", "state": "failed"} for job_id in (ID, JOB_ID)]
        return answer(page(*(one for one in found if one["job_id"].startswith(prefix))))

    service.on("GET", "/v1/jobs", jobs)
    service.on("GET", "/v1/pools", answer(page(POOL, POOL | {"name": "large"})))
    service.on("GET", "/v1/processors", answer(page(PROCESSOR, PROCESSOR | {"name": "count"})))
    service.on("GET", "/v1/schedules", answer(page(SCHEDULE)))
    service.on("GET", "/v1/schedules/month-end/backfills", answer(page(BACKFILL)))
    service.on("GET", "/v1/alerts", answer(page(ALERT)))
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job()))
    return service.url


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("watch ", [ID, JOB_ID]),
        (f"cancel {JOB_ID}", [JOB_ID]),
        ("job 0197", [ID, JOB_ID]),
        ("tasks 0197", [ID, JOB_ID]),
        ("webhooks deliveries --job ", [ID, JOB_ID]),
        ("schedules pause ", ["month-end"]),
        ("schedules pause 0197", [ID]),
        ("schedules cancel-backfill month-end ", [ID]),
        ("jobs --schedule m", ["month-end"]),
        ("alerts create late --schedule ", ["month-end"]),
        ("alert n", ["nightly"]),
        ("retry 0197 --with cl", ["clean"]),
        (f"retry {JOB_ID} --stage c", ["clean"]),
        ("pool la", ["large"]),
        ("pools pause d", ["default"]),
        ("workers list --pool ", ["default", "large"]),
        ("processors show c", ["clean", "count"]),
        ("submit --stage cl", ["clean"]),
        ("jobs --state f", ["failing", "failed"]),
        ("pools pa", ["pause"]),
    ],
)
def test_what_may_stand_there_is_offered(typed: str, words: list[str], grid: str) -> None:
    assert offered(typed, grid) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_in_its_own_way(shell: str, grid: str) -> None:
    told = "\n".join(offered("watch 0197", grid, shell, **(FISH if shell == "fish" else {})))
    assert ID in told
    assert JOB_ID in told
    assert ("nightly, failed" in told) == (shell != "bash")  # bash knows words alone


def test_options_that_were_typed_count(grid: str) -> None:
    assert offered(f"--api-url {grid} --api-key {KEY} watch 0197") == [ID, JOB_ID]
    assert offered(f"watch --api-url {grid} --api-key {KEY} 0197") == [ID, JOB_ID]


def test_contexts_are_offered_without_any_grid(tmp_path: Path) -> None:
    path = tmp_path / "config" / "piecework" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"current": None, "contexts": {"prod": {"api_url": "http://127.0.0.1:9"}}}))
    assert offered("jobs --context p") == ["prod"]
    assert offered("context use ") == ["prod"]


def test_a_grid_that_does_not_answer_delays_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert offered("watch ", f"http://127.0.0.1:{silent.getsockname()[1]}") == []
        assert time.monotonic() - started < 15
    assert offered("watch ", Service().url) == []
