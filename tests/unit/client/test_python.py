"""The Python client as its users import it."""

import re
from pathlib import Path
from typing import Any

import pytest

import piecework
from piecework import Client, watch
from piecework.cli.exits import TABLE
from tests.unit.client.answers import JOB_ID, job
from tests.unit.client.conftest import Service, answer


def test_every_public_name_is_there() -> None:
    for name in piecework.__all__:
        assert getattr(piecework, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        piecework.Cleint  # noqa: B018


def test_every_request_names_the_client_and_its_version(client: Client, service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job()))
    client.get_job(JOB_ID)
    assert service.asked[0].headers["user-agent"] == f"piecework/{piecework.__version__}"


def test_waiting_ends_with_the_job(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.001)
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job()), answer(job("paused")), answer(job("cancelled")))
    assert piecework.wait_for_job(client, job())["state"] == "cancelled"
    assert len(service.asked) == 3


def test_a_job_may_be_waited_for_by_its_id(client: Client, service: Service) -> None:
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("succeeded")))
    assert piecework.wait_for_job(client, JOB_ID)["state"] == "succeeded"


def test_the_readme_tells_the_exit_codes() -> None:
    readme = (Path(__file__).parents[3] / "client" / "README.md").read_text()
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)}
    assert told == set(TABLE)


def test_the_example_of_the_package_runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIECEWORK_API_URL", service.url)
    service.on("POST", "/v1/jobs", answer(job(), 201))
    service.on("GET", f"/v1/jobs/{JOB_ID}", answer(job("succeeded")))
    assert piecework.__doc__ is not None
    _, example = piecework.__doc__.split("\n\n", 1)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["job"]["state"] == "succeeded"
